"""The form that runs a task, made from the JSON Schema of a handler's parameters.

The form only turns its fields into the JSON of an API request. That is validated by the code of the API, and each
problem is shown beside its field.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from fmv import local_time
from fmv.errors import Problem
from tasks import registry
from tasks.admin.parameter_fields import (
    JSONTextField,
    LocalTimeField,
    OptionalIntegerField,
    OptionalNumberField,
    field_of,
    json_field_of,
)
from tasks.admin.parameters import UNSET, Property, properties, takes_more
from tasks.models.status import DEFAULT_PRIORITY, MAX_PRIORITY

PREFIX = "params."  # of the names of parameters' fields
JSON_PREFIX = "json."  # of those that have JSON instead, because the usual field cannot show the value
TIMES = ("run_at", "expires_at")
REST = "params"  # the field for parameters that the schema does not name
SENT = "This form was already sent with other values, and that task was submitted. Send it again to submit another."


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
    run_at = LocalTimeField(
        label="Run at", help_text="The task does not start before this time. Empty: as soon as its robot is free."
    )
    expires_at = LocalTimeField(
        label="Expires at",
        help_text="If its first attempt has not started by then, the task is revoked. Later attempts may start later.",
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

    def __init__(
        self,
        handler: registry.Handler[Any],
        *args: Any,
        params: Mapping[str, Any] | None = None,
        robot_enabled: bool = True,
        **kwargs: Any,
    ) -> None:
        """`params`: those of an earlier task, which the form shows."""
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        schema = handler.schema
        self.handler, self.known = handler, properties(schema)
        self._names: dict[str, str] = {}  # of the fields, by parameter
        for number, prop in enumerate(self.known):
            self._add_field(prop, (params or {}).get(prop.name, prop.default), number)
        if takes_more(schema):
            self._add_rest({name: value for name, value in (params or {}).items() if name not in self._names})
        self.fields["timeout"].widget.attrs |= {"placeholder": f"{handler.timeout:g}", "min": 0}
        self.fields["max_attempts"].widget.attrs |= {"placeholder": handler.retry.max_attempts, "min": 1, "max": 100}
        if robot_enabled:
            del self.fields["queue_anyway"]
        self._set_zone()

    def _set_zone(self) -> None:
        """Have the times be those of the zone that the form says, also if the reader has chosen another meanwhile."""
        sent = self.data.get("zone", "") if self.is_bound else ""
        zone = local_time.find(sent) if sent else None
        self.zone = zone.key if zone else local_time.current_name()
        for name in TIMES:
            field: Any = self.fields[name]
            field.label, field.zone = f"{field.label} ({self.zone})", zone
        self._unknown_zone = sent if sent and zone is None else ""

    def _add_field(self, prop: Property, value: Any, number: int) -> None:
        usual, in_json = PREFIX + prop.name, JSON_PREFIX + prop.name
        if self.is_bound:  # the form that was sent shows which field it had
            field = None if in_json in self.data else field_of(prop, UNSET, number)
        else:
            field = field_of(prop, value, number)
        self._names[prop.name] = usual if field else in_json
        self.fields[self._names[prop.name]] = field or json_field_of(prop, value, number)

    def _add_rest(self, values: dict[str, Any]) -> None:
        help_text = "A JSON object with the parameters that have no field above." if self.known else "A JSON object."
        title = "Further parameters" if self.known else "Parameters"
        field = JSONTextField(required=False, label=title, help_text=help_text)
        field.initial = field.as_text(values) if values else ""
        self.fields[REST] = field

    @property
    def param_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in (*self._names.values(), REST) if name in self.fields]

    @property
    def option_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.OPTIONS if name in self.fields]

    @property
    def shapes(self) -> list[tuple[str, Any]]:
        """The labels and schemas of the parameters that are typed as JSON."""
        typed = [prop for prop in self.known if isinstance(self.fields[self._names[prop.name]], JSONTextField)]
        defs = self.handler.schema.get("$defs", {})
        return [(prop.label, {**prop.schema, **({"$defs": defs} if defs else {})}) for prop in typed]

    @property
    def options_open(self) -> bool:
        """Whether to show the options: one has an error or a value other than its default."""
        return any(
            field.errors or field.value() not in (None, "", False, *_defaults(field)) for field in self.option_fields
        )

    def clean(self) -> None:
        if self._unknown_zone:
            self.add_error(None, f"There is no time zone {self._unknown_zone[: local_time.MAX_NAME]!r}.")
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
            value = self.cleaned_data[self._names[prop.name]]
            value = prop.when_empty if value is UNSET else value
            if value is not UNSET:
                params[prop.name] = value
        return params

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
            case (_, "params", str(name), *within) if name in self._names:
                return self._names[name], tuple(within)
            case (_, "params", *within) if REST in self.fields:
                return REST, tuple(within)
            case (_, str(name), *within) if name in self.OPTIONS and name in self.fields:
                return name, tuple(within)
        return None, loc[1:]


def _is_given(value: Any) -> bool:
    return value is not UNSET and value is not False and value not in (None, "", [])


def _defaults(field: forms.BoundField) -> tuple[Any, ...]:
    return (field.initial, str(field.initial))
