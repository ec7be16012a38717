"""Expressions for `update()` that the stock backend has no word for."""

from collections.abc import Sequence
from typing import Any

from django.db.models import DateTimeField, F, Value, functions
from django.db.models.expressions import Expression, Func

from fmv.mongodb.fields import DocumentField


class Now(functions.Now):
    """The server's clock. By way of milliseconds, because SecantusDB compares a bare `$$NOW` with no stored date."""

    def as_mql_expr(self, compiler: Any, connection: Any) -> dict[str, Any]:
        return {"$toDate": {"$toLong": "$$NOW"}}


class Later(Func):
    """A moment `seconds` after another: `Later(Now(), 30)`, `Later(F("started_at"), F("timeout"))`."""

    output_field = DateTimeField()

    def __init__(self, moment: Any, seconds: Any) -> None:
        super().__init__(moment, seconds if hasattr(seconds, "resolve_expression") else Value(float(seconds)))

    def as_mql_expr(self, compiler: Any, connection: Any) -> dict[str, Any]:
        moment, seconds = (part.as_mql(compiler, connection, as_expr=True) for part in self.get_source_expressions())
        milliseconds = {"$toLong": {"$multiply": [seconds, 1000]}}
        return {"$toDate": {"$add": [{"$toLong": moment}, milliseconds]}}


class Appended(Expression):
    """An array column with one document more: `update(history=Appended("history", at=Now(), note="due"))`."""

    def __init__(self, column: str, **entry: Any) -> None:
        super().__init__(output_field=DocumentField())
        self.keys = tuple(entry)
        self.parts: list[Any] = [
            F(column),
            *(v if hasattr(v, "resolve_expression") else Value(v) for v in entry.values()),
        ]

    def get_source_expressions(self) -> list[Any]:
        return self.parts

    def set_source_expressions(self, exprs: Sequence[Any]) -> None:
        self.parts = list(exprs)

    def as_mql_expr(self, compiler: Any, connection: Any) -> dict[str, Any]:
        array, *values = (part.as_mql(compiler, connection, as_expr=True) for part in self.parts)
        return {"$concatArrays": [array, [dict(zip(self.keys, values, strict=True))]]}
