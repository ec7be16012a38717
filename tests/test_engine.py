"""FMV's engine answers as the stock one does, and updates that return the document."""

import datetime as dt
import random
import threading

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import IntegrityError, NotSupportedError, connection, connections
from django.db.models import Count, Exists, F, Max, Min, Model, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Least, Upper
from django_mongodb_backend.base import DatabaseWrapper as StockDatabaseWrapper
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from fmv.models import Role, User
from fmv.mongodb.expressions import Appended, Later, Now
from robots.models import Robot
from tasks.models import Status, Task
from tests.factories import make_robot, make_task, make_user

pytestmark = pytest.mark.django_db(transaction=True)

# --- The same rows as the stock engine -------------------------------------------------------------------------------

NOON = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
MOMENTS = [NOON + dt.timedelta(hours=hours) for hours in range(4)]
ROBOTS = ["Bender", "Crow T. Robot", "Wall-E"]
HANDLERS = ["http", "primes", "wait"]
LABELS = ["day", "night"]
IDS = [uuid7() for _ in range(24)]
MODELS = ["robot", "task", "user"]


@pytest.fixture
def stock():
    """The stock engine on the same database, as the alias "stock"."""
    wrapper = StockDatabaseWrapper(connection.settings_dict | {"OPTIONS": {}}, "stock")
    connections["stock"] = wrapper
    yield "stock"
    wrapper.close_pool()
    del connections["stock"]


@pytest.fixture
def rows():
    """Some of everything: few values, so that many rows share them; nulls, a missing column, a dangling reference."""
    chance = random.Random(1)
    for name in ROBOTS:
        make_robot(name=name, location=chance.choice(["Earth", "Mars"]), enabled=chance.random() < 0.7)
    for id in IDS:
        make_task(
            id=id,
            robot=chance.choice(ROBOTS),
            handler=chance.choice(HANDLERS),
            status=chance.choice(Status.values),
            priority=chance.randrange(4),
            attempt=chance.randrange(4),
            labels=chance.sample(LABELS, chance.randrange(3)),
            progress=chance.choice([None, 0.0, 50.0, 100.0]),
            run_at=chance.choice([None, *MOMENTS]),
            retry_of=chance.choice([None, IDS[0]]),
            cancel_requested=chance.random() < 0.3,
        )
    tasks = connection.get_collection(Task._meta.db_table)
    tasks.update_one({}, {"$unset": {"progress": 1}})
    users = [make_user(role, username=name) for role, name in zip(Role.values[1:], ["fry", "leela", "zoe"], strict=True)]
    types = [ContentType.objects.create(app_label="fmv", model=model) for model in MODELS]
    for number in range(18):
        LogEntry.objects.create(
            user=chance.choice(users),
            content_type=chance.choice([None, *types]),
            action_flag=chance.choice([1, 2, 3]),
            object_repr=chance.choice(ROBOTS),
            action_time=MOMENTS[number % 4],
        )
    # MongoDB keeps no foreign keys: what a user or a type did outlives them.
    connection.get_collection(User._meta.db_table).delete_one({"username": "zoe"})
    connection.get_collection(ContentType._meta.db_table).delete_one({"model": "user"})


def trees(leaves):
    return st.recursive(
        leaves,
        lambda some: st.one_of(
            st.tuples(some, some).map(lambda two: two[0] | two[1]),
            st.tuples(some, some).map(lambda two: two[0] & two[1]),
            some.map(lambda one: ~one),
        ),
        max_leaves=4,
    )


def compared(name, values, *lookups):
    """Conditions on a column by these lookups; `in` takes some of the values, `range` two, `isnull` a boolean."""
    takes = {
        "in": st.lists(values, max_size=3),
        "range": st.tuples(values, values),
        "isnull": st.booleans(),
    }
    return st.one_of(
        takes.get(lookup, values).map(lambda value, lookup=lookup: Q(**{f"{name}__{lookup}": value}))
        for lookup in lookups
    )


TASKS = trees(
    st.one_of(
        compared("robot", st.sampled_from(ROBOTS), "exact", "in", "gt", "lte"),
        compared("robot", st.sampled_from(["B", "e", "T. R"]), "startswith", "icontains", "endswith"),
        compared("status", st.sampled_from(Status.values), "exact", "in"),
        compared("priority", st.integers(0, 3), "exact", "lt", "gte", "range", "in"),
        compared("attempt", st.just(F("priority")), "exact", "lt", "gte"),
        compared("progress", st.sampled_from([0.0, 50.0, 100.0]), "exact", "lte", "gt", "isnull", "in"),
        compared("run_at", st.sampled_from(MOMENTS), "exact", "lt", "gte", "range", "isnull"),
        compared("retry_of", st.sampled_from(IDS[:2]), "exact", "isnull"),
        compared("labels", st.lists(st.sampled_from(LABELS), max_size=2), "contains", "overlap", "exact"),
        compared("cancel_requested", st.booleans(), "exact"),
        compared("pk", st.sampled_from(IDS), "exact", "lt", "gte", "in"),
    )
)
ENTRIES = trees(
    st.one_of(
        compared("action_flag", st.integers(1, 3), "exact", "lt", "in"),
        compared("object_repr", st.sampled_from(ROBOTS), "exact", "in", "gt"),
        compared("action_time", st.sampled_from(MOMENTS), "lt", "gte"),
        compared("content_type", st.just(None), "isnull").filter(bool),
        compared("content_type__model", st.sampled_from(MODELS), "exact", "in", "isnull"),
        compared("user__username", st.sampled_from(["fry", "leela", "zoe"]), "exact", "in", "lt"),
        compared("user__is_active", st.booleans(), "exact"),
        compared("object_repr", st.just(F("user__username")), "gt"),
    )
)


def by(name, way):
    column = F(name)
    return {
        "up": name,
        "down": f"-{name}",
        "nulls first": column.asc(nulls_first=True),
        "nulls last": column.desc(nulls_last=True),
        "computed": Upper(name).desc(),
    }[way]


def orders(names, ways=("up", "down", "nulls first", "nulls last")):
    one = st.tuples(st.sampled_from(names), st.sampled_from(ways)).map(lambda pair: by(*pair))
    return st.lists(one, max_size=3)


@st.composite
def windows(draw, queryset, order, tie_breakers=("pk",)):
    """The queryset in any order; in one that leaves no choice, perhaps a slice of it."""
    if draw(st.booleans()):
        return queryset.order_by(*order)
    queryset = queryset.order_by(*order, *tie_breakers)
    start = draw(st.integers(0, 5))
    return draw(st.sampled_from([queryset, queryset[: start + 4], queryset[start:], queryset[start : start + 3]]))


def plain(row):
    """A row as something that can be compared, with the rows that came along with it."""
    if not isinstance(row, Model):
        return row
    values = {name: value for name, value in vars(row).items() if name != "_state"}
    return values | {name: plain(relative) for name, relative in row._state.fields_cache.items()}


def answers_as_stock(queryset):
    note(str(queryset.query.where))
    ours = [plain(row) for row in queryset.all()]
    theirs = [plain(row) for row in queryset.using("stock")]
    order = queryset.query.order_by
    if not (order and order[-1] in ("pk", "-pk")) and not queryset.query.is_sliced:
        ours, theirs = sorted(ours, key=repr), sorted(theirs, key=repr)
    assert ours == theirs


generated = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TASK_COLUMNS = ["robot", "priority", "progress", "run_at", "status", "handler"]


@generated
@given(st.data())
def test_lists_of_one_collection_are_the_same(stock, rows, data):
    ways = ["up", "down", "nulls first", "nulls last", "computed"]
    tasks = Task.objects.filter(data.draw(TASKS)).exclude(data.draw(TASKS))
    columns = data.draw(st.lists(st.sampled_from(TASK_COLUMNS), min_size=1, max_size=3, unique=True))
    shape = data.draw(
        st.sampled_from(
            [
                lambda tasks: tasks,
                lambda tasks: tasks.values(*columns),
                lambda tasks: tasks.values_list(*columns),
                lambda tasks: tasks.values_list("pk", flat=True),
                lambda tasks: tasks.only("pk", *columns),
                lambda tasks: tasks.defer(*columns),
                lambda tasks: tasks.annotate(shout=Upper("robot"), next=F("priority") + 1),
                lambda tasks: tasks.values("pk", shout=Upper("robot")).order_by("shout", "pk"),
            ]
        )
    )
    answers_as_stock(shape(data.draw(windows(tasks, data.draw(orders(TASK_COLUMNS[:4], ways[:4]))))))


@generated
@given(st.data())
def test_distinct_rows_and_groups_are_the_same(stock, rows, data):
    tasks = Task.objects.filter(data.draw(TASKS))
    columns = data.draw(st.lists(st.sampled_from(TASK_COLUMNS), min_size=1, max_size=3, unique=True))
    if data.draw(st.booleans()):
        tasks = tasks.values_list(*columns).distinct()
    else:
        tasks = tasks.values_list(*columns).annotate(count=Count("pk"), last=Max("pk"))
        if data.draw(st.booleans()):
            tasks = tasks.filter(count__gte=data.draw(st.integers(1, 3)))
    answers_as_stock(data.draw(windows(tasks.order_by(), [], columns)))


@generated
@given(st.data())
def test_totals_are_the_same(stock, rows, data):
    tasks = data.draw(windows(Task.objects.filter(data.draw(TASKS)), data.draw(orders(TASK_COLUMNS[:4]))))
    total = data.draw(
        st.sampled_from(
            [
                QuerySet.count,
                QuerySet.exists,
                lambda tasks: tasks.aggregate(Max("pk"), Min("run_at"), robots=Count("robot", distinct=True)),
                lambda tasks: tasks.values("robot").distinct().count() if not tasks.query.is_sliced else 0,
            ]
        )
    )
    assert total(tasks) == total(tasks.using(stock))


@generated
@given(st.data())
def test_lists_with_relatives_are_the_same(stock, rows, data):
    relatives = data.draw(st.sampled_from([[], ["user"], ["content_type"], ["user", "content_type"]]))
    entries = LogEntry.objects.filter(data.draw(ENTRIES)).select_related(*relatives or [None])
    columns = ["action_flag", "action_time", "object_repr"]
    if not relatives:
        # Not with select_related: SecantusDB's $addFields then drops the relative's other columns.
        columns += ["user__username", "content_type__model"]
    entries = data.draw(windows(entries, data.draw(orders(columns, ["up", "down"]))))
    if not relatives and data.draw(st.booleans()):
        entries = entries.values("pk", "object_repr", "user__username", "content_type__model")
    answers_as_stock(entries)


@generated
@given(st.data())
def test_totals_with_relatives_are_the_same(stock, rows, data):
    entries = LogEntry.objects.filter(data.draw(ENTRIES)).exclude(data.draw(ENTRIES))
    total = data.draw(
        st.sampled_from(
            [
                QuerySet.count,
                QuerySet.exists,
                lambda entries: entries.order_by("pk")[:5].count(),
                lambda entries: entries.aggregate(Max("action_time"), users=Count("user", distinct=True)),
                lambda entries: sorted(entries.order_by().values_list("user__username").annotate(Count("pk")), key=repr),
                lambda entries: sorted(entries.order_by().values_list("user__username").distinct(), key=repr),
            ]
        )
    )
    assert total(entries) == total(entries.using(stock))


@generated
@given(st.data())
def test_lists_with_many_relatives_of_a_row_are_the_same(stock, rows, data):
    """A user with three matching entries comes three times, and the slice counts each."""
    flags = Q(logentry__action_flag__in=data.draw(st.lists(st.integers(1, 3), max_size=2)))
    active = Q(is_active=data.draw(st.booleans()))
    users = User.objects.filter(data.draw(st.sampled_from([flags, flags & active, flags | active, ~flags])))
    start = data.draw(st.integers(0, 4))
    order = data.draw(st.sampled_from(["pk", "-pk", "username"]))
    answers_as_stock(users.order_by(order)[start : start + 4])
    answers_as_stock(users.order_by("-role"))


@generated
@given(st.data())
def test_lists_with_subqueries_are_the_same(stock, rows, data):
    tasks = Task.objects.filter(data.draw(TASKS))
    of_robot = tasks.of_robot(OuterRef("pk"))
    robots = data.draw(
        st.sampled_from(
            [
                Robot.objects.filter(Exists(of_robot)),
                Robot.objects.filter(~Exists(of_robot), enabled=True),
                Robot.objects.filter(pk__in=tasks.order_by().values("robot")),
                Robot.objects.annotate(last=Subquery(of_robot.newest_first().values("status")[:1])),
                Robot.objects.annotate(last=Subquery(of_robot.order_by("run_at", "pk").values("pk")[1:2])),
                Robot.objects.annotate(busy=Exists(of_robot)).filter(busy=True),
            ]
        )
    )
    answers_as_stock(data.draw(windows(robots, data.draw(orders(["location", "enabled"])))))


@generated
@given(st.data())
def test_unions_are_the_same(stock, rows, data):
    columns = data.draw(st.lists(st.sampled_from(TASK_COLUMNS), min_size=1, max_size=3, unique=True))
    one, two = (Task.objects.filter(data.draw(TASKS)).order_by().values_list("pk", *columns) for _ in range(2))
    both = one.union(two, all=data.draw(st.booleans()))
    answers_as_stock(data.draw(st.sampled_from([both, both.order_by("-pk")[:4]])))
