"""What each operation of the API costs in round trips to MongoDB. Who has not signed in costs none besides."""

import re
import uuid

import pytest
from django.urls import resolve
from drf_spectacular.generators import SchemaGenerator

from tasks.models import Task
from tests.support.api import Api
from tests.support.environment import override_environment
from tests.support.factories import make_robot, make_task, make_token, make_user
from tests.support.probes import FUTURE, PAST, STARTED, listening

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

ROBOT, TASK = "find robots_robot", "find tasks_task"
ROBOTS, TASKS = "aggregate robots_robot", "aggregate tasks_task"
PROCESSES = "aggregate tasks_workerprocess"
STATE, STATES = "find robots_robotstate", "aggregate robots_robotstate"
SPANS = "aggregate tasks_spantally"
AUDIT = "insert fmv_auditentry"
BODY = {"name": "R2", "location": "Tatooine", "description": "beep"}
BENDER = BODY | {"name": "Bender"}
NOOP = {"handler": "noop"}

#: method, path, body, what is sent
READS = [
    ("GET", "/health", None, []),
    ("GET", "/handler/", None, []),
    ("GET", "/handler/wait", None, []),
    ("GET", "/openapi.json", None, []),
    ("GET", "/robot/", None, [ROBOT]),
    ("GET", "/robot/?q=a&label=x&location=Lab&is_great=no&enabled=yes", None, [ROBOT]),
    ("GET", "/robot/?state=true&online=false", None, [STATES, ROBOT]),
    ("GET", "/robot/Bender", None, [ROBOT, TASK, STATE]),
    ("GET", "/task/", None, [TASK]),
    ("GET", "/task/?robot=Bender&status=QUEUED&handler=wait&label=x&requested_by=test&limit=5", None, [TASK]),
    ("GET", "/task/?created_after=2026-01-01T00:00:00Z&created_before=2126-01-01T00:00:00Z", None, [TASK]),
    ("GET", "/task/{task}", None, [TASK]),
    ("GET", "/task/{task}/log", None, [TASK, "find tasks_logline"]),
    (
        *("GET", "/task/{task}/waiting", None),
        # the task; the first of its robot's queue with the robot, the lanes in use, the workers: there are none
        [TASK, TASKS, TASKS, PROCESSES],
    ),
    ("GET", "/compare", None, 2 * [SPANS, "find tasks_spantally"]),  # each week: which days are added up; the totals
    (
        *("GET", "/robot/Bender/timeline", None),
        # tasks that ended in the span, next, and those of three statuses
        [ROBOT, *(5 * [TASK]), "aggregate robots_absence", "aggregate fmv_auditentry"],
    ),
    (
        *("GET", "/attention", None),
        [
            *(PROCESSES, TASKS),  # the workers, also those that were lost; the lanes in use
            *(STATES, STATE),  # what robots say that they run; who reports errors
            *(TASKS, TASKS, STATES, STATE),  # failures, the first of the queues, who is offline, two agents
            *(ROBOTS, "aggregate robots_absence", TASKS),  # queues that are held, out of service, stuck
        ],
    ),
    (
        *("GET", "/stats", None),
        [
            *("aggregate tasks_tally", TASKS, TASKS, "aggregate tasks_tally"),  # what has finished
            *(TASKS, TASKS, ROBOTS, TASKS),  # what waits or runs, by status; the oldest for a robot in service
            *[ROBOTS] * 2,  # robots
            *(TASKS, STATES),
        ],
    ),
]
WRITES = [
    ("POST", "/robot/", BODY, ["insert robots_robot", AUDIT]),
    ("PUT", "/robot/R2", BODY, [ROBOTS, "insert robots_robot", AUDIT]),
    # the last two: has it work? its latest tasks
    ("PUT", "/robot/Bender", BENDER, [ROBOTS, "findAndModify robots_robot", AUDIT, TASKS, TASK, STATE]),
    ("PATCH", "/robot/Bender", {"location": "Mars"}, [ROBOT, "findAndModify robots_robot", AUDIT, TASK, STATE]),
    ("POST", "/robot/Bender/run", NOOP, [ROBOT, "insert tasks_task"]),
    ("POST", "/robot/Bender/hold", {"why": "-"}, [ROBOT, "findAndModify robots_robot", AUDIT, TASK, STATE]),
    ("POST", "/robot/Held/release", None, [ROBOT, "findAndModify robots_robot", AUDIT, TASKS, TASK, STATE]),
    # the last: where does the robot's next task run?
    ("POST", "/task/{task}/priority", {"priority": 9}, [TASK, "update tasks_task", TASK, AUDIT, TASKS]),
    ("POST", "/task/{last}/priority", {"front": True}, [TASK, TASKS, "update tasks_task", TASK, AUDIT, TASKS]),
    ("POST", "/task/{task}/move", {"robot": "Idle"}, [TASK, ROBOT, "update tasks_task", TASK, AUDIT, TASKS]),
    (
        *("POST", "/task/{task}/move", {"label": "forklift"}),
        [TASK, ROBOTS, TASKS, TASKS, "update tasks_task", TASK, AUDIT, TASKS],  # how many tasks do they have?
    ),
    ("POST", "/task/{task}/cancel", None, [TASK, "update tasks_task", TASK, AUDIT]),
    ("POST", "/task/{over}/retry", None, [TASK, ROBOT, "insert tasks_task", AUDIT]),
    # the one before the last: where does the robot's next task run?
    ("POST", "/task/{silent}/end", None, [TASK, "update tasks_task", AUDIT, TASKS, TASK]),
    ("POST", "/task/{blocking}/free", None, [TASK, "update tasks_task", AUDIT, TASKS, TASK]),
    (
        *("DELETE", "/robot/Idle", None),
        [
            *(TASKS, TASKS, "delete robots_robot", "aggregate fmv_apitoken"),
            *("delete robots_robotstate", "delete robots_robotsamples", "delete robots_absence"),
            *(AUDIT, TASKS, "delete tasks_lastoutcomes"),
        ],
    ),
    ("POST", "/auth/logout", None, []),
]
#: operations that have tests of their own: a batch below, signing in in accounts/test_oidc.py, the streams of events in
#: devstack/test_idle_stack.py
OTHERS = {("post", "/task/batch"), ("post", "/auth/login"), ("get", "/events"), ("get", "/task/{task_id}/events")}


@pytest.fixture
def paths():
    make_robot(name="Bender"), make_robot(name="Idle", labels=["forklift"])
    make_robot(name="Held", held_since=PAST, held_by="fry", held_why="-")
    silent = make_task(robot="Bender", status="STARTED", attempt=1, lane="Bender/0", out_of_contact_since=PAST)
    blocking = make_task(robot="Bender", status="REVOKED", lane="Bender/1")
    return {
        "task": make_task(robot="Bender").pk,
        "last": make_task(robot="Bender").pk,
        "over": make_task(robot="Bender", status="SUCCESS").pk,
        "silent": silent.pk,
        "blocking": blocking.pk,
    }


def sent(api, method, path, body, status=(200, 201, 204)):
    with listening() as commands:
        answer = api(method, path, *([] if body is None else [body]))
    assert answer.status_code in status, answer.content
    return commands.sent


@pytest.mark.parametrize(("method", "path", "body", "commands"), READS + WRITES)
@override_environment(anonymous="manager")
def test_a_route_s_round_trips(method, path, body, commands, paths):
    assert sent(Api(None), method, path.format(**paths), body) == commands


def test_each_operation_has_its_number():
    document = SchemaGenerator().get_schema(public=True)["paths"]
    paths = {path: found for path, found in document.items() if not path.startswith("/agent/")}  # agents/test_costs.py
    operations = {(method, path) for path, found in paths.items() for method in found}
    counted = {(method.lower(), route_of(path)) for method, path, *_ in READS + WRITES}
    assert operations <= counted | OTHERS, operations - counted - OTHERS


def route_of(path: str) -> str:
    """Return the path as the document writes it: `/task/{task_id}/log`."""
    ids = dict.fromkeys(("task", "last", "over", "silent", "blocking"), uuid.uuid4())
    found = resolve("/api/v1" + path.format(**ids).partition("?")[0]).route
    return re.sub("<[a-z]+:([a-z_]+)>", r"{\1}", found).removeprefix("api/v1")


@override_environment(anonymous="manager")
def test_a_robot_is_read_in_three_whatever_it_has_done():
    make_robot(name="R2")
    Task.objects.bulk_create(Task(robot="R2", handler="wait", timeout=1, requested_by="test") for _ in range(300))
    assert sent(Api(None), "GET", "/robot/R2", None) == [ROBOT, TASK, STATE]
    assert sent(Api(None), "GET", "/task/?robot=R2", None) == [TASK]
    assert sent(Api(None), "GET", "/task/?robot=R2&limit=300", None) == [TASK]


@override_environment(anonymous="manager")
def test_a_batch_costs_the_same_for_one_and_for_many(paths):
    def runs(number):
        return {"runs": [{"robot": "Bender", **NOOP} for _ in range(number)]}

    few, many = (sent(Api(None), "POST", "/task/batch", runs(number)) for number in (1, 200))
    assert few == many
    assert few == [
        *(ROBOTS, "insert tasks_submission", "insert tasks_task", "update tasks_submission"),
        *("aggregate tasks_task", "aggregate tasks_task"),  # for which of them somebody comes anyway
        "aggregate robots_robotstate",  # which of their robots have an agent, for whose tasks nobody comes
    ]


def test_a_token_costs_two_more_and_a_session_two(paths):
    token = make_token(make_user("viewer"))
    token.last_used_at = None
    api = Api(None, headers={"Authorization": f"Bearer {token.text}"})
    sent(api, "GET", "/task/", None)  # the first use of a minute is noted, which is one more
    found = sent(api, "GET", "/task/", None)
    assert [command.split()[1] for command in found] == ["fmv_apitoken", "fmv_user", "tasks_task"]
    found = sent(Api("viewer"), "GET", "/task/", None)
    assert [command.split()[1] for command in found] == ["fmv_session", "fmv_user", "tasks_task"]


@override_environment(anonymous="manager")
def test_what_is_not_there_costs_one():
    for path, look in (("/robot/R3", ROBOT), (f"/task/{uuid.uuid4()}", TASK)):
        assert sent(Api(None), "GET", path, None, (404,)) == [look]


@override_environment(anonymous="manager")
def test_a_running_task_is_asked_to_stop_in_five():
    task = make_task(**STARTED, status="STARTED", lane="x/0", expires_at=FUTURE)
    found = sent(Api(None), "POST", f"/task/{task.pk}/cancel", None, (202,))
    assert found == [TASK, "update tasks_task", "update tasks_task", TASK, AUDIT]
