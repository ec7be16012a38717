"""MongoDB expressions for updates, and their use in Django's `update()` and `filter()`."""

from typing import Any

from django.db.models import functions
from django.db.models.expressions import Expression

from fmv.mongodb.fields import DocumentField

#: An aggregation expression: https://www.mongodb.com/docs/manual/reference/operator/aggregation/
Mql = Any

#: The server's clock. It is converted by way of milliseconds, because SecantusDB cannot compare a bare `$$NOW`.
NOW: Mql = {"$toDate": {"$toLong": "$$NOW"}}


def literal(value: Any) -> Mql:
    """Return a value that MongoDB does not evaluate, even if it contains `$`."""
    return {"$literal": value}


def literals(**values: Any) -> dict[str, Mql]:
    """Return the columns with their values as literals."""
    return {column: literal(value) for column, value in values.items()}


def later(time: Mql, seconds: Mql) -> Mql:
    """Return the time that many seconds after `time`, null if `time` is null: `later(NOW, 30)`."""
    milliseconds = round(seconds * 1000) if isinstance(seconds, int | float) else {"$multiply": [seconds, 1000]}
    return {"$toDate": {"$add": [{"$toLong": time}, {"$toLong": milliseconds}]}}


def appended(column: str, **entry: Mql) -> Mql:
    """Return the array column with one more document at its end."""
    return {"$concatArrays": [f"${column}", [entry]]}


class Computed(Expression):
    """A MongoDB expression for `update()`: `update(attempt=Computed({"$add": ["$attempt", 1]}))`."""

    def __init__(self, mql: Mql) -> None:
        super().__init__(output_field=DocumentField())
        self.mql = mql

    def as_mql_expr(self, compiler: Any, connection: Any) -> Mql:
        return self.mql


class Now(functions.Now):
    """NOW for querysets."""

    def as_mql_expr(self, compiler: Any, connection: Any) -> Mql:
        return NOW
