"""Compilers whose pipelines MongoDB can answer from an index."""

from django_mongodb_backend.compiler import (  # noqa: F401
    SQLAggregateCompiler,
    SQLCompiler,
    SQLDeleteCompiler,
    SQLInsertCompiler,
    SQLUpdateCompiler,
)
