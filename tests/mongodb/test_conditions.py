"""FMV's conditions match the documents that the stock engine's match, and an index can serve them."""

import datetime as dt
import uuid

import pytest
from bson import Decimal128, Int64, MaxKey, MinKey, ObjectId
from django.db import connection

from fmv.mongodb.conditions import OPERATORS, STOCK, conjuncts, merged

NOON = dt.datetime(2025, 11, 23, 12, tzinfo=dt.UTC)
IDS = [uuid.UUID(int=number).hex for number in (1, 2, 3)]
#: some of each kind that FMV stores, and the values at which MongoDB's order has its corners
VALUES = [
    -1, 0, 2, 2.5, Int64(2**40), Decimal128("1.5"), float("nan"), float("inf"), float("-inf"),
    "", "a", "b", *IDS, False, True, NOON, NOON + dt.timedelta(seconds=1), ObjectId("0" * 24), b"x",
]  # fmt: skip
STORED = [*VALUES, None, MinKey(), MaxKey(), {"a": 1}, [], [1, 2], ["a"], [None]]
COMPARED = [*VALUES, None]
#: a condition stays the same where Django puts it: into a filter, an exclude, or one of the sides of a Q
AROUND = {
    "filter": lambda mql: mql,
    "exclude": lambda mql: {"$nor": [mql]},
    "exclude of a nullable": lambda mql: {"$nor": [{"$and": [mql, {"f": {"$ne": None}}]}]},
    "or": lambda mql: {"$or": [mql, {"f": "b"}]},
    "twice excluded": lambda mql: {"$nor": [{"$nor": [mql]}]},
}


@pytest.fixture
def collection(transactional_db):
    found = connection.database["test_conditions"]
    found.insert_many([{"_id": number, "f": value} for number, value in enumerate(STORED)] + [{"_id": -1}])
    yield found
    found.drop()


def matches(collection, mql):
    return sorted(each["_id"] for each in collection.find(mql, {"_id": 1}))


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("lookup", ["lt", "lte", "gt", "gte", "in", "isnull"])
def test_a_condition_matches_what_the_stock_one_matches(collection, lookup, around):
    values = {"isnull": [True, False], "in": [[value] for value in COMPARED] + [[], [0, None], ["a", "b", NOON]]}
    for value in values.get(lookup, COMPARED):
        ours, theirs = merged(conjuncts(OPERATORS[lookup]("f", value))), STOCK[lookup]("f", value)
        found = matches(collection, AROUND[around](ours))
        assert found == matches(collection, AROUND[around](theirs)), (lookup, value)


def test_only_the_comparison_itself_is_asked():
    assert OPERATORS["lt"]("run_at", NOON) == {"run_at": {"$lt": NOON}}
    assert OPERATORS["lte"]("priority", 4) == {"priority": {"$lte": 4}}
    assert OPERATORS["in"]("robot", ("Bender",)) == {"robot": "Bender"}
    assert OPERATORS["isnull"]("run_at", True) == {"run_at": None}


def test_the_stock_form_stays_where_a_comparison_could_match_null():
    for path, value in (("run_at", None), ("labels", ["a"]), ("params.a", 1), ("params", {"a": 1})):
        assert OPERATORS["lt"](path, value) == STOCK["lt"](path, value)
    assert OPERATORS["isnull"]("error.type", True) == STOCK["isnull"]("error.type", True)
    assert OPERATORS["in"]("labels", (["a"],)) == {"labels": {"$in": [["a"]]}}


def test_conditions_of_one_column_are_merged_only_where_that_means_the_same(collection):
    lower, upper = {"f": {"$gte": 0}}, {"f": {"$lt": 2}}
    assert merged([lower, upper]) == {"f": {"$gte": 0, "$lt": 2}}
    assert merged([lower, {"f": {"$gte": 2}}]) == {"f": {"$gte": 0}, "$and": [{"f": {"$gte": 2}}]}
    assert merged([{"f": 1}, {"g": 2}, {"f": 1}]) == {"f": 1, "g": 2}
    assert merged([{"f": 1}, {"f": True}]) == {"f": 1, "$and": [{"f": True}]}
    assert merged([{"f": {"$in": [1, 2]}}, upper]) == {"f": {"$in": [1, 2]}, "$and": [upper]}
    for both in ([{"f": 1}, {"f": {"$in": [1, 2]}}], [{"f": {"$in": [1, 2]}}, {"f": 1}]):
        assert merged(both) == {"f": 1}
    assert merged([{"f": 3}, {"f": {"$in": [1, 2]}}]) == {"f": 3, "$and": [{"f": {"$in": [1, 2]}}]}
    assert merged([{"$or": [lower]}, {"$or": [upper]}]) == {"$or": [lower], "$and": [{"$or": [upper]}]}
    for one in (lower, {"f": True}, {"f": {"$gt": "a"}}, {"f": {"$in": [1, "b", 2, None]}}):
        for other in (upper, {"f": 1}, {"f": {"$lte": "b"}}, one):
            assert matches(collection, merged([one, other])) == matches(collection, {"$and": [one, other]})
