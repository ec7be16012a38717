"""Form fields that show a JSON value as text and read it back as the same value.

`as_text` returns what a browser gets for a value; `clean` returns the value for what the browser sends, or UNSET.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from fmv import local_time
from fmv.escaping import visible_json, visible_lines
from tasks.admin.parameters import FORMATS, UNSET, Property

MAX_LOW = 2000  # characters; a text that may be longer gets a higher field


class JSONTextField(forms.Field):
    """A text field for any JSON value."""

    widget = forms.Textarea(attrs={"rows": 4, "spellcheck": "false", "class": "fmv-code"})

    def clean(self, value: Any) -> Any:
        text = str(value or "").strip()
        if not text:
            return UNSET
        try:
            return json.loads(text, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            raise ValidationError(f"Not JSON: {error.msg}, line {error.lineno}, column {error.colno}.") from None
        except (ValueError, RecursionError) as error:
            raise ValidationError(f"Not JSON: {error}.") from None

    def as_text(self, value: Any) -> str:
        return visible_json(value, indent=2)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class OptionalField(forms.Field):
    """A field whose value is UNSET if it is empty."""

    def clean(self, value: Any) -> Any:
        cleaned = super().clean(value)
        return UNSET if cleaned is None or cleaned == "" else cleaned

    def as_text(self, value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value)


class OptionalCharField(OptionalField, forms.CharField):
    """A text of one or more lines. A browser sends its lines with the line ends of Windows; they become `\\n`."""

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        return text.replace("\r\n", "\n").replace("\r", "\n") if isinstance(text, str) else text

    def as_text(self, value: Any) -> str:
        return visible_lines(super().as_text(value))


class OneLineField(OptionalCharField):
    """A text of one line: a browser drops line ends."""

    def as_text(self, value: Any) -> str:
        return "".join(super().as_text(value).splitlines())


class OptionalIntegerField(OptionalField, forms.IntegerField):
    pass


class OptionalNumberField(OptionalField, forms.FloatField):
    """A number. One without a fraction becomes an int, so that it is stored as it was typed."""

    def to_python(self, value: Any) -> Any:
        number, text = super().to_python(value), str(value).strip()
        whole = number is not None and math.isfinite(number) and text.lstrip("-").isdecimal()
        return int(text) if whole else number


class LocalTimeField(forms.CharField):
    """A time of the zone that the form says, or with an offset. `clean` returns it in UTC, None if it is empty.

    A time that comes twice needs an offset, for which a browser's field for times has no room: it becomes one for text.
    """

    zone: Any = None  # set by the form; None: the current one

    def __init__(self, **options: Any) -> None:
        widget = forms.TextInput(attrs={"type": "datetime-local", "step": "1"})
        super().__init__(required=False, max_length=35, widget=widget, **options)

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        try:
            return local_time.read(text, self.zone) if text else None
        except local_time.WrongTime as error:
            if error.twice:
                self.widget.input_type = "text"
            raise ValidationError(str(error)) from None


class JSONChoiceField(forms.TypedChoiceField):
    """A choice among JSON values, which the page identifies by their JSON text."""

    def __init__(self, values: Iterable[Any], *, empty: str | None, **options: Any) -> None:
        choices = [] if empty is None else [("", empty)]
        choices += _titled([*values])
        super().__init__(choices=choices, coerce=json.loads, empty_value=UNSET, **options)

    def as_text(self, value: Any) -> str:
        return json.dumps(value)


def _titled(values: list[Any]) -> list[tuple[str, str]]:
    """Return the choices; those that would look alike, as 1 and "1", are shown as JSON."""
    titles = [{True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value) for value in values]
    return [
        (json.dumps(value), visible_lines(title) if titles.count(title) == 1 else visible_json(value))
        for value, title in zip(values, titles, strict=True)
    ]


def field_of(prop: Property, value: Any, number: int) -> forms.Field | None:
    """Return the form field for a parameter, with the value as its initial text; None if it cannot show the value.

    It is never required: the API decides whether a value is missing.
    """
    return _showing(_field(prop, {"label": prop.label, "help_text": prop.help}), prop, value, number)


def json_field_of(prop: Property, value: Any, number: int) -> forms.Field:
    """Return the field for a parameter whose own field cannot show the value. It is empty if JSON cannot either."""
    help_text = f"{prop.help} In JSON, because its usual field cannot show this value.".strip()
    options: dict[str, Any] = {"label": prop.label, "help_text": help_text, "required": False}
    field = _showing(JSONTextField(**options), prop, value, number)
    return field or _showing(JSONTextField(**options), prop, UNSET, number)  # type: ignore[return-value]


def _showing(field: Any, prop: Property, value: Any, number: int) -> forms.Field | None:
    field.initial = "" if value is UNSET or (value is None and prop.when_empty is None) else field.as_text(value)
    if value is not UNSET and not _same(_read(field, prop), value):
        return None
    field.widget.attrs |= {"id": f"id_param_{number}", **_attributes(prop, field)}
    return field


def _read(field: forms.Field, prop: Property) -> Any:
    try:
        cleaned = field.clean(field.initial)
    except ValidationError:
        return UNSET
    return prop.when_empty if cleaned is UNSET else cleaned


def _same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are the same, also in type: 1, 1.0 and true differ."""
    return one is not UNSET and json.dumps(one) == json.dumps(other)


def _field(prop: Property, options: dict[str, Any]) -> forms.Field:
    schema, kind = prop.schema, prop.schema.get("type")
    options["required"] = False
    if prop.choices is not None:
        return JSONChoiceField(prop.choices, empty=_empty_choice(prop), **options)
    if kind == "boolean":
        return JSONChoiceField([True, False], empty=_empty_choice(prop), **options)
    if kind == "integer":
        return OptionalIntegerField(**options)
    if kind == "number":
        return OptionalNumberField(**options)
    if kind == "string" and schema.get("format") in (*FORMATS, "password"):
        return OneLineField(strip=False, widget=forms.TextInput, **options)
    if kind == "string":
        low = schema.get("maxLength", 0) <= MAX_LOW and "\n" not in str(prop.default)
        return OptionalCharField(strip=False, widget=forms.Textarea(attrs={"rows": 1 if low else 4}), **options)
    return JSONTextField(**options | {"help_text": f"{prop.help} {_json_shape(schema)}".strip()})


def _json_shape(schema: Mapping[str, Any]) -> str:
    """Return a sentence with what the JSON of a parameter must be."""
    if schema.get("type") == "array":
        return "In JSON: a list."
    if schema.get("type") != "object":
        return "In JSON."
    names = ", ".join(schema.get("properties", ()))
    return f"In JSON: an object with {names}." if names else "In JSON: an object."


def _empty_choice(prop: Property) -> str | None:
    """Return the label of the empty choice, None if there is no such choice."""
    if prop.when_empty is None:
        return "none"
    if prop.required:
        return "choose…"
    return None if prop.default is not UNSET else "chosen by FMV"


def _attributes(prop: Property, field: forms.Field) -> dict[str, Any]:
    names = (
        {"minimum": "min", "maximum": "max"} if isinstance(field, OptionalIntegerField | OptionalNumberField) else {}
    )
    if isinstance(field, OptionalCharField):
        names = {"minLength": "minlength", "maxLength": "maxlength"}
    found = {names[key]: prop.schema[key] for key in names if isinstance(prop.schema.get(key), int | float)}
    if isinstance(field, OptionalNumberField):
        found["step"] = "any"
    if prop.required and not prop.nullable:
        found["required"] = True
    if prop.schema.get("format") == "password" or prop.schema.get("writeOnly"):
        found["autocomplete"] = "off"
    return found
