"""Documents of an FMV that knew no agents: they lack the fields that came since, and no migration adds them."""

import pytest
from django.core.checks import INFO

import robots.services
from fmv.accounts.models import ApiToken, User
from fmv.accounts.permissions import Role
from fmv.mongodb.counting import collection
from fmv.mongodb.server import server_now
from robots.models import RobotState
from tasks.models import FINISHED, Bulk, LogLine, Status, Task
from tasks.queue import periodic, services
from tasks.reports import diagnostics
from tasks.reports.attention import of_robots
from tests.support.agent_requests import Agent, submit
from tests.support.api import Api
from tests.support.factories import make_robot, make_token
from tests.support.pages import admin, robot_url, task_url
from tests.support.probes import a_lease_later, make_task_in, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

#: what migrations have added without changing a document
LATER = {
    Task: ("runs_on", "claim_id", "session", "checkpoint", "cancel_requested_at", "out_of_contact_since", "reported"),
    LogLine: ("number",),
    ApiToken: ("robot",),
    RobotState: ("map",),
    User: ("time_zone",),
    Bulk: ("orders",),
}


def forget_later_fields() -> None:
    for model, fields in LATER.items():
        collection(model).update_many({}, {"$unset": dict.fromkeys(fields, "")})


@pytest.fixture
def fleet() -> dict[Status, Task]:
    """A robot with an agent, and a task of it in each status, as an earlier FMV has left them."""
    make_robot(name="R2", lanes=2)
    Agent.signed_in("R2")
    tasks = {status: make_task_in(status, robot="R2") for status in Status}
    for task in tasks.values():
        LogLine.objects.create(task=task.pk, attempt=1, text="a line")
    make_token(Role.VIEWER)
    forget_later_fields()
    return tasks


ROUTES = ["/robot/", "/robot/?state=true", "/robot/R2", "/task/", "/task/?robot=R2", "/stats", "/handler/"]
PAGES = ["", "map/", "robots/robot/", "tasks/task/", "tasks/task/?stuck=yes", "fmv/apitoken/"]


def test_each_route_and_page_shows_them(fleet):
    assert [check.level for check in diagnostics.agents()] == [INFO]  # first: the agent is offline after a while
    api, client = Api(), admin(Role.MANAGER, is_superuser=True)
    for path in ROUTES + [f"/task/{task.pk}{more}" for task in fleet.values() for more in ("", "/log")]:
        assert api("GET", path).status_code == 200, path
    for page in [f"/admin/{page}" for page in PAGES] + [robot_url("R2"), *map(task_url, fleet.values())]:
        assert client.get(page).status_code == 200, page
    assert api("GET", "/robot/R2").json()["state"]["alarms"] == []
    assert of_robots.alarms() == {"several_agents": 0, "other_task": 0, "unknown_handler": 0}


@pytest.mark.parametrize("status", Status)
def test_what_can_be_done_with_them_is_done(fleet, status):
    task, api = fleet[status], Api()
    assert api("POST", f"/task/{task.pk}/end").status_code == 409
    assert api("POST", f"/task/{task.pk}/free").status_code == 409
    cancelled = 409 if status in FINISHED else 202 if status == Status.STARTED else 200
    assert api("POST", f"/task/{task.pk}/cancel").status_code == cancelled
    if status in FINISHED:
        assert api("POST", f"/task/{task.pk}/retry").status_code == 200


def test_a_waiting_one_can_be_moved(fleet):
    other = make_robot()
    assert services.move(fleet[Status.QUEUED], to=other.name, by="fry").robot == other.name


def test_workers_claim_them_and_agents_leave_them(fleet):
    agent = Agent.signed_in("R2")
    assert agent.claim().status_code == 204
    taken = take(robots.services.get("R2"))
    assert taken is not None
    assert taken.pk == fleet[Status.QUEUED].pk
    assert taken.succeed(None, "")
    mine = submit("R2")
    assert agent.claim().json()["task"]["task_id"] == str(mine.pk)


def test_the_periodic_steps_treat_them_as_tasks_of_workers(fleet):
    assert Task.objects.lost(server_now()).count() == 0
    assert Task.objects.out_of_contact().count() == 0
    assert periodic.ring_waiting() == 1
    with a_lease_later():
        assert periodic.recover_lost() == {"RETRY": 1}
    assert Task.objects.get(pk=fleet[Status.STARTED].pk).error["type"] == "WorkerLost"
    periodic.promote_due()
    assert Task.objects.queued().count() == 4
    assert periodic.expire() == 0
    assert periodic.purge(1) == len(FINISHED)
