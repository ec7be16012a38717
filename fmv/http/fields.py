"""Strict serializer fields, and how a view reads its body with them."""

import datetime as dt
import re
from functools import cache
from typing import Any, ClassVar

from rest_framework import exceptions, serializers

from fmv.errors import did_you_mean
from fmv.escaping import shortened
from fmv.http.json import MAX_INTEGER, MIN_INTEGER

NOT_BLANK = r"[^\s\x1c-\x1f\x85]"  # JSON Schema pattern: a character that `trim_whitespace` does not remove


class StrictCharField(serializers.CharField):
    """A string, and no value that DRF would convert to one. Blanks around it are trimmed.

    `pattern` goes into the OpenAPI document only; validators check the value.
    """

    default_error_messages = {"invalid": "Input should be a valid string"}

    def __init__(self, *, pattern: str = NOT_BLANK, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.json_schema = {"pattern": pattern} if self.trim_whitespace and not self.allow_blank else {}

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if data is not serializers.empty and data is not None and not isinstance(data, str):
            self.fail("invalid")
        return super().run_validation(data)


class CutCharField(StrictCharField):
    """A string of which at most `limit` characters are kept: too long a text does not make the rest invalid."""

    def __init__(self, *, limit: int, help_text: str = "", **kwargs: Any) -> None:
        kept = f"At most {limit:,} characters are kept; `…` at the end shows that some were cut."
        super().__init__(help_text=f"{help_text} {kept}".strip(), **kwargs)
        self.limit = limit

    def to_internal_value(self, data: Any) -> str:
        return shortened(super().to_internal_value(data), self.limit)


class StrictIntegerField(serializers.IntegerField):
    """A whole number of at most 64 bits, and no string or boolean that DRF would convert to one.

    In JSON, 4.0 and 1e3 are whole numbers.
    """

    default_error_messages = {"invalid": "Input should be a valid integer"}

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int | float) or data % 1:
            self.fail("invalid")
        if not MIN_INTEGER <= int(data) <= MAX_INTEGER:
            self.fail("invalid")
        return int(data)


class StrictFloatField(serializers.FloatField):
    """A number, and no string or boolean that DRF would convert to one."""

    default_error_messages = {"invalid": "Input should be a valid number"}

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool | str):
            self.fail("invalid")
        return super().to_internal_value(data)


class StrictBooleanField(serializers.BooleanField):
    """True or false, and no string or number that DRF would convert to one."""

    default_error_messages = {"invalid": "Input should be a valid boolean"}

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid")
        return data


RFC_3339 = re.compile(r"[0-9]{4}(-[0-9]{2}){2}[Tt ]([0-9]{2}:){2}[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})")


def rfc3339(value: dt.datetime | None) -> str | None:
    """Return a UTC time (aware or naive) as the API writes it, in milliseconds; None for None."""
    return None if value is None else value.isoformat("T", "milliseconds")[:23] + "Z"


class Rfc3339Field(serializers.DateTimeField):
    """A time in RFC 3339: input needs an offset, output is in UTC with milliseconds."""

    default_error_messages = {"invalid": "Input should be a time as in 2027-01-31T08:00:00Z, with its offset"}
    timezone = dt.UTC  # not that of the admin's page, which reads its forms by these fields too

    def to_internal_value(self, value: Any) -> Any:
        if not isinstance(value, str) or not RFC_3339.fullmatch(value):
            self.fail("invalid")
        return super().to_internal_value(value.upper())

    def to_representation(self, value: Any) -> Any:
        return rfc3339(value)


class StrictSerializer(serializers.Serializer):
    """Refuses unknown fields, because ignoring a misspelt option could do harm."""

    json_schema: ClassVar[dict[str, Any]] = {"additionalProperties": False}

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        if unknown := sorted(set(data) - set(self.fields)):
            raise exceptions.ValidationError({key: self._refusal(key) for key in unknown})
        return values

    def _refusal(self, key: str) -> exceptions.ErrorDetail:
        hint = did_you_mean(key, self.fields)
        return exceptions.ErrorDetail(f"Extra inputs are not permitted{hint and f'.{hint}'}", "extra_forbidden")


@cache
def reader(serializer_class: type[serializers.Serializer]) -> serializers.Serializer:
    """Return a shared serializer for reading input: creating one for each request would copy all of its fields."""
    return serializer_class()


def read_body(serializer_class: type[serializers.Serializer], data: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the validated body. Raises DRF's ValidationError, which names each wrong field."""
    serializer = serializer_class(**kwargs) if kwargs else reader(serializer_class)
    values: dict[str, Any] = serializer.run_validation(data)
    return values
