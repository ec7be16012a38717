"""The form that runs a task, made from the JSON Schema of a handler's parameters.

The form only turns its fields into the JSON of an API request. That is validated by the code of the API, and each
problem is shown beside its field.
"""

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from fmv.errors import Problem
from tasks import registry
from tasks.models.status import DEFAULT_PRIORITY, MAX_PRIORITY

PREFIX = "params."  # of the names of parameters' fields
REST = "params"  # the field for parameters that the schema does not name
UNSET: Any = object()  # the parameter is left out, so the handler's default applies
MAX_ONE_LINE = 2000  # characters; a text that may be longer gets a field of several lines
FORMATS = {
    "date-time": "A time, as in 2027-01-31T08:00:00Z",
    "date": "A day, as in 2027-01-31",
    "time": "A time of day, as in 08:00:00",
    "duration": "A duration, as in PT1H30M",
    "uuid": "A UUID",
    "email": "An e-mail address",
    "uri": "A URL",
}
SENT = "This form was already sent with other values, and that task was submitted. Send it again to submit another."
BY_FMV = "If empty, FMV chooses a value."


# --- Parameters of a JSON Schema -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Property:
    """A parameter: its name, its schema with references resolved and null removed, and what may be omitted."""

    name: str
    schema: Mapping[str, Any]
    nullable: bool
    required: bool

    @property
    def default(self) -> Any:
        """The default in the schema; UNSET if only the handler knows it."""
        return self.schema.get("default", UNSET)

    @property
    def label(self) -> str:
        return str(self.schema.get("title") or self.name)

    @property
    def choices(self) -> list[Any] | None:
        """The allowed values, None if they are not enumerated."""
        if "const" in self.schema:
            return [self.schema["const"]]
        values = self.schema.get("enum")
        return values if isinstance(values, list) and values and all(_is_plain(v) for v in values) else None

    @property
    def help(self) -> str:
        bounds = _bounds(self.schema)
        said = [str(self.schema.get("description", "")).strip(), FORMATS.get(self.schema.get("format", ""), ""), bounds]
        if not self.required and self.default is UNSET:
            said.append(BY_FMV)
        elif self.nullable:
            said.append("Empty means none.")
        return " ".join(f"{text.rstrip('.')}." for text in said if text)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _bounds(schema: Mapping[str, Any]) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    over = "more than " if "minimum" not in schema else "at least "
    under = "less than " if "maximum" not in schema else "at most "
    if "minimum" in schema and "maximum" in schema:
        return f"From {low:,} to {high:,}"
    limits = [f"{over}{low:,}" if low is not None else "", f"{under}{high:,}" if high is not None else ""]
    return ", ".join(limit for limit in limits if limit).capitalize()


def properties(schema: Mapping[str, Any]) -> list[Property]:
    """Return the parameters that the schema names, in its order; none if it does not describe an object."""
    defs = schema.get("$defs", {})
    root = _resolved(schema, defs)
    named = root.get("properties") if root.get("type") == "object" else None
    required = root.get("required", ())
    return [_property(name, part, defs, name in required) for name, part in (named or {}).items()]


def takes_more(schema: Mapping[str, Any]) -> bool:
    """Return whether the schema allows parameters that it does not name."""
    root = _resolved(schema, schema.get("$defs", {}))
    return root.get("type") != "object" or bool(root.get("additionalProperties", "properties" not in root))


def _property(name: str, schema: Any, defs: Mapping[str, Any], required: bool) -> Property:
    schema = _resolved(schema if isinstance(schema, dict) else {}, defs)
    others = [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    nullable = 0 < len(others) < len(schema.get("anyOf", ()))
    if nullable:
        whole = {key: value for key, value in schema.items() if key != "anyOf"}
        schema = {**(_resolved(others[0], defs) if len(others) == 1 else {"anyOf": others}), **whole}
    return Property(name, schema, nullable, required)


def _resolved(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema with its reference resolved; keywords beside the reference take precedence."""
    for _ in range(8):  # references may lead to references, possibly in a circle
        refers = [schema] if "$ref" in schema else schema.get("allOf", ())
        if len(refers) != 1:
            break
        target = defs.get(str(refers[0].get("$ref", "")).rpartition("/")[2], {})
        schema = {**target, **{key: value for key, value in schema.items() if key not in ("$ref", "allOf")}}
    return schema


# --- Fields that turn text into JSON ---------------------------------------------------------------------------------


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

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str) or value is None else json.dumps(value, indent=2, ensure_ascii=False)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class OptionalField(forms.Field):
    """A field whose value is UNSET if it is empty."""

    def clean(self, value: Any) -> Any:
        cleaned = super().clean(value)
        return UNSET if cleaned is None or cleaned == "" else cleaned


class OptionalCharField(OptionalField, forms.CharField):
    pass


class OptionalIntegerField(OptionalField, forms.IntegerField):
    pass


class OptionalNumberField(OptionalField, forms.FloatField):
    """A number. One without a fraction becomes an int, so that it is stored as it was typed."""

    def to_python(self, value: Any) -> Any:
        number = super().to_python(value)
        return int(number) if number is not None and str(value).strip().lstrip("-").isdecimal() else number


class JSONChoiceField(forms.TypedChoiceField):
    """A choice among JSON values, which the page identifies by their JSON text."""

    def __init__(self, values: Iterable[Any], *, empty: str | None, **options: Any) -> None:
        choices = [] if empty is None else [("", empty)]
        choices += [(json.dumps(value), _title(value)) for value in values]
        super().__init__(choices=choices, coerce=json.loads, empty_value=UNSET, **options)

    def prepare_value(self, value: Any) -> Any:
        return value if value is None or (isinstance(value, str) and self.valid_value(value)) else json.dumps(value)


def _title(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def field_of(prop: Property, number: int) -> forms.Field:
    """Return the form field for a parameter. It is never required: the API decides whether a value is missing."""
    options: dict[str, Any] = {"label": prop.label, "help_text": prop.help, "required": False}
    if prop.default is not UNSET and prop.default is not None:
        options["initial"] = prop.default
    field = _field(prop, options)
    field.widget.attrs |= {"id": f"id_param_{number}", **_attributes(prop, field)}
    return field


def _field(prop: Property, options: dict[str, Any]) -> forms.Field:
    schema, kind = prop.schema, prop.schema.get("type")
    if prop.choices is not None:
        return JSONChoiceField(prop.choices, empty=_empty_choice(prop), **options)
    if kind == "boolean":
        return JSONChoiceField([True, False], empty=_empty_choice(prop), **options)
    if kind == "integer":
        return OptionalIntegerField(**options)
    if kind == "number":
        return OptionalNumberField(**options)
    if kind == "string":
        long = schema.get("maxLength", 0) > MAX_ONE_LINE or "\n" in str(prop.default)
        return OptionalCharField(
            strip=False, widget=forms.Textarea(attrs={"rows": 4}) if long else forms.TextInput, **options
        )
    return JSONTextField(**options)


def _empty_choice(prop: Property) -> str | None:
    """Return the label of the empty choice, None if there is no such choice."""
    if prop.nullable:
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


# --- The form --------------------------------------------------------------------------------------------------------


class RunForm(forms.Form):
    """The parameters of one handler and the submit options.

    `send` returns the API request; `place` shows the problems that the API found beside the fields.
    """

    use_required_attribute = False
    priority = OptionalIntegerField(
        required=False,
        initial=DEFAULT_PRIORITY,
        min_value=0,
        max_value=MAX_PRIORITY,
        help_text="0 to 9; tasks with a higher number start first.",
    )
    run_at = forms.DateTimeField(
        required=False,
        label="Run at (UTC)",
        help_text="The task does not start before this time. Empty: as soon as its robot is free.",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local", "step": "1"}, format="%Y-%m-%dT%H:%M:%S"),
    )
    expires_at = forms.DateTimeField(
        required=False,
        label="Expires at (UTC)",
        help_text="If the task has not started by then, it is cancelled.",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local", "step": "1"}, format="%Y-%m-%dT%H:%M:%S"),
    )
    timeout = OptionalNumberField(
        required=False, label="Timeout (seconds)", help_text="The longest time that an attempt may take."
    )
    max_attempts = OptionalIntegerField(
        required=False, label="Attempts", help_text="The task is tried this often at most."
    )
    labels = forms.CharField(required=False, help_text="Separated by commas.")
    queue_anyway = forms.BooleanField(
        required=False, label="Queue anyway", help_text="Submit the task although the robot is out of service."
    )

    OPTIONS = ("priority", "run_at", "expires_at", "timeout", "max_attempts", "labels", "queue_anyway")

    def __init__(self, handler: registry.Handler[Any], *args: Any, robot_enabled: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        schema = handler.schema
        self.handler, self.known = handler, properties(schema)
        for number, prop in enumerate(self.known):
            self.fields[PREFIX + prop.name] = field_of(prop, number)
        if takes_more(schema):
            help_text = (
                "A JSON object with the parameters that have no field above." if self.known else "A JSON object."
            )
            title = "Further parameters" if self.known else "Parameters"
            self.fields[REST] = JSONTextField(required=False, label=title, help_text=help_text)
        self.fields["timeout"].widget.attrs |= {"placeholder": f"{handler.timeout:g}", "min": 0}
        self.fields["max_attempts"].widget.attrs |= {"placeholder": handler.retry.max_attempts, "min": 1, "max": 100}
        if robot_enabled:
            del self.fields["queue_anyway"]

    @property
    def param_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.fields if name == REST or name.startswith(PREFIX)]

    @property
    def option_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.OPTIONS if name in self.fields]

    @property
    def shapes(self) -> list[tuple[str, Any]]:
        """The labels and schemas of the parameters that are typed as JSON."""
        typed = [prop for prop in self.known if type(self.fields[PREFIX + prop.name]) is JSONTextField]
        defs = self.handler.schema.get("$defs", {})
        return [(prop.label, {**prop.schema, **({"$defs": defs} if defs else {})}) for prop in typed]

    @property
    def options_open(self) -> bool:
        """Whether to show the options: one has an error or a value other than its default."""
        return any(
            field.errors or field.value() not in (None, "", False, *_defaults(field)) for field in self.option_fields
        )

    def clean(self) -> None:
        rest = self.cleaned_data.get(REST, UNSET)
        if rest is not UNSET and not isinstance(rest, dict):
            self.add_error(REST, "Must be a JSON object: {…}.")

    def send(self) -> dict[str, Any]:
        """Return the body of the API request. The form must be valid."""
        said = {name: value for name in self.OPTIONS if _is_given(value := self._option(name))}
        return {"handler": self.handler.name, "params": self._params(), **said}

    def _option(self, name: str) -> Any:
        value = self.cleaned_data.get(name)
        if isinstance(value, dt.datetime):
            return value.isoformat()
        return [part for label in value.split(",") if (part := label.strip())] if name == "labels" and value else value

    def _params(self) -> dict[str, Any]:
        rest = self.cleaned_data.get(REST, UNSET)
        params: dict[str, Any] = {} if rest is UNSET else dict(rest)
        for prop in self.known:
            value = self.cleaned_data[PREFIX + prop.name]
            value = self._when_empty(prop) if value is UNSET else value
            if value is not UNSET:
                params[prop.name] = value
        return params

    def _when_empty(self, prop: Property) -> Any:
        """Return the value of an emptied field: None if that is allowed, "" for a text with a default, else UNSET."""
        if prop.nullable and (prop.required or prop.default is not UNSET):
            return None
        return "" if prop.schema.get("type") == "string" and isinstance(prop.default, str) else UNSET

    def place(self, problems: Iterable[Problem]) -> None:
        """Show each problem beside its field, or above the form."""
        for problem in problems:
            name, within = self._field_of(problem.loc)
            where = f"{'.'.join(map(str, within))}: " if within else ""
            text = SENT if problem.type == "reused" else f"{where}{problem.msg}"
            self.add_error(name, ValidationError(text, code=problem.type))

    def _field_of(self, loc: tuple[str | int, ...]) -> tuple[str | None, tuple[str | int, ...]]:
        """Return the field that a problem's `loc` names, and the rest of the `loc` within that field."""
        match loc:
            case (_, "params", name, *within) if f"{PREFIX}{name}" in self.fields:
                return f"{PREFIX}{name}", tuple(within)
            case (_, "params", *within) if REST in self.fields:
                return REST, tuple(within)
            case (_, str(name), *within) if name in self.OPTIONS and name in self.fields:
                return name, tuple(within)
        return None, loc[1:]


def _is_given(value: Any) -> bool:
    return value is not UNSET and value is not False and value not in (None, "", [])


def _defaults(field: forms.BoundField) -> tuple[Any, ...]:
    return (field.initial, str(field.initial))


def initial_of(params: Any) -> dict[str, Any]:
    """Return the form's initial values for the parameters of an earlier task."""
    return {f"{PREFIX}{name}": value for name, value in params.items()} if isinstance(params, dict) else {}
