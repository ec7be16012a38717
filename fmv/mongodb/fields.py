"""Fields for documents and lists as MongoDB stores them, and for times by its clock."""

import re
from functools import partial
from typing import Any

from django.db import models
from django.db.models import Transform
from django_mongodb_backend.query_utils import process_lhs

from fmv.mongodb.server import stored_now


class DocumentField(models.Field):
    """Any BSON value, unconverted: objects, lists, strings, numbers, None.

    Django's JSONField on this backend converts each value to text and back when it is read, which costs time and fails
    for dates. The caller must make sure that the value can be stored (`bson.encode`).
    """

    empty_strings_allowed = False

    def get_internal_type(self) -> str:
        return "DocumentField"

    def db_type(self, connection: Any) -> str:
        return "object"

    def deconstruct(self) -> Any:
        name, path, args, options = super().deconstruct()
        options.pop("help_text", None)  # words are no part of the schema: new ones need no migration
        return name, path, args, options

    def get_prep_value(self, value: Any) -> Any:
        return value

    def value_to_string(self, obj: models.Model) -> Any:
        return self.value_from_object(obj)

    def get_transform(self, name: str) -> Any:
        """Let `filter(error__type="ValueError")` compare a text inside the document."""
        return super().get_transform(name) or (partial(Part, name) if re.fullmatch("[a-z_]+", name) else None)


class InsertTimeField(models.DateTimeField):
    """The time of the insert by MongoDB's clock, unless a time is given; None until then.

    Migrations know it as a DateTimeField with the default `stored_now`.
    """

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        if add and getattr(model_instance, self.attname) is None:
            setattr(model_instance, self.attname, stored_now())
        return super().pre_save(model_instance, add)

    def deconstruct(self) -> Any:
        name, _, args, options = super().deconstruct()
        return name, "django.db.models.DateTimeField", args, options | {"default": stored_now}


class Part(Transform):
    """A text inside a document, by the path `column.name`, as the filters name it."""

    output_field = models.CharField()
    can_use_path = is_simple_column = True

    def __init__(self, part: str, *expressions: Any, **options: Any) -> None:
        super().__init__(*expressions, **options)
        self.part = part

    def as_mql_path(self, compiler: Any, connection: Any) -> str:
        return f"{process_lhs(self, compiler, connection)}.{self.part}"

    def as_mql_expr(self, compiler: Any, connection: Any) -> dict[str, Any]:
        return {"$getField": {"input": process_lhs(self, compiler, connection, as_expr=True), "field": self.part}}
