"""The indexes that `migrate` would build for a model, without building them."""

from typing import Any

from django.db import connection, models
from django_mongodb_backend.schema import DatabaseSchemaEditor
from pymongo import IndexModel


def planned_indexes(model: type[models.Model]) -> list[dict[str, Any]]:
    """Return the indexes that the model's fields and Meta define, in the form of `createIndexes`. No I/O."""
    plan = _Plan()
    plan._create_model_indexes(model)
    return [index.document for index in plan.indexes]


class _Plan(DatabaseSchemaEditor):
    """A schema editor that collects its commands instead of sending them."""

    def __init__(self) -> None:
        super().__init__(connection, atomic=False)
        self.indexes: list[IndexModel] = []

    def get_collection(self, name: str) -> "_Plan":
        return self

    def create_indexes(self, indexes: list[IndexModel]) -> None:
        """Take the place of the collection's method."""
        self.indexes += indexes
