"""What a robot did in a span of time: tasks.reports.timeline, and the API's route."""

import datetime as dt
from unittest.mock import patch

import pytest

from fmv import audit
from fmv.audit.models import AuditEntry
from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import id_at
from robots.models import Absence
from tasks.models import Task
from tasks.queue import services
from tasks.reports import timeline
from tests.support.api import Api, assert_refused
from tests.support.factories import make_finished, make_robot, make_task
from tests.support.probes import claim, listening

pytestmark = pytest.mark.django_db(transaction=True)

BEGUN = dt.datetime(2026, 11, 26, 14, tzinfo=dt.UTC)
MINUTE, HOUR = dt.timedelta(minutes=1), dt.timedelta(hours=1)
UNTIL = BEGUN + HOUR
SPAN = "from=2026-11-26T14:00:00Z&to=2026-11-26T15:00:00Z"


def at(minutes: float) -> dt.datetime:
    return BEGUN + minutes * MINUTE


def with_history(*steps, **fields) -> Task:
    """Store a task with this history: (minutes, status, attempt) each, or with a note as well."""
    lines = [{"at": at(step[0]), "status": step[1], "attempt": step[2], "note": (*step, "")[3]} for step in steps]
    ended = steps[-1][1] in ("SUCCESS", "FAILURE", "REVOKED")
    times = {"finished_at": at(steps[-1][0])} if ended else {}
    return make_task(id=id_at(at(steps[0][0])), history=lines, status=steps[-1][1], **{"robot": "R2"} | times | fields)


def minutes_of(moment):
    return None if moment is None else (moment - BEGUN) / MINUTE


def seen(bars):
    return [(bar.attempt, minutes_of(bar.begun), minutes_of(bar.ended), bar.outcome.value) for bar in bars]


def told():
    return timeline.of_robot("R2", BEGUN, UNTIL)


# --- Attempts and waits ----------------------------------------------------------------------------------------------


def test_an_attempt_and_the_wait_before_it():
    make_finished(at(10), took=120, waited=60)
    found = told()
    assert seen(found.attempts) == [(1, 8, 10, "SUCCESS")]
    assert seen(found.waits) == [(0, 7, 8, "QUEUED")]
    assert (found.complete, found.absences, found.marks) == (True, [], [])


def test_each_attempt_of_a_task_is_a_bar_with_its_outcome():
    with_history(
        *((1, "QUEUED", 0), (2, "STARTED", 1), (5, "RETRY", 1), (9, "QUEUED", 1), (10, "STARTED", 2)),
        *((10.5, "STARTED", 2, "its robot is out of contact"), (14, "FAILURE", 2)),
    )
    found = told()
    assert seen(found.attempts) == [(1, 2, 5, "RETRY"), (2, 10, 14, "FAILURE")]
    assert seen(found.waits) == [(0, 1, 2, "QUEUED"), (1, 9, 10, "QUEUED")]


def test_what_reaches_into_the_span_is_there_whole_and_what_does_not_is_not():
    make_finished(at(5), took=600)  # began before
    make_finished(at(65), took=600)  # ended after
    make_finished(at(-1), took=60)
    make_finished(at(70), took=60)
    make_finished(at(10), robot="C3")
    assert seen(told().attempts) == [(1, -5, 5, "SUCCESS"), (1, 55, 65, "SUCCESS")]


def test_what_runs_and_waits_goes_on():
    with_history((1, "QUEUED", 0), (2, "STARTED", 1), lane="R2/0")
    with_history((3, "QUEUED", 0))
    with_history((4, "SCHEDULED", 0))
    with_history((5, "QUEUED", 0), (6, "STARTED", 1), (7, "RETRY", 1))
    with_history((61, "QUEUED", 0))  # created after the span
    found = told()
    assert seen(found.attempts) == [(1, 2, None, "STARTED"), (1, 6, 7, "RETRY")]
    assert seen(found.waits) == [(0, 1, 2, "QUEUED"), (0, 3, None, "QUEUED"), (0, 5, 6, "QUEUED")]


def test_a_real_task_is_told_as_it_ran(bells):
    make_robot(name="R2")
    task = services.submit({"robot": "R2", "handler": "noop"}, by="fry")
    claim("R2").succeed(1, "")
    now = server_now()
    found = timeline.of_robot("R2", now - HOUR, now + HOUR)
    [attempt], [wait] = found.attempts, found.waits
    assert (attempt.task, attempt.outcome, wait.ended) == (task.pk, "SUCCESS", attempt.begun)


# --- Marks and absences ----------------------------------------------------------------------------------------------


def test_cancels_and_entries_of_the_audit_are_marks(bells):
    make_robot(name="R2")
    task = services.submit({"robot": "R2", "handler": "noop"}, by="fry")
    services.cancel(task, by="leela")
    audit.record("robot.disable", by="fry", kind="robot", key="R2", text="in service: yes → no")
    audit.record("robot.disable", by="fry", kind="robot", key="C3")
    now = server_now()
    found = timeline.of_robot("R2", now - HOUR, now + HOUR)
    assert [(mark.text, mark.by, mark.task) for mark in found.marks] == [
        ("noop: cancel asked for by leela", "", task.pk),
        ("disable: in service: yes → no", "fry", None),
    ]


def test_absences_with_a_moment_in_the_span():
    for kind, begun, ended in (
        ("offline", -5, 5),
        ("out_of_service", 50, None),
        ("offline", -9, -8),
        ("offline", 61, 62),
    ):
        end = None if ended is None else at(ended)
        Absence.objects.create(id=f"{begun}", robot="R2", kind=kind, begun=at(begun), ended=end)
    assert [(each.kind, minutes_of(each.begun)) for each in told().absences] == [
        ("offline", -5),
        ("out_of_service", 50),
    ]


# --- What it costs ---------------------------------------------------------------------------------------------------


def test_it_takes_the_same_commands_and_few_documents_whatever_there_is():
    make_finished(at(10))
    for number in range(40):
        make_finished(at(number + 1)), make_finished(at(100 + number)), make_task(robot="R2")
    with patch.multiple(timeline, MAX_FINISHED=7, MAX_OTHERS=5), listening() as commands:
        found = told()
    assert len(found.attempts) == 7
    assert not found.complete
    assert len(commands.sent) == 7
    assert [body.get("limit") for body in commands.bodies if "find" in body] == [8, 5, 5, 5, 5]


def test_each_query_walks_an_index():
    from tests.mongodb.test_list_indexes import asked_filters, is_served

    make_finished(at(10)), make_task(robot="R2")
    AuditEntry.objects.create(by="fry", action="robot.change", kind="robot", key="R2")
    for tell in (told, lambda: timeline.of_fleet(BEGUN, UNTIL)):
        with listening() as commands:
            tell()
        seen = [
            (body[sent.partition(" ")[0]], asked)
            for sent, body in zip(commands.sent, commands.bodies, strict=True)
            for asked in asked_filters(body)
        ]
        assert len(seen) >= 6
        for collection, asked in seen:
            assert is_served(collection, {k: v for k, v in asked.items() if not k.startswith("$")}), (collection, asked)


# --- The API ---------------------------------------------------------------------------------------------------------


def test_programs_get_the_timeline():
    make_robot(name="R2")
    task = make_finished(at(10), "FAILURE", took=120)
    Absence.objects.create(id="a", robot="R2", kind="offline", begun=at(20), ended=at(30))
    answer = Api("viewer")("GET", f"/robot/R2/timeline?{SPAN}")
    assert answer.status_code == 200
    assert answer.json() == {
        "begin": "2026-11-26T14:00:00.000Z",
        "end": "2026-11-26T15:00:00.000Z",
        "complete": True,
        "attempts": [
            {
                "task_id": str(task.pk), "handler": "wait", "attempt": 1, "outcome": "FAILURE",
                "begin": "2026-11-26T14:08:00.000Z", "end": "2026-11-26T14:10:00.000Z",
            }
        ],
        "waits": [
            {
                "task_id": str(task.pk), "handler": "wait",
                "begin": "2026-11-26T14:07:55.000Z", "end": "2026-11-26T14:08:00.000Z",
            }
        ],
        "absences": [
            {"kind": "offline", "begin": "2026-11-26T14:20:00.000Z", "end": "2026-11-26T14:30:00.000Z"}
        ],
        "marks": [],
    }  # fmt: skip


def test_without_a_span_it_is_the_last_day():
    make_robot(name="R2")
    make_finished(server_now() - 23 * HOUR), make_finished(server_now() - 25 * HOUR)
    assert len(Api("viewer")("GET", "/robot/R2/timeline").json()["attempts"]) == 1


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("from=2026-11-26T15:00:00Z&to=2026-11-26T14:00:00Z", "to"),
        ("from=2026-01-26T15:00:00Z&to=2026-11-26T14:00:00Z", "to"),
        ("from=yesterday", "from"),
        ("to=0001-01-01T00:00:00Z", "to"),
        ("from=9999-12-31T00:00:00Z&to=9999-12-31T23:59:59Z", "from"),
        ("zzz=1", "zzz"),
    ],
)
def test_a_wrong_span_is_refused(query, name):
    make_robot(name="R2")
    answer = Api("viewer")("GET", f"/robot/R2/timeline?{query}")
    assert_refused(answer, 422)
    assert answer.json()["detail"][0]["loc"] == ["query", name]


def test_an_unknown_robot_has_none():
    assert_refused(Api("viewer")("GET", f"/robot/nobody/timeline?{SPAN}"), 404)
