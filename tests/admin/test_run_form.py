"""The form that runs a task: fields from a JSON Schema, text to JSON, errors at their place."""

import datetime as dt
import enum
import json
import re
from decimal import Decimal
from html.parser import HTMLParser
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from django.http import QueryDict
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel, TypeAdapter, create_model

from fmv.errors import InvalidInput, Problem
from tasks import registry
from tasks.admin.parameters import properties, takes_more
from tasks.admin.run_form import PREFIX, RunForm
from tasks.registry import Params


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Shelf(BaseModel):
    row: int
    height: float = 1.0


class Shapes(Params):
    """Every shape that a parameter has in practice."""

    text: str = Field(max_length=20, description="Some text")
    greeting: str = "hello"
    note: str | None = None
    essay: str = Field("", max_length=5000)
    count: int = Field(ge=1, le=10**13)
    few: int | None = Field(5, ge=0, le=9)
    ratio: float = Field(0.5, gt=0, lt=1)
    really: bool
    quickly: bool = True
    maybe: bool | None = None
    colour: Colour = Colour.RED
    mode: Literal["slow", "fast", 3] = "slow"
    only: Literal["this"] = "this"
    way: Literal["up", "down"] | None = None
    shelf: Shelf = Shelf(row=1)
    rooms: list[str] = []
    sizes: dict[str, int] = Field(default_factory=dict)
    either: int | str = 4
    when: dt.datetime | None = None
    by_chance: int = Field(default_factory=lambda: 7, ge=1)
    id: UUID | None = None
    odd: Any = None
    named: str = Field("x", alias='an "odd" name')


GOOD = {"text": "a", "count": "1", "really": "true"}


def handler(params):
    return registry.Handler("shapes", lambda ctx: None, params, 30.0, registry.RetryPolicy())


def form_of(params=Shapes, *, options=None, robot_enabled=True, repeated=None, **values):
    data = QueryDict(mutable=True)
    for name, value in (
        filled(params, repeated) | {f"{PREFIX}{name}": value for name, value in values.items()}
    ).items():
        data[name] = value
    data.update(options or {})
    return RunForm(handler(params), data, robot_enabled=robot_enabled)


def filled(params, repeated=None):
    """What a browser sends when nobody touches the form, which may show the parameters of an earlier task."""
    fresh = RunForm(handler(params), params=repeated)
    return dict(received(str(field)) for field in fresh.param_fields)


class Control(HTMLParser):
    """A field of a page as a browser reads it: its `name`, and the `value` that it sends."""

    def __init__(self, html):
        super().__init__()
        self.name, self.value, self.within = "", None, ""
        self.feed(html)
        self.close()
        if self.within == "textarea":
            self.value = re.sub("\r\n|\r|\n", "\r\n", self.value.removeprefix("\n"))

    def handle_starttag(self, tag, attributes):
        said = dict(attributes)
        if tag in ("input", "select", "textarea"):
            self.name, self.within, self.value = said["name"], tag, said.get("value", "")
        if tag == "input":
            self.value = re.sub("[\r\n]", "", self.value)
            if said["type"] == "number" and not re.fullmatch(r"-?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?", self.value):
                self.value = ""
        if tag == "option" and "selected" in said:
            self.value = said["value"]

    def handle_data(self, text):
        if self.within == "textarea":
            self.value += text


def received(html):
    control = Control(html)
    return control.name, control.value


def sent(form):
    assert form.is_valid(), form.errors
    return form.send()["params"]


def test_an_untouched_form_sends_what_the_handler_would_choose_itself():
    params = sent(form_of(**GOOD))
    assert "by_chance" not in params
    assert "sizes" not in params
    assert handler(Shapes).read_params(params) == Shapes(text="a", count=1, really=True)


KINDS = {
    "text": ("textarea", "Some text."),
    "note": ("textarea", "Empty means none."),
    "essay": ("textarea", ""),
    "count": ("number", "From 1 to 10,000,000,000,000."),
    "ratio": ("number", "More than 0, less than 1."),
    "really": ("select", ""),
    "colour": ("select", ""),
    "mode": ("select", ""),
    "way": ("select", "Empty means none."),
    "shelf": ("textarea", "In JSON: an object with row, height."),
    "rooms": ("textarea", "In JSON: a list."),
    "either": ("textarea", "In JSON."),
    "when": ("text", "A time, as in 2027-01-31T08:00:00Z. Empty means none."),
    "by_chance": ("number", "At least 1. If empty, FMV chooses a value."),
    "odd": ("textarea", "In JSON."),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_parameter_has_the_field_and_the_help_that_fit_it(name):
    field = form_of()[PREFIX + name]
    widget = getattr(field.field.widget, "input_type", "textarea")
    assert (widget, field.help_text) == KINDS[name]


class Trip(Params):
    to: Shelf
    home: Shelf | None = None
    max_speed: float = 1.0
    load: float = Field(1.0, title="Payload in kg")


def test_a_parameter_is_labelled_by_its_name_and_not_by_the_class_of_its_value():
    form = RunForm(handler(Trip))
    assert [field.label for field in form.param_fields] == ["to", "home", "max_speed", "Payload in kg (load)"]
    assert [label for label, _ in form.shapes] == ["to", "home"]


def test_bounds_and_lengths_are_in_the_page_too():
    form = form_of()
    assert 'min="1"' in str(form[PREFIX + "count"])
    assert 'max="10000000000000"' in str(form[PREFIX + "count"])
    assert 'maxlength="20"' in str(form[PREFIX + "text"])
    assert " required" in str(form[PREFIX + "text"])
    assert " required" not in str(form[PREFIX + "greeting"])


TYPED = [
    ("text", "  blanks stay ", "  blanks stay "),
    ("greeting", "", ""),
    ("note", "", None),
    ("note", "null", "null"),
    ("essay", "two\nlines", "two\nlines"),
    ("count", "10000000000000", 10**13),
    ("few", "", None),
    ("few", "0", 0),
    ("ratio", "0.25", 0.25),
    ("ratio", "1e-3", 0.001),
    ("really", "false", False),
    ("quickly", "false", False),
    ("maybe", "", None),
    ("maybe", "true", True),
    ("colour", '"blue"', "blue"),
    ("mode", "3", 3),
    ("way", '"down"', "down"),
    ("way", "", None),
    ("shelf", '{"row": 4}', {"row": 4}),
    ("rooms", '["hall", "Röbi 🤖"]', ["hall", "Röbi 🤖"]),
    ("sizes", '{"a": 1}', {"a": 1}),
    ("either", '"five"', "five"),
    ("when", "2027-01-31T08:00:00Z", "2027-01-31T08:00:00Z"),
    ("by_chance", "9", 9),
    ("odd", "null", None),
    ("odd", "[[]]", [[]]),
    ('an "odd" name', "<b>", "<b>"),
]


@pytest.mark.parametrize(("name", "typed", "value"), TYPED)
def test_what_is_typed_becomes_json(name, typed, value):
    params = sent(form_of(**GOOD | {name: typed}))
    assert params[name] == value
    assert type(params[name]) is type(value)
    handler(Shapes).read_params(params)


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("count", "many"),
        ("count", "1.5"),
        ("count", "9" * 5000),
        ("ratio", "nan"),
        ("ratio", "inf"),
        ("really", "perhaps"),
        ("mode", '"4"'),
        ("shelf", "{"),
        ("rooms", "[NaN]"),
        ("rooms", "[" * 100_000),
        ("text", "\0"),
    ],
)
def test_what_cannot_be_read_is_said_beside_its_field(name, typed):
    form = form_of(**GOOD | {name: typed})
    assert not form.is_valid()
    assert list(form.errors) == [PREFIX + name]


WRONG = [
    ({"text": ""}, "text", "Field required"),
    ({"text": "x" * 21}, "text", "at most 20"),
    ({"count": "0"}, "count", "greater than or equal to 1"),
    ({"count": ""}, "count", "Field required"),
    ({"ratio": "1"}, "ratio", "less than 1"),
    ({"really": ""}, "really", "Field required"),
    ({"shelf": '{"height": 2}'}, "shelf", "row: Field required"),
    ({"rooms": '["a", 2]'}, "rooms", "1: Input should be a valid string"),
    ({"rooms": '"a"'}, "rooms", "valid array"),
    ({"either": "[]"}, "either", "int: "),
    ({"when": "tomorrow"}, "when", "valid datetime"),
    ({"id": "7"}, "id", "valid UUID"),
    ({'an "odd" name': ""}, 'an "odd" name', None),
]


@pytest.mark.parametrize(("typed", "name", "says"), WRONG)
def test_what_the_handler_refuses_is_said_beside_its_field(typed, name, says):
    form = form_of(**GOOD | typed)
    try:
        handler(Shapes).read_params(sent(form))
    except InvalidInput as error:
        form.place(error.problems)
    if says is None:
        assert not form.errors
    else:
        assert list(form.errors) == [PREFIX + name]
        assert says in " ".join(form.errors[PREFIX + name])


def test_problems_that_are_about_no_field_stand_above_the_form():
    form = form_of(**GOOD)
    assert form.is_valid()
    form.place([Problem(("body", "params"), "Cannot be stored"), Problem(("body", "params", "gone"), "No such")])
    form.place([Problem(("body", "timeout"), "Too long"), Problem(("header", "Idempotency-Key"), "…", "reused")])
    assert list(form.errors) == ["__all__", "timeout"]
    assert "params.gone: No such" in form.non_field_errors()
    assert form.non_field_errors().as_data()[-1].code == "reused"
    assert form.options_open


def test_options_are_sent_as_the_api_takes_them():
    options = {"priority": "9", "run_at": "2027-01-31T08:00", "timeout": "1.5", "max_attempts": "2"}
    form = form_of(**GOOD, options=options | {"labels": " night , lab,,", "expires_at": "", "queue_anyway": "on"})
    assert form.is_valid(), form.errors
    body = form.send()
    assert body.pop("params")
    assert body == {
        "handler": "shapes",
        "priority": 9,
        "run_at": "2027-01-31T08:00:00+00:00",
        "timeout": 1.5,
        "max_attempts": 2,
        "labels": ["night", "lab"],
    }


def test_priority_zero_is_sent_and_an_emptied_one_is_not():
    assert form_valid(form_of(**GOOD, options={"priority": "0"})).send()["priority"] == 0
    assert "priority" not in form_valid(form_of(**GOOD, options={"priority": ""})).send()


def form_valid(form):
    assert form.is_valid(), form.errors
    return form


def test_queue_anyway_is_asked_only_of_a_robot_out_of_service():
    assert "queue_anyway" not in form_of(**GOOD).fields
    form = form_valid(form_of(**GOOD, robot_enabled=False, options={"queue_anyway": "on"}))
    assert form.send()["queue_anyway"] is True


def test_options_are_out_of_sight_until_they_say_something():
    assert not RunForm(handler(Shapes)).options_open
    assert form_of(**GOOD, options={"priority": "5"}).options_open
    assert form_of(**GOOD, options={"priority": "ten"}).options_open


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str = "x"


class Nodes(Params):
    children: list["Nodes"] = []


class Listed(RootModel[list[int]]):
    pass


def test_a_schema_that_allows_more_has_a_field_for_the_rest():
    form = form_of(Open, options={"params": '{"extra": [1]}'})
    assert sent(form) == {"extra": [1], "name": "x"}
    assert not form_of(Open, options={"params": "[1]"}).is_valid()
    assert "params" not in form_of(**GOOD).fields


def test_a_schema_that_refers_to_itself_has_its_fields():
    assert [prop.name for prop in properties(Nodes.model_json_schema())] == ["children"]
    assert sent(form_of(Nodes, children='[{"children": []}]')) == {"children": [{"children": []}]}


def test_a_schema_of_no_object_is_typed_as_json():
    assert properties(Listed.model_json_schema()) == []
    assert list(RunForm(handler(Listed)).fields)[-1] == "params"


def test_without_parameters_there_is_nothing_to_fill():
    assert sent(form_of(Params)) == {}
    assert not takes_more(Params.model_json_schema())


def test_the_parameters_of_a_task_fill_the_form():
    was = {
        "text": "a",
        "count": 3,
        "really": False,
        "colour": "blue",
        "rooms": ["hall"],
        "shelf": {"row": 2},
        "way": "up",
    }
    assert sent(form_of(repeated=was)).items() >= was.items()


@pytest.mark.parametrize("name", ["primes", "wait", "http"])
def test_every_built_in_handler_has_a_form(name):
    form = RunForm(registry.get(name))
    assert len(form.param_fields) == len(registry.get(name).schema["properties"])


# --- Values there and back -------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TRAPS = [
    "",
    " ",
    "123",
    "1.5",
    "true",
    "null",
    '"x"',
    "[1]",
    "{",
    "a\nb",
    "a\r\nb\r",
    "\n",
    "\t",
    "\0",
    "\x1b\u202e",
    "\u2028",
]
TEXTS = TEXT | st.sampled_from(TRAPS)
LONG = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([-0.0, 1e22, 2.0**63, 5e-324, 1.0])
JSON = st.recursive(
    st.none() | st.booleans() | LONG | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


class Speed(enum.IntEnum):
    SLOW = 1
    FAST = 2


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str | None = None


#: a parameter's type, and what it may be in the JSON of a submit
LEAVES = [
    (str, TEXTS),
    (Annotated[str, Field(max_length=3000)], TEXTS),
    (Annotated[str, Field(min_length=1, pattern="^[a-z]+$")], st.from_regex("[a-z]+", fullmatch=True)),
    (int, LONG),
    (Annotated[int, Field(ge=0, lt=10)], st.integers(0, 9)),
    (float, FLOATS),
    (bool, st.booleans()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str)),
    (dt.date, st.dates().map(str)),
    (dt.datetime, st.datetimes().map(dt.datetime.isoformat)),
    (dt.time, st.times().map(str)),
    (dt.timedelta, st.integers(-(10**9), 10**9)),
    (UUID, st.uuids().map(str)),
    (bytes, TEXTS),
    (Path, TEXTS),
    (IPv4Address, st.ip_addresses(v=4).map(str)),
    (Colour, st.sampled_from(["red", "blue"])),
    (Speed, st.sampled_from([1, 2])),
    (Literal["1", 1, "true", True, "null", ""], st.sampled_from(["1", 1, "true", True, "null", ""])),
    (Literal["a", None], st.sampled_from(["a", None])),
    (int | str, LONG | TEXTS),
    (str | bool, st.booleans() | TEXTS),
    (Any, JSON),
    (JsonValue, JSON),
    (Shelf, st.fixed_dictionaries({"row": LONG, "height": FLOATS})),
    (
        Annotated[Cat | Dog, Field(discriminator="kind")],
        st.sampled_from([{"kind": "cat", "lives": 1}, {"kind": "dog"}]),
    ),
    (set[int], st.lists(st.integers(0, 7))),  # which a set has in one order, whatever was added first
    (tuple[int, str], st.tuples(LONG, TEXTS).map(list)),
]
TYPES = st.sampled_from(LEAVES) | st.sampled_from(LEAVES).flatmap(
    lambda leaf: st.sampled_from(
        [
            (leaf[0] | None, st.none() | leaf[1]),
            (list[leaf[0]], st.lists(leaf[1], max_size=3)),
            (dict[str, leaf[0]], st.dictionaries(TEXT, leaf[1], max_size=3)),
        ]
    )
)


@st.composite
def models(draw):
    """A model of parameters, and parameters of which some are left out."""
    fields, values = {}, {}
    for name in draw(st.lists(st.sampled_from(["a", "b", "params", "json.a"]), min_size=1, max_size=3, unique=True)):
        annotation, allowed = draw(TYPES)
        default = TypeAdapter(annotation).validate_json(json.dumps(draw(allowed)))
        given_by = draw(st.sampled_from(["caller", "default", "factory"]))
        options = {"caller": {}, "default": {"default": default}, "factory": {"default_factory": lambda d=default: d}}
        field = Field(alias=name, **options[given_by])
        fields[f"p{len(fields)}"] = (annotation, field)
        if given_by == "caller" or draw(st.booleans()):
            values[name] = draw(allowed)
    return create_model("Generated", __base__=draw(st.sampled_from([Params, Open])), **fields), values


@given(models())
@settings(max_examples=300, deadline=None)
def test_a_form_gives_back_the_parameters_that_it_shows(generated):
    model, values = generated
    try:
        stored = handler(model).complete_params(values)
    except InvalidInput:
        assume(False)
    back = sent(form_of(model, repeated=stored))
    assert json.dumps(back, sort_keys=True) == json.dumps(stored, sort_keys=True)
    assert handler(model).complete_params(back) == stored


@given(models())
@settings(max_examples=100, deadline=None)
def test_an_untouched_form_of_any_model_sends_what_the_handler_would_choose_itself(generated):
    model, _ = generated
    try:
        chosen = handler(model).complete_params({})
    except InvalidInput:
        assume(False)
    assert handler(model).complete_params(sent(form_of(model))) == chosen


def test_a_parameter_whose_field_cannot_show_its_value_has_json_instead_also_after_an_error():
    form = RunForm(handler(Shapes), params={"text": "a\r\nb", "note": "", "few": 3})
    names = [field.name for field in form.param_fields][:3]
    assert names == ["json.text", "params.greeting", "json.note"]
    assert form["json.text"].value() == r'"a\r\nb"'
    again = RunForm(handler(Shapes), QueryDict("json.text=nonsense&params.count=1"))
    assert list(again.errors) == ["json.text"]
    assert again["json.text"].value() == "nonsense"


def test_parameters_that_the_schema_does_not_name_are_repeated_too():
    assert sent(form_of(Open, repeated={"name": "y", "extra": [1, "2"]})) == {"name": "y", "extra": [1, "2"]}
