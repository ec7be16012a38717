"""The words of the pages: none that people stumbled over, no raw backticks, and one of a thing counted as one."""

import re
from pathlib import Path

import pytest
from django.urls import reverse

from fmv.mongodb.server import server_now
from robots import floor_plans
from robots.plan_files import Placement, read_picture
from tasks.models import Status
from tests.admin.test_admin_frame import addresses
from tests.admin.test_page_costs import stored_bulk
from tests.support.factories import make_finished, make_robot, make_task, make_token
from tests.support.pages import admin, robot_url, task_url
from tests.support.plan_files import png
from tests.support.probes import make_task_in

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).parents[2]
RIDDLES = (
    "more wait for their time",
    "Keep it: it waits",
    "starts nothing more until",
    "Clear it instead of",
    "Programs cannot act in",
    "It has logged nothing",
    "all of it, by the API",
    "the highest took",
    "Cancel all there are",
    "See what is said beside",
    "Empty is none",
    "by chance from",
    "the greater first",
    "Put in service again",
)
HELP_OF_AN_EARLIER_MODEL = "fmv/accounts/models.py"  # the form has another
ONE_AS_MANY = re.compile(
    r"(?<![\d,.])1 (?:(?:finished|failed|waiting|queued|new|faulty|audit|other|more) )?"
    r"(?:tasks|robots|workers|processes|rows|entries|attempts|failures|handlers|runs|lines|tokens|users|lanes|maps)\b"
)


def test_no_page_says_what_people_stumbled_over():
    files = [
        *ROOT.glob("templates/**/*.html"),
        *(f for room in ("fmv", "robots", "tasks") for f in ROOT.glob(f"{room}/**/*.py")),
    ]
    assert len(files) > 200
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        if "/migrations/" not in name and name != HELP_OF_AN_EARLIER_MODEL:
            said = " ".join(file.read_text().split())
            assert [riddle for riddle in RIDDLES if riddle in said] == [], name


def shown(page: str) -> str:
    """Return the text of a page without what no one reads, and without code."""
    for unread in ("script", "style", "code", "pre", "textarea", "title"):
        page = re.sub(rf"<{unread}\b.*?</{unread}>", "", page, flags=re.DOTALL)
    return " ".join(re.sub("<[^>]*>", " ", page).split())


def test_no_page_has_raw_backticks_or_counts_one_as_many():
    client = admin(is_superuser=True, username="root")
    make_robot(name="R2", labels=["one"])
    waits = make_task_in(Status.QUEUED, robot="R2")
    failed = make_finished(server_now(), "FAILURE", robot="R2")
    make_task(robot="R2", status="SUCCESS", retry_of=failed.pk, finished_at=server_now())
    make_token(robot="R2")
    stored_bulk()
    floor_plans.store("hall", Placement(0.05, 0, 0, 0), read_picture(png(20, 10)), by="leela")
    pages = [
        *addresses(),
        *(robot_url("R2", page) for page in ("run", "hold", "move", "out", "connect", "edit")),
        *(task_url(waits), task_url(waits, "place"), task_url(failed)),
        *map(reverse, ("admin:find", "admin:timeline", "admin:compare", "admin:map", "admin:map_plan")),
        *map(reverse, ("admin:settings", "admin:import_robots")),
        *("/admin/find/?q=R2", "/admin/timeline/robot/R2/", "/admin/map/?map=hall", "/admin/map/plan/?map=hall"),
        *(f"/admin/tasks/task/act/?action={action}&scope=all&robot=R2" for action in ("cancel", "retry")),
    ]
    wrong = []
    for address in dict.fromkeys(pages):
        answer = client.get(address, follow=True)
        if answer.status_code == 403:
            continue
        assert answer.status_code == 200, address
        text = shown(answer.content.decode())
        wrong += [
            (address, found)
            for found in (
                *(text[max(0, f.start() - 60) : f.end() + 30] for f in ONE_AS_MANY.finditer(text)),
                *re.findall(".{20}`.{20}", text),
            )
        ]
    assert wrong == []
