"""What each page and button of the admin costs in commands to MongoDB: as many with many rows as with few or none."""

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from django_celery_results.models import TaskResult

from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken, User
from fmv.audit.models import AuditEntry
from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import new_id
from fmv.monitoring import servers
from robots import drafts
from robots.models import Robot
from tasks.admin import dashboard
from tasks.admin.pages import map_page
from tasks.models import Bulk, LogLine, Status, Task, WorkerProcess
from tasks.queue import services
from tasks.reports import tallies
from tests.support.factories import make_process, make_robot, make_task, make_token, make_user
from tests.support.pages import admin
from tests.support.probes import STARTED, listening

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

#: how many commands a GET sends, besides the two for who asks: session, user
COSTS = {
    # The panels of the dashboard are read once for all viewers of a web process, every 2 to 15 seconds: see Panel. So
    # these are what the first one waits for, and what FMV sends every few seconds while anybody looks.
    "index": 31,
    "dashboard_now": 26,
    "dashboard_day": 4,
    "dashboard_rest": 3,
    "find": 0,  # without a text
    "settings": 0,
    "compare": 4,  # for each span, which days are added up, and the totals
    "map": 7,  # maps, floor plans; states, robots that run a task or are out of service, the plan; the plan
    "map_live": 4,
    "map_plan": 1,
    "timeline": 4,  # robots, totals, entries of the audit, absences
    "robot_timeline": 8,
    "handlers": 3,
    "handler": 7,
    "password_change": 0,
    "password_change_done": 0,
    "jsi18n": 0,
    "fmv_user_changelist": 2,
    "fmv_user_add": 0,
    "fmv_user_change": 3,
    "fmv_user_history": 2,
    "auth_user_password_change": 1,
    "fmv_apitoken_changelist": 3,
    "fmv_apitoken_add": 1,
    "fmv_apitoken_change": 3,
    "fmv_apitoken_history": 3,
    "fmv_auditentry_changelist": 4,  # how many there are, those of the page, and the choices of two filters
    "fmv_auditentry_change": 1,
    "fmv_auditentry_history": 2,
    "django_celery_results_taskresult_changelist": 4,
    "django_celery_results_taskresult_change": 1,
    "django_celery_results_taskresult_history": 2,
    "tasks_bulk_changelist": 3,
    "tasks_bulk_change": 2,
    "tasks_bulk_state": 1,
    "tasks_task_changelist": 7,
    "tasks_task_change": 7,
    "tasks_task_rows": 6,
    "tasks_task_state": 5,
    "tasks_task_log": 2,
    "robots_robot_changelist": 12,
    "robots_robot_rows": 12,
    "robots_robot_add": 0,
    "robots_robot_change": 17,
    "robots_robot_live": 15,
    "robots_robot_day": 2,
    "robots_robot_edit": 1,
    "robots_robot_run": 1,
    "robots_robot_out": 9,
    "robots_robot_hold": 7,
    "robots_robot_move": 9,
    "tasks_task_place": 5,
    "robots_robot_connect": 3,
    "robots_robot_connection": 2,
    "import_robots": 0,
    "import_draft": 3,  # the draft; which of its robots exist; what would change of them
}
#: routes that show no page to a superuser with a session: redirects, buttons, what nobody may
OTHERS = {
    *("export", "login", "logout", "oidc_login", "oidc_callback", "autocomplete", "view_on_site", "app_list"),
    *("map_image", "map_plan_delete"),  # of a floor plan
    *("fmv_user_delete", "fmv_apitoken_delete", "fmv_auditentry_add", "fmv_auditentry_delete"),
    *("django_celery_results_taskresult_add", "django_celery_results_taskresult_delete"),
    *("tasks_bulk_add", "tasks_bulk_delete", "tasks_bulk_history", "tasks_bulk_stop"),
    *("tasks_task_add", "tasks_task_delete", "tasks_task_history", "tasks_task_act", "tasks_task_cancel"),
    *("tasks_task_end", "tasks_task_free"),
    *("tasks_task_retry", "robots_robot_delete", "robots_robot_history", "robots_robot_in"),
    *("robots_robot_release", "tasks_task_front", "run_many"),
}
WHO = ["aggregate fmv_session", "aggregate fmv_user"]
USER = "leela"  # looks at the pages


def url_of(pattern: str, shown: dict[str, Any]) -> str:
    """Return the address of the page of the object of its kind that is shown: the last kind that the pattern names."""
    *_, key = ["", *(key for part, key in shown.items() if part in pattern)]
    return re.sub("<.*>", str(key), pattern)


def routes() -> dict[str, str]:
    """The admin's routes: name -> pattern."""

    def walk(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
        for each in patterns:
            if isinstance(each, URLResolver):
                yield from walk(each.url_patterns, prefix + str(each.pattern))
            elif isinstance(each, URLPattern) and each.name:
                yield each.name, f"/{prefix}{each.pattern}"

    return {name: pattern for name, pattern in walk(get_resolver().url_patterns) if pattern.startswith("/admin/")}


def test_each_page_has_its_number():
    assert routes().keys() == COSTS.keys() | OTHERS


@pytest.fixture
def shown() -> dict[str, Any]:
    """What the pages of one object show, and the name of a handler."""
    now, fry = server_now(), make_user(username="fry", password=None)
    robot = make_robot(name="Bender")
    make_task(robot=robot, status="SUCCESS", started_at=now, finished_at=now - 2 * tallies.MINUTE, attempt=1)
    for _ in range(3):  # so that the dashboard looks at the robot's latest tasks
        make_task(robot=robot, status="FAILURE", finished_at=now - 2 * tallies.MINUTE, attempt=1)
    tallies.roll_up()
    make_task(robot=robot, status="STARTED", lane="Bender/0", **STARTED)
    make_task(robot=make_robot(name="Off", enabled=False))  # since when is it out of service?
    make_process(STARTED["worker"], ago=-3600, handlers=["wait@1", "noop@1"])
    return {
        "/handlers/": "noop",
        "/user/": fry.pk,
        "/apitoken/": make_token(fry).pk,
        "/auditentry/": AuditEntry.objects.create(by="fry", action="robot.change", kind="robot", key="Bender").pk,
        "/taskresult/": TaskResult.objects.create(task_id="a", task_name="tasks.purge", status="SUCCESS").pk,
        "/bulk/": stored_bulk().pk,
        "/task/": make_task(robot=robot).pk,
        "/robot/": robot.pk,
        "/draft/": drafts.keep("robots.csv", b"name,location,description\nBender,Moon,-\nOther,Moon,-\n", by=USER).pk,
    }


def stored_bulk() -> Bulk:
    id, now = new_id(), server_now()
    return Bulk.objects.create(id=id, action="cancel", by="fry", conditions={}, changed_at=now, open=False)


def store_rows(count: int, shown: dict[str, Any]) -> None:
    """Store so many of everything that a page lists."""
    now, numbers = server_now(), range(count)
    users = User.objects.bulk_create(User(username=f"user {number}", password="!") for number in numbers)
    ApiToken.objects.bulk_create(
        api_tokens.build(user, "gateway") for user in [*users, *User.objects.filter(pk=shown["/user/"]), *users]
    )
    tokens = [api_tokens.build_for_robot(shown["/robot/"]) for _ in numbers]
    for token in tokens:
        token.created_at = token.revoked_at = timezone.now() - dt.timedelta(days=1)
    ApiToken.objects.bulk_create(tokens)
    about = [("user", "fry"), ("robot", "Bender"), ("task", shown["/task/"]), ("bulk", shown["/bulk/"])]
    AuditEntry.objects.bulk_create(
        AuditEntry(by=user.username, action="a.b", kind=kind, key=key) for user in users for kind, key in about
    )
    TaskResult.objects.bulk_create(
        TaskResult(task_id=str(number), task_name="tasks.purge", status="SUCCESS", date_done=timezone.now())
        for number in numbers
    )
    for _ in range(min(count, 10)):
        stored_bulk()
    LogLine.objects.bulk_create(LogLine(task=shown["/task/"], attempt=1, text="Hello") for _ in numbers)
    robots = [Robot(name=f"R{n}", location="Lab", description="-", enabled=bool(n % 3)) for n in numbers]
    Robot.objects.bulk_create(robots)
    WorkerProcess.objects.bulk_create(
        WorkerProcess(name=f"host/{10 + n}", node="work@host", queues=["work"], started_at=now, seen_at=now)
        for n in numbers
    )
    Task.objects.bulk_create(task for number in numbers for task in tasks_of(number, shown["/task/"]))


def tasks_of(number: int, retried: Any) -> Iterator[Task]:
    now = server_now()
    ended = {"attempt": 1, "started_at": now, "finished_at": now}
    for robot in ("Bender", f"R{number}"):
        about = {"robot": robot, "handler": "noop", "timeout": 1.0, "requested_by": "fry"}
        yield Task(**about)
        yield Task(**about, status=Status.SCHEDULED, run_at=now + dt.timedelta(hours=1))
        yield Task(**about, status=Status.SUCCESS, retry_of=retried, **ended)
        yield Task(**about, status=Status.FAILURE, error={"type": "E", "message": "m", "traceback": ""}, **ended)
    runs = STARTED | {"worker": f"host/{10 + number}", "lane": f"R{number}/0"}
    yield Task(**about, status=Status.STARTED, **runs)


@pytest.mark.parametrize("rows", [0, 3, 100])
def test_each_page_costs_its_number_of_commands(rows, shown):
    client = admin(username=USER, is_superuser=True)
    store_rows(rows, shown)
    servers.mongodb.probe(), servers.broker.probe()
    ContentType.objects.get_for_models(*apps.get_models())  # each process reads them once
    wrong = []
    with listening() as commands:
        for name, pattern in routes().items():
            if name in COSTS:
                dashboard.forget()
                map_page.forget()
                del commands.sent[:]
                assert client.get(url_of(pattern, shown)).status_code == 200, name
                sent = [each for each in commands.sent if not is_no_question(each)]
                if sent[:2] != WHO or len(sent) != 2 + COSTS[name]:
                    wrong.append(f"{name} has {COSTS[name]}: {sent}")
    assert not wrong, "\n".join(wrong)


def is_no_question(command: str) -> bool:
    """Return whether it fetches the rest of an answer of more than 101 documents, or a thread of `servers` sends it."""
    return (
        command.startswith(("getMore", "buildInfo", "listCollections"))
        or "migrations" in command
        or "probes" in command
    )


#: pages of what may have columns of kilobytes or megabytes that they do not show
SLIM = (
    *("tasks_bulk_changelist", "tasks_bulk_change", "tasks_bulk_state", "django_celery_results_taskresult_changelist"),
    *(
        "tasks_task_changelist",
        "tasks_task_rows",
        "robots_robot_changelist",
        "robots_robot_rows",
        "robots_robot_change",
    ),
    *("robots_robot_live", "handler", "dashboard_now", "dashboard_day", "dashboard_rest"),
)


@pytest.mark.parametrize("name", SLIM)
def test_a_page_reads_no_large_columns_that_it_does_not_show(name, shown):
    client, large = admin(is_superuser=True), "x" * 100_000
    store_rows(3, shown)
    Bulk.objects.update(plan={"tasks": [large]})
    TaskResult.objects.update(traceback=large, task_args=large, task_kwargs=large, meta=large)
    Task.objects.update(params={"text": large}, result=large)
    if name == "tasks_bulk_changelist":
        Bulk.objects.update(failures=[{"task": "a", "text": large}])
    dashboard.forget()
    pattern = routes()[name]
    with listening() as commands:
        assert client.get(url_of(pattern, shown)).status_code == 200
    assert sum(len(repr(answer)) for answer in commands.answers) < 50_000, commands.sent


ROBOT_FORM = {"location": "Lab", "description": "-", "lanes": "1", "labels": ""}
RUN_MANY = {"scope": "all", "q": "Bender", "handler": "noop", "send": "yes"}
CHOSEN = {"scope": "all", "confirmed": "yes"}
#: button -> the address, the form, and how many commands the POST sends besides those of WHO
BUTTONS: dict[str, tuple[str, dict[str, str], int]] = {
    "add a robot": ("/admin/robots/robot/add/", ROBOT_FORM | {"name": "New"}, 4),
    "edit a robot": ("/admin/robots/robot/Bender/edit/", ROBOT_FORM, 4),
    "change its lanes": ("/admin/robots/robot/Bender/edit/", ROBOT_FORM | {"lanes": "2"}, 5),
    "delete a robot": ("/admin/robots/robot/Over/delete/", {"post": "yes"}, 18),
    "run a task": ("/admin/robots/robot/Bender/run/?handler=noop", {}, 6),
    "take out of service": ("/admin/robots/robot/Bender/out/", {"queue": "keep"}, 4),
    "put in service": ("/admin/robots/robot/Bender/in/", {}, 4),
    "hold a queue": ("/admin/robots/robot/Bender/hold/", {"why": "-"}, 4),
    "release a queue": ("/admin/robots/robot/Bender/release/", {}, 4),
    "take out and cancel the queue": ("/admin/robots/robot/A/out/", {"queue": "cancel"}, 22),
    "take out and move the queue": ("/admin/robots/robot/B/out/", {"queue": "move", "to": "Bender"}, 22),
    "move a queue": ("/admin/robots/robot/D/move/", {"to": "Bender"}, 20),
    "put in front what is first": ("/admin/tasks/task/{task}/front/", {}, 2),
    "put in front of others": ("/admin/tasks/task/{last}/front/", {}, 6),
    "change a priority": ("/admin/tasks/task/{task}/place/", {"priority": "9"}, 5),
    "move a task": ("/admin/tasks/task/{task}/place/", {"move": "yes", "to": "C"}, 6),
    "cancel a task": ("/admin/tasks/task/{task}/cancel/", {}, 4),
    "retry a task": ("/admin/tasks/task/{over}/retry/", {}, 5),
    "ask about tasks": ("/admin/tasks/task/act/?robot=C", {"action": "cancel", "scope": "all"}, 0),
    "cancel tasks": ("/admin/tasks/task/act/?robot=C", CHOSEN | {"action": "cancel"}, 19),
    "retry tasks": ("/admin/tasks/task/act/?robot=C", CHOSEN | {"action": "retry"}, 20),
    "run a task on many robots": ("/admin/robots/robot/run/", RUN_MANY, 14),
    "import robots": ("/admin/robots/robot/import/draft/{draft}/", {"existing": "replace"}, 10),
    "change the time zone": ("/admin/settings/", {"time_zone": "Europe/Berlin"}, 3),
    "stop a bulk run": ("/admin/tasks/bulk/{bulk}/stop/", {}, 4),
    "change a user": ("/admin/fmv/user/{user}/change/", {"username": "fry", "role": "operator", "is_active": "on"}, 5),
    "add a token": ("/admin/fmv/apitoken/add/", {"name": "a", "role": "viewer", "days": "1", "user": "{user}"}, 4),
    "revoke a token": ("/admin/fmv/apitoken/{token}/change/", {"_revoke": "1"}, 6),
}


@pytest.mark.parametrize("rows", [1, 100])  # all tasks of a robot are one step of a bulk run
def test_each_button_costs_its_number_of_commands(rows, shown, monkeypatch):
    monkeypatch.setattr(services, "REQUEST_BUDGET", 60.0)  # a test's MongoDB may be slow
    client, wrong = admin(username=USER, is_superuser=True), []
    store_rows(rows, shown)
    last = make_task(robot="Bender")
    Robot.objects.bulk_create(
        Robot(name=name, location="Lab", description="-") for name in ("A", "B", "C", "D", "Over")
    )
    about = {"handler": "noop", "timeout": 1.0, "requested_by": "fry"}
    Task.objects.bulk_create(Task(robot=name, **about) for name in "ABCD" for _ in range(rows))
    Task.objects.bulk_create(Task(robot="Over", status=Status.SUCCESS, **about) for _ in range(rows))
    over = make_task(robot="Bender", status="SUCCESS", handler="noop", params={})
    keys = {kind: shown[f"/{kind}/"] for kind in ("task", "bulk", "user", "draft")}
    keys |= {"over": over.pk, "token": shown["/apitoken/"], "last": last.pk}
    ContentType.objects.get_for_models(*apps.get_models())
    with listening() as commands:
        for name, (url, form, cost) in BUTTONS.items():
            del commands.sent[:]
            answer = client.post(url.format(**keys), {field: value.format(**keys) for field, value in form.items()})
            assert answer.status_code == (200 if name == "add a token" else 302), name
            sent = [each for each in commands.sent if not is_no_question(each)]
            if sent[:2] != WHO or len(sent) != 2 + cost:
                wrong.append(f"{name} has {cost}: {len(sent) - 2} {sent}")
    assert not wrong, "\n".join(wrong)
