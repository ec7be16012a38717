"""Compilers whose pipelines MongoDB can answer from an index.

The stock compiler's pipelines are correct, but they join, project and copy fields before they sort and limit, so that
MongoDB reads, joins and sorts a whole collection to find the latest twenty (SERVER-26442). These compilers put
`$match`, `$sort`, `$skip` and `$limit` first wherever that selects the same rows.
"""

from typing import Any

from bson import SON
from django.core.exceptions import EmptyResultSet
from django.db import NotSupportedError
from django.db.models.sql import UpdateQuery
from django.db.models.sql.constants import LOUTER, MULTI
from django_mongodb_backend import compiler as stock
from django_mongodb_backend.compiler import SQLInsertCompiler
from django_mongodb_backend.query import MongoQuery as StockQuery
from django_mongodb_backend.query import wrap_database_errors
from pymongo import ReturnDocument

from fmv.mongodb.conditions import conjuncts, merged
from fmv.mongodb.updates import names_one

__all__ = [
    "SQLAggregateCompiler",
    "SQLCompiler",
    "SQLDeleteCompiler",
    "SQLInsertCompiler",
    "SQLReturningCompiler",
    "SQLUpdateCompiler",
]

Stages = list[dict[str, Any]]

BATCH = 1000  # rows per batch; MongoDB's own limit, 16 MiB, takes ten times as much memory in Python

MAX_SINGLE_BATCH = 2000  # rows up to which a page is fetched in one batch


class MongoQuery(StockQuery):
    """Arranges the stages of a pipeline so that those an index can answer come first."""

    @property
    def match_mql(self) -> dict[str, Any]:
        return self._match_mql

    @match_mql.setter
    def match_mql(self, mql: dict[str, Any]) -> None:
        self._match_mql = merged(conjuncts(mql))

    @wrap_database_errors
    def get_cursor(self) -> Any:
        """Fetch a page in one round trip. By default the first batch ends after 101 rows and leaves a cursor open."""
        high, low = self.query.high_mark, self.query.low_mark
        batch = {"batchSize": high - low + 1} if high is not None and high - low <= MAX_SINGLE_BATCH else {}
        return self.compiler.collection.aggregate(
            self.get_pipeline(), session=self.compiler.connection.session, **batch
        )

    @wrap_database_errors
    def delete(self) -> int:
        if self.compiler.subqueries or not names_one(self.match_mql):
            return int(super().delete())
        return int(
            self.compiler.collection.delete_one(self.match_mql, session=self.compiler.connection.session).deleted_count
        )

    def get_pipeline(self) -> Stages:
        # A search, the parts of a union and the inner query of an aggregate must stay in front.
        if (
            self.search_pipeline
            or self.combinator_pipeline
            or not all(q.subquery_lookup for q in self.subqueries or ())
        ):
            return super().get_pipeline()
        pipeline = self._arranged()
        if not self.subquery_lookup:
            return pipeline
        wrapped = super().get_pipeline()
        wrapped[0]["$lookup"]["pipeline"] = pipeline
        return wrapped

    def _arranged(self) -> Stages:
        joins = [*(self.lookup_pipeline or ()), *(stage for q in self.subqueries or () for stage in q.get_pipeline())]
        joined = {stage["$lookup"]["as"] for stage in joins if "$lookup" in stage}
        conditions = conjuncts(self.match_mql)
        own = [condition for condition in conditions if not _mentions(condition, joined)]
        others = [condition for condition in conditions if _mentions(condition, joined)]
        extra = {name: value for name, value in (self.extra_fields or {}).items() if not _is_identity(name, value)}
        sort = _stage("$sort", self.ordering)
        window = _stage("$skip", self.query.low_mark)
        if self.query.high_mark is not None:
            window.append({"$limit": self.query.high_mark - self.query.low_mark})
        # A join keeps the order of rows. A slice stays the same only if the join returns each row exactly once.
        sort_early = self._sorts_by_columns(joined | extra.keys())
        slice_early = sort_early and not others and self._joins_keep_rows()
        return [
            *_stage("$match", merged(own)),
            *(sort if sort_early else ()),
            *(window if slice_early else ()),
            *joins,
            *_stage("$match", merged(others)),
            *(window if sort_early and not slice_early else ()),
            *(self.aggregation_pipeline or ()),
            *_stage("$project", self.project_fields),
            *_stage("$addFields", extra),
            *(() if sort_early else sort + window),
        ]

    def _sorts_by_columns(self, computed: set[str]) -> bool:
        """Whether the sort needs only stored columns of this collection."""
        columns = self.project_fields or dict.fromkeys(self.ordering, 1)
        return not self.aggregation_pipeline and all(
            key.partition(".")[0] not in computed and columns.get(key) == 1 for key in self.ordering
        )

    def _joins_keep_rows(self) -> bool:
        """Whether each row meets exactly one row in every join: an outer join by the other collection's key."""
        joins = (self.query.alias_map[s["$lookup"]["as"]] for s in self.lookup_pipeline or () if "$lookup" in s)
        return all(
            join.join_type == LOUTER and all(field.primary_key for _, field in join.join_fields) for join in joins
        )


def _stage(name: str, value: Any) -> Stages:
    return [{name: value}] if value else []


def _mentions(mql: Any, names: set[str]) -> bool:
    """Whether a path or a value in `mql` begins with one of `names`. A value that only looks like one is harmless."""
    if isinstance(mql, dict):
        return any(_mentions(part, names) for item in mql.items() for part in item)
    if isinstance(mql, list | tuple):
        return any(_mentions(part, names) for part in mql)
    return isinstance(mql, str) and mql.lstrip("$").partition(".")[0] in names


def _is_identity(path: str, value: Any) -> bool:
    """Whether `{"$addFields": {path: value}}` changes nothing."""
    if isinstance(value, dict):
        return all(_is_identity(f"{path}.{name}", part) for name, part in value.items())
    return bool(value == f"${path}")


class SQLCompiler(stock.SQLCompiler):
    query_class = MongoQuery

    def build_query(self, columns: Any = None) -> Any:
        """Read only the columns that `only()` and `defer()` leave; the stock compiler reads whole documents."""
        fields, are_left_out = self.query.deferred_loading
        limited = self.query.default_cols and (fields or not are_left_out)
        return super().build_query(self.columns if columns is None and limited else columns)

    def cursor_iter(self, cursor: Any, chunk_size: int, columns: Any) -> Any:
        cursor.batch_size(BATCH)
        return super().cursor_iter(cursor, chunk_size, columns)


class SQLAggregateCompiler(stock.SQLAggregateCompiler):
    query_class = MongoQuery


class SQLDeleteCompiler(stock.SQLDeleteCompiler):
    query_class = MongoQuery


class SQLUpdateCompiler(stock.SQLUpdateCompiler):
    query_class = MongoQuery

    #: When set, update only the first match in this order, and return its document.
    first_by: SON[str, int] | None = None

    @wrap_database_errors
    def update(self, criteria: dict[str, Any], pipeline: Stages) -> Any:
        if self.first_by is None and names_one(criteria):
            return self.collection.update_one(criteria, pipeline, session=self.connection.session).matched_count
        if self.first_by is None:
            return super().update(criteria, pipeline)
        return self.collection.find_one_and_update(
            criteria,
            pipeline,
            sort=list(self.first_by.items()),
            return_document=ReturnDocument.AFTER,
            session=self.connection.session,
        )


class SQLReturningCompiler(SQLCompiler):
    """Compiles a `ReturningQuery`: it fetches its one row by updating it."""

    def execute_sql(self, result_type: str = MULTI, **chunking: Any) -> list[Any]:
        self.pre_sql_setup()
        whole = self.query.default_cols and not self.query.annotations and not self.query.distinct
        try:
            query = self.build_query(None if whole else self.columns)
        except EmptyResultSet:
            return []
        if any(not stage.keys() <= {"$match", "$sort"} for stage in query.get_pipeline()):
            raise NotSupportedError("update_returning() is for whole rows of one collection, ordered by its columns.")
        update = self.query.chain(UpdateQuery)
        update.add_update_values(self.query.new_values)
        updating = update.get_compiler(self.using)
        updating.first_by = query.ordering
        document = updating.execute_sql(MULTI)
        return [[self._make_result(document, self.columns)]] if document else []
