"""A field for documents and lists as MongoDB itself stores them."""

from typing import Any

from django.db import models


class DocumentField(models.Field):
    """Any BSON value as it is: objects, lists, strings, numbers, None.

    Django's JSONField on this backend encodes and decodes each value as text on its way back, which costs time and
    refuses dates. The caller sees to it that the value can be stored (`bson.encode`).
    """

    empty_strings_allowed = False

    def get_internal_type(self) -> str:
        return "DocumentField"

    def db_type(self, connection: Any) -> str:
        return "object"

    def get_prep_value(self, value: Any) -> Any:
        return value

    def value_to_string(self, obj: models.Model) -> Any:
        return self.value_from_object(obj)
