"""Kinds of index that Django lacks."""

from typing import Any

from django.db import models
from pymongo import IndexModel


class PartIndex(models.Index):
    """An index on texts inside documents: `PartIndex(fields=["error", "-id"], parts={"error": "type"}, name=…)`.

    It contains only documents in which each such part exists, so it costs the others nothing, and it cannot find
    documents without the part. Migrations that are applied name it.
    """

    def __init__(self, *args: Any, parts: dict[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self.parts = parts

    def deconstruct(self) -> tuple[str, Any, dict[str, Any]]:
        path, args, options = super().deconstruct()
        return path, args, {**options, "parts": self.parts}

    def get_pymongo_index_model(self, model: type[models.Model], *args: Any, **options: Any) -> IndexModel:
        stock: Any = super()
        keys = stock.get_pymongo_index_model(model, *args, **options).document["key"]
        columns = {field.name: field.column for field in model._meta.fields}
        paths = {columns[name]: f"{columns[name]}.{part}" for name, part in self.parts.items()}
        named = [(paths.get(column, column), order) for column, order in keys.items()]
        held = {path: {"$exists": True} for path in paths.values()}
        return IndexModel(named, name=self.name, partialFilterExpression=held)
