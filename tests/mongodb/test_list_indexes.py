"""Every list of the API, with each of its filters, is answered by an index: the rows it shows and hardly any other.

MongoDB walks an index in the list's order where the index has first the columns that must be equal, then those that
order. The engines that the tests have do not all tell, so the indexes are held against the pipelines here.
"""

import datetime as dt

import pytest
from django.db import connection
from uuid_utils.compat import uuid7

from fmv.mongodb.plan import planned_indexes
from robots import agents, connections, samples
from robots.models import Robot, RobotState
from robots.models.state import documents_with_state
from robots.serializers import RobotFilterSerializer
from tasks.api.serializers import TaskFilterSerializer
from tasks.models import LogLine, Status, Task
from tasks.queue import bulk, periodic, submissions
from tasks.reports import fleet, queue_stats, tallies
from tasks.reports.robot_status import in_state
from tasks.worker.claim import run_next
from tests.support.factories import make_robot, make_task
from tests.support.pipelines import pipeline
from tests.support.probes import claim, listening, make_task_in

pytestmark = pytest.mark.django_db(transaction=True)

ID = uuid7()
NOW = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
TASK_FILTERS = {
    "robot": "Bender",
    "status": ["QUEUED"],
    "handler": "primes",
    "label": "night",
    "requested_by": "fry",
    "created_after": NOW,
    "created_before": NOW,
}
ROBOT_FILTERS = {"location": "Earth", "is_great": True, "enabled": True, "label": "night", "q": "beep", "online": True}
#: A text somewhere in a robot's words is looked for in all robots, by their names: there are not that many.
SCANNED = {"q"}


def indexes(model) -> list[list[str]]:
    """The columns of each of the model's indexes that holds all of its documents."""
    whole = [list(index["key"]) for index in planned_indexes(model) if "partialFilterExpression" not in index]
    return [["_id"], *whole]


def equal_columns(match: dict) -> set[str]:
    """The columns that a $match asks one value of."""
    if "$and" in match:
        return {column for part in match["$and"] for column in equal_columns(part)}
    equal = {"$all", "$in", "$eq", "$elemMatch"}
    return {column for column, wanted in match.items() if not isinstance(wanted, dict) or wanted.keys() <= equal}


def is_answered_by_an_index(queryset) -> bool:
    """Whether an index has the columns that must be equal, then those that order, before any other."""
    by_name = {name: part for stage in pipeline(queryset) for name, part in stage.items()}
    equal, order = equal_columns(by_name.get("$match", {})) - {"_id"}, list(by_name["$sort"])
    return any(
        set(columns[: len(equal)]) == equal and columns[len(equal) :][: len(order)] == order
        for columns in indexes(queryset.model)
    )


def test_every_filter_is_looked_at_here():
    assert TASK_FILTERS.keys() == TaskFilterSerializer().fields.keys()
    assert {*ROBOT_FILTERS, "state"} == RobotFilterSerializer().fields.keys()  # `state` says what is shown of each


@pytest.mark.parametrize("name", [None, *TASK_FILTERS])
def test_a_list_of_tasks_walks_an_index(name):
    found = Task.objects.matching(**({name: TASK_FILTERS[name]} if name else {}))
    for order in ("-id", "id"):  # forwards and, from a later page, backwards
        assert is_answered_by_an_index(found.order_by(order)[:101]), order


@pytest.mark.parametrize("name", [None, *sorted(ROBOT_FILTERS.keys() - SCANNED)])
def test_a_list_of_robots_walks_an_index(name):
    agents.open_session(make_robot(name="Bender").name, agent="fmv-agent")
    found = Robot.objects.matching(**({name: ROBOT_FILTERS[name]} if name else {}))
    for order in ("name", "-name"):
        assert is_answered_by_an_index(found.order_by(order)[:1001]), order


def asked_filters(command) -> list[dict]:
    """The filters by which a command looks for documents."""
    parts = [*command.get("updates", ()), *command.get("deletes", ())]
    first = next(iter(command.get("pipeline", ())), {})
    asked = [part["q"] for part in parts] + [command.get("filter"), command.get("query"), first.get("$match")]
    return [dict(each) for each in asked if each]


def asked_while(look) -> list[tuple[str, dict]]:
    """The collection and the filter of each command that is sent meanwhile."""
    with listening() as commands:
        look()
    return [
        (command[kind.partition(" ")[0]], asked)
        for kind, command in zip(commands.sent, commands.bodies, strict=True)
        for asked in asked_filters(command)
        if command.get("hint") not in USES  # the server refuses an index that it cannot use
    ]


def alternatives(asked: dict) -> list[set[str]]:
    """The columns of each part of an $or, or of the whole."""
    if "$or" in asked:
        return [columns for part in asked["$or"] for columns in alternatives(part)]
    if "$and" in asked:
        return [set().union(*(columns for part in asked["$and"] for columns in alternatives(part)))]
    return [set(asked)]


def is_by_key_or_sight(collection: str, asked: dict) -> bool:
    """Whether a command looks for robots by name, or for states by name or by the columns of `state_by_sight`."""
    first = {"_id", "online"} if collection == RobotState._meta.db_table else {"_id"}
    return all(columns & first for columns in alternatives(asked))


@pytest.mark.parametrize("online", [True, False])
def test_a_list_of_robots_by_sight_walks_indexes(online):
    """Those of the states, then those of the names that they gave."""
    assert ["online", "last_seen"] in indexes(RobotState)
    agents.open_session(make_robot(name="R2").name)
    asked = asked_while(lambda: list(Robot.objects.matching(online=online).order_by("name")[:101]))
    assert [collection for collection, _ in asked][:1] == [RobotState._meta.db_table]
    assert [each for each in asked if not is_by_key_or_sight(*each)] == []


@pytest.mark.parametrize("kind", connections.KINDS)
def test_the_admin_s_list_of_robots_by_what_they_report_walks_indexes(kind):
    agents.open_session(make_robot(name="R2").name)
    asked = asked_while(lambda: list(in_state(Robot.objects.all(), kind).order_by("name")[:51]))
    assert asked
    assert [each for each in asked if not is_by_key_or_sight(*each)] == []


def test_states_beside_a_list_of_robots_are_found_by_name():
    agents.open_session(make_robot(name="R2").name)
    asked = asked_while(lambda: list(documents_with_state(Robot, {}, limit=101, batch_size=101)))
    assert [filter for collection, filter in asked if collection == RobotState._meta.db_table] == [
        {"_id": {"$in": ["R2"]}}
    ]


def test_so_do_a_profile_s_tasks_and_a_log():
    assert is_answered_by_an_index(Task.objects.of_robot("Bender").newest_first()[:50])
    assert is_answered_by_an_index(LogLine.objects.filter(task=make_task().pk)[:101])


def test_this_test_sees_what_no_index_answers():
    assert not is_answered_by_an_index(Task.objects.filter(worker="host/1").newest_first()[:101])
    assert not is_answered_by_an_index(Task.objects.of_robot("Bender").order_by("message")[:101])


#: what runs all the time, by itself or for each task
HOT = {
    "promote": periodic.promote_due,
    "recover": periodic.recover_lost,
    "expire": periodic.expire,
    "ring": periodic.ring_waiting,
    "purge": lambda: periodic.purge(1),
    "roll up": tallies.roll_up,
    "requeue": submissions.requeue_unfinished,
    "forget submissions": submissions.forget_old,
    "bulk runs": bulk.work_on_bulks,
    "claim": lambda: run_next("Bender", "message"),
    "recover from a process": lambda: periodic.recover_from("host/1", "message"),
    "queue age": queue_stats.queue_age,
    "unfinished": queue_stats.unfinished,
    "busy robots": queue_stats.busy_robots,
    "workers": fleet.current_fleet,
    "changes": lambda: list(Task.objects.changed_since(NOW).order_by().values_list("pk", "changed_at")),
    "claims that wait": lambda: Task.objects.robots_queued(["Bender"]),
    "silent robots": lambda: list(RobotState.objects.silent(NOW).values_list("pk", flat=True)),
    "low batteries": lambda: connections.names("low_battery"),
    "changes of robots": lambda: list(RobotState.objects.changed_since(NOW).order_by().values_list("pk", "changed_at")),
    "samples": samples.take,
    "forget samples": samples.forget,
}


def is_served(name: str, asked: dict) -> bool:
    """Whether the server finds the documents by an index.

    The embedded server explains no plan in which an index serves one condition and others are left to look at. It
    makes one of each plain condition, but none of a filter with an operator such as `$and` at its top.
    """
    if any(column.startswith("$") for column in asked):
        return False
    if "_id" in asked:  # each collection has that index, but the embedded server uses it for equality only
        return True
    parts = [asked, *({column: wanted} for column, wanted in asked.items())]
    plans = [
        connection.database.command("explain", {"find": name, "filter": part}, verbosity="queryPlanner")
        for part in parts
    ]
    return any("COLLSCAN" not in str(plan["queryPlanner"]["winningPlan"]) for plan in plans)


@pytest.mark.usefixtures("bells")
@pytest.mark.parametrize("name", HOT)
def test_what_runs_all_the_time_walks_indexes(name):
    """Its cost does not grow with the finished tasks that are kept."""
    make_robot(name="Bender", lanes=2)
    for status in Status:
        make_task_in(status, robot="Bender")
    seen = asked_while(HOT[name])
    assert seen
    for collection, asked in seen:
        assert is_served(collection, asked), (collection, asked)


def test_this_test_sees_a_filter_that_no_index_serves():
    for asked in ({"message": "x"}, {"$and": [{"status": "QUEUED"}, {"status": {"$ne": None}}]}):
        assert not is_served(Task._meta.db_table, asked)


#: each index of tasks -> what it is there for. One that nothing needs slows every write.
USES = {
    "task_next": lambda: Task.objects.queued().of_robot("Bender").next_first()[:1],
    "task_of_robot": lambda: Task.objects.of_robot("Bender").newest_first()[:50],
    "task_ended": lambda: Task.objects.of_robot("Bender").ended()[:60],
    "task_by_status": lambda: Task.objects.matching(status=["QUEUED"]).newest_first()[:101],
    "task_by_handler": lambda: Task.objects.matching(handler="primes").newest_first()[:101],
    "task_by_requester": lambda: Task.objects.matching(requested_by="fry").newest_first()[:101],
    "task_by_label": lambda: Task.objects.matching(label="night").newest_first()[:101],
    "task_due": lambda: Task.objects.due(NOW)[:500],
    "task_overdue": lambda: Task.objects.overdue(NOW, Status.QUEUED).order_by("expires_at")[:500],
    "task_finished": lambda: Task.objects.finished_before(NOW).order_by("finished_at")[:500],
    "task_again": lambda: Task.objects.filter(retry_of=ID).order_by("retry_of")[:20],
    "task_failed": lambda: Task.objects.failed()[:20],
    "task_changed": lambda: Task.objects.changed_since(NOW).order_by("changed_at")[:500],
    "task_lane": lambda: Task.objects.of_robot("Bender").order_by("lane")[:1],  # no two tasks hold one lane
}


def test_each_index_of_tasks_is_there_for_a_query():
    named = {index["name"]: list(index["key"]) for index in planned_indexes(Task)}
    assert named.keys() == USES.keys()
    for name, columns in named.items():
        match, order = [next(iter(stage.values())) for stage in pipeline(USES[name]())[:2]]
        asked = equal_columns(match) | {column for column, wanted in match.items() if isinstance(wanted, dict)}
        assert columns[0] in asked | set(order), name
        assert set(order) <= set(columns), name


def test_a_write_of_a_task_looks_at_few_indexes():
    """The embedded server decodes the definitions of all of them in each write, of whatever tasks they are."""
    assert len(planned_indexes(Task)) <= 14


def index_entries(task: Task) -> set[tuple[str, str]]:
    """The entries that the indexes have of a task: the name of the index, and the key. One of `_id` comes besides."""
    tasks = connection.get_collection(Task._meta.db_table)
    document = tasks.find_one({"_id": task.pk.hex})
    return {
        (index["name"], str([document.get(column.partition(".")[0]) for column in index["key"]]))
        for index in planned_indexes(Task)
        if tasks.count_documents({"_id": task.pk.hex} | index.get("partialFilterExpression", {}))
    }


def test_a_plain_task_costs_few_index_entries():
    """Their upkeep is the larger part of a write. A finished task is in no index of tasks that wait, run or failed."""
    make_robot(name="Bender")
    task = make_task(robot="Bender")
    queued = index_entries(task)
    assert claim("Bender")
    running = index_entries(task)
    Task.objects.get(pk=task.pk).succeed(1, "")
    over = index_entries(task)
    kept = {"task_of_robot", "task_by_handler", "task_by_requester", "task_by_label"}
    moving = {"task_next", "task_by_status", "task_changed"}
    assert {name for name, _ in queued} == kept | moving
    assert {name for name, _ in queued - running} == {name for name, _ in running - queued} - {"task_lane"} == moving
    assert {name for name, _ in running - over} == moving | {"task_lane"}
    assert {name for name, _ in over - running} == moving | {"task_finished", "task_ended"}


def test_a_renewal_of_a_lease_costs_no_index_entry():
    make_robot(name="Bender")
    task = make_task(robot="Bender")
    started = claim("Bender")
    before = index_entries(task)
    assert started.renew(lease=60, grace=6)
    assert index_entries(task) == before


def test_no_index_is_the_beginning_of_another():
    """What a longer index answers needs no shorter one; each costs every write."""
    for model in (Task, Robot, LogLine):
        whole = [index for index in planned_indexes(model) if "partialFilterExpression" not in index]
        keys = [list(index["key"].items()) for index in whole if not index.get("unique")]
        for shorter in keys:
            assert not any(longer[: len(shorter)] == shorter and longer != shorter for longer in keys), shorter
