"""What updates let MongoDB compute, in MongoDB's own words; and how Django's `update()` and `filter()` say it."""

from typing import Any

from django.db.models import functions
from django.db.models.expressions import Expression

from fmv.mongodb.fields import DocumentField

#: An aggregation expression: https://www.mongodb.com/docs/manual/reference/operator/aggregation/
Mql = Any

#: The server's clock. By way of milliseconds, because SecantusDB compares a bare `$$NOW` with no stored date.
NOW: Mql = {"$toDate": {"$toLong": "$$NOW"}}


def literal(value: Any) -> Mql:
    """Return a value that MongoDB takes as it is, whatever `$` it holds."""
    return {"$literal": value}


def literals(**values: Any) -> dict[str, Mql]:
    """Return columns that are set to these values as they are."""
    return {column: literal(value) for column, value in values.items()}


def later(moment: Mql, seconds: Mql) -> Mql:
    """Return the moment so many seconds after another, null without one: `later(NOW, 30)`."""
    milliseconds = round(seconds * 1000) if isinstance(seconds, int | float) else {"$multiply": [seconds, 1000]}
    return {"$toDate": {"$add": [{"$toLong": moment}, {"$toLong": milliseconds}]}}


def appended(column: str, **entry: Mql) -> Mql:
    """Return an array column with one document more."""
    return {"$concatArrays": [f"${column}", [entry]]}


class Computed(Expression):
    """One of the above for `update()`: `update(attempt=Computed({"$add": ["$attempt", 1]}))`."""

    def __init__(self, mql: Mql) -> None:
        super().__init__(output_field=DocumentField())
        self.mql = mql

    def as_mql_expr(self, compiler: Any, connection: Any) -> Mql:
        return self.mql


class Now(functions.Now):
    """NOW in a queryset."""

    def as_mql_expr(self, compiler: Any, connection: Any) -> Mql:
        return NOW
