"""Conditions of MongoDB queries in forms that every server can answer from an index.

To `f < value` the stock engine adds `{f: {"$exists": True}}` and `{f: {"$ne": None}}`, because MongoDB sorts null
before all other values. A query does not need them: there, `$lt` and `$lte` compare values of one kind only (numbers,
texts, dates; https://www.mongodb.com/docs/manual/reference/method/db.collection.find/#type-bracketing), so they match
neither null nor a missing field. The condition without them matches the same documents, so a `$nor` or `$or` around it
does too. `{f: None}` matches null and a missing field alike, so it needs no `$or` with `$exists`. Some servers, such as
the embedded one, read the whole collection for the stock forms.

The stock forms stay for values of other kinds, for paths with a dot, which may lead into a list, and for aggregation
expressions (`$expr`), which do compare null with everything. A list that contains null beside a smaller value would
make a difference, but no condition of FMV compares a list with a single value.
"""

import datetime as dt
import json
from typing import Any
from uuid import UUID

from bson import Decimal128, ObjectId
from django_mongodb_backend.base import DatabaseWrapper

Mql = dict[str, Any]

STOCK = DatabaseWrapper.mongo_operators
PLAIN = (str, bool, int, float, Decimal128, dt.datetime, ObjectId, UUID)  # kinds that are compared with their own only
RANGE = {"$gt", "$gte", "$lt", "$lte"}


def _less(lookup: str) -> Any:
    def less(path: str, value: Any) -> Mql:
        plain = isinstance(value, PLAIN) and "." not in path
        return {path: {f"${lookup}": value}} if plain else STOCK[lookup](path, value)

    return less


def _in(path: str, values: Any) -> Mql:
    """One value is an equality, after which an index can be read in the order of its next column."""
    some = list(values)
    return {path: some[0]} if len(some) == 1 and isinstance(some[0], PLAIN) else {path: {"$in": some}}


def _is_null(path: str, is_null: bool) -> Mql:
    if "." in path:
        return STOCK["isnull"](path, is_null)
    return {path: None} if is_null else {path: {"$ne": None}}


OPERATORS = STOCK | {"lt": _less("lt"), "lte": _less("lte"), "in": _in, "isnull": _is_null}


def as_expression(criteria: Mql) -> Mql:
    """Return conditions on whole columns as an expression, for documents that have all these columns."""
    parts = []
    for column, wanted in criteria.items():
        if column == "$expr":
            parts.append(wanted)
        else:
            operators = wanted if isinstance(wanted, dict) else {"$eq": wanted}
            parts += [{name: [f"${column}", {"$literal": value}]} for name, value in operators.items()]
    return {"$and": parts}


def conjuncts(mql: Mql) -> list[Mql]:
    """Return the conditions that must all hold, as documents with one key each."""
    parts: list[Mql] = []
    for key, value in mql.items():
        parts += [part for child in value for part in conjuncts(child)] if key == "$and" else [{key: value}]
    return parts


def merged(conditions: list[Mql]) -> Mql:
    """Return the conditions as one document, which reads more easily than an `$and`, and for which every server finds
    an index: `{"a": 1, "b": {"$gt": 2, "$lt": 5}}`. What does not fit under one key stays in an `$and`.

    Equalities come first and ranges last, because some servers choose an index by the first keys.
    """
    one: Mql = {}
    others: list[Mql] = []
    for condition in conditions:
        ((key, value),) = condition.items()
        if key not in one or _implies(value, one[key]):
            one[key] = value
        elif _is_range(one[key]) and _is_range(value) and not one[key].keys() & value.keys():
            one[key] = one[key] | value
        elif not any(_implies(each[key], value) for each in (one, *others) if key in each):
            others.append(condition)
    return dict(sorted(one.items(), key=_looseness)) | ({"$and": others} if others else {})


def _looseness(condition: tuple[str, Any]) -> int:
    key, value = condition
    if isinstance(value, PLAIN):
        return 0
    return 1 if isinstance(value, dict) and "$in" in value and not key.startswith("$") else 2


def _implies(one: Any, other: Any) -> bool:
    """Return whether both conditions are the same, or the other one is an `$in` of values among which this one is."""
    if isinstance(other, dict) and other.keys() == {"$in"} and isinstance(one, PLAIN):
        return any(_same(one, each) for each in other["$in"])
    return _same(one, other)


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, default=repr) == json.dumps(other, default=repr)  # for Python True is the same as 1


def _is_range(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and value.keys() <= RANGE
