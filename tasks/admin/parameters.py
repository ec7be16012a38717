"""The parameters that a handler's JSON Schema names, as forms and pages show them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNSET: Any = object()  # the parameter is left out, so the handler's default applies
FORMATS = {
    "date-time": "A time, as in 2027-01-31T08:00:00Z",
    "date": "A day, as in 2027-01-31",
    "time": "A time of day, as in 08:00:00",
    "duration": "A duration, as in PT1H30M",
    "uuid": "A UUID",
    "email": "An e-mail address",
    "uri": "A URL",
}
BY_FMV = "If empty, FMV chooses a value."


@dataclass(frozen=True)
class Property:
    """A parameter: its name, its schema with references resolved and null removed, and what may be omitted."""

    name: str
    schema: Mapping[str, Any]
    nullable: bool
    required: bool
    title: str = ""  # its own: a schema that it refers to has the name of a class

    @property
    def default(self) -> Any:
        """The default in the schema; UNSET if only the handler knows it."""
        return self.schema.get("default", UNSET)

    @property
    def when_empty(self) -> Any:
        """The value of an emptied field: None if that is allowed, "" for a text with a default, else UNSET."""
        if self.nullable and (self.required or self.default is not UNSET):
            return None
        return "" if self.schema.get("type") == "string" and isinstance(self.default, str) else UNSET

    @property
    def label(self) -> str:
        """The name, by which programs and errors call it; and before it a title that says more."""
        same = not self.title or _letters(self.title) == _letters(self.name)
        return self.name if same else f"{self.title} ({self.name})"

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
        elif self.when_empty is None:
            said.append("Empty means none.")
        return " ".join(f"{text.rstrip('.')}." for text in said if text)


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


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
    title = str(schema.get("title") or "") if isinstance(schema, dict) else ""
    schema = _resolved(schema if isinstance(schema, dict) else {}, defs)
    others = [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    nullable = 0 < len(others) < len(schema.get("anyOf", ()))
    if nullable:
        whole = {key: value for key, value in schema.items() if key != "anyOf"}
        schema = {**(_resolved(others[0], defs) if len(others) == 1 else {"anyOf": others}), **whole}
    return Property(name, schema, nullable, required, title)


def _resolved(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema with its reference resolved; keywords beside the reference take precedence."""
    for _ in range(8):  # references may lead to references, possibly in a circle
        refers = [schema] if "$ref" in schema else schema.get("allOf", ())
        if len(refers) != 1:
            break
        target = defs.get(str(refers[0].get("$ref", "")).rpartition("/")[2], {})
        schema = {**target, **{key: value for key, value in schema.items() if key not in ("$ref", "allOf")}}
    return schema
