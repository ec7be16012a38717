"""What `migrate` would build for a model, without building it."""

from typing import Any

from django.db import connection, models
from django_mongodb_backend.schema import DatabaseSchemaEditor
from pymongo import IndexModel


def planned_indexes(model: type[models.Model]) -> list[dict[str, Any]]:
    """Return the indexes that the model's fields and Meta ask for, as `createIndexes` takes them; nothing is asked."""
    plan = _Plan()
    plan._create_model_indexes(model)
    return [index.document for index in plan.indexes]


class _Plan(DatabaseSchemaEditor):
    """The schema editor itself, which only writes down what it would send."""

    def __init__(self) -> None:
        super().__init__(connection, atomic=False)
        self.indexes: list[IndexModel] = []

    def get_collection(self, name: str) -> "_Plan":
        return self

    def create_indexes(self, indexes: list[IndexModel]) -> None:
        """Called in the place of a collection's."""
        self.indexes += indexes
