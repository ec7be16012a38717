"""`make screenshots`: the README's pictures, of a real stack with a night behind it and work at hand."""

import os
from pathlib import Path

import pytest

from tasks.models import Task, WorkerProcess
from tasks.queue import services
from tests.conftest import wait_until
from tests.support.browser import SIZES
from tests.support.demo_data import TROUBLED, explain_the_trouble, store_demo_data
from tests.support.factories import make_user

PICTURES = Path(__file__).parents[1] / "pictures"

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def fleet(worker, maintenance, site, transactional_db):
    store_demo_data()
    worker(os.environ["FMV_BROKER_URL"], processes=3, name="work")
    maintenance(os.environ["FMV_BROKER_URL"])
    for name in ("Wall-E", "Bender", "R2-D2"):
        services.submit(
            {"robot": name, "handler": "wait", "params": {"seconds": 60, "steps": 100}},
            by="leela",
        )
    for seconds in range(5):
        services.submit(
            {
                "robot": "Bender",
                "handler": "wait",
                "params": {"seconds": seconds},
                "priority": seconds,
            },
            by="fry",
        )
    wait_until(lambda: Task.objects.started().filter(progress__gt=20).count() == 3, seconds=60)
    wait_until(lambda: WorkerProcess.objects.count() == 4)
    return explain_the_trouble()


def test_pictures(fleet, visit):
    PICTURES.mkdir(exist_ok=True)
    operator = make_user("operator", username="leela", name="Turanga Leela", password=None)
    desk, phone = visit(operator), visit(operator, size="phone", theme="dark")
    for page, address, name in (
        (desk, "/admin/", "dashboard"),
        (desk, f"/admin/tasks/task/{fleet.pk}/change/", "failure"),
        (phone, f"/admin/robots/robot/{TROUBLED}/change/", "robot"),
    ):
        page.goto(address)
        page.wait_for_load_state("networkidle")
        height = 1250 if page is desk else 844
        page.set_viewport_size(SIZES["desk" if page is desk else "phone"] | {"height": height})
        page.screenshot(path=PICTURES / f"{name}.png")
