import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from django.db import connection

from robots.models import Robot, plain_name
from tasks.models import Task
from tests.support.api import Api, assert_refused, problems
from tests.support.commands import run
from tests.support.factories import make_robot

pytestmark = pytest.mark.django_db

R2 = {"name": "R2", "location": "Tatooine", "description": "beep"}
WRONG = [
    ("name", 123),
    ("name", True),
    ("name", None),
    ("name", ["R2"]),
    ("name", {"$ne": 1}),
    ("location", 1.5),
    ("location", ""),
    ("location", None),
    ("location", "a\0b"),
    ("location", "x" * 201),
    ("description", False),
    ("description", " "),
    ("description", "\0"),
    ("description", "x" * 2001),
    ("enabled", None),
    ("lanes", 0),
    ("lanes", 17),
    ("lanes", 1.5),
    ("lanes", "1"),
    ("lanes", True),
    ("lanes", None),
    ("lanes", 2**63),
    ("lanes", 2**70),
    ("lanes", -(2**70)),
    ("labels", "red"),
    ("labels", {"a": 1}),
    ("labels", None),
    ("labels", [str(n) for n in range(33)]),
    ("endpoint", ""),
    ("endpoint", "ftp://r2.example"),
    ("endpoint", "r2.example"),
    ("endpoint", "//r2.example"),
    ("endpoint", "http://"),
    ("endpoint", "http://user:secret@r2.example"),
    ("endpoint", "http://r2.example:0"),
    ("endpoint", "http://r2.example:99999"),
    ("endpoint", "http://[::1"),
    ("endpoint", "http://r2.example/#part"),
    ("endpoint", "http://r2.example/a b"),
    ("endpoint", "http://r2.example/\r\nX: y"),
    ("endpoint", "http://r2.example/\0"),
    ("endpoint", "javascript:alert(1)"),
    ("endpoint", "http://r2.example/" + "x" * 2000),
    ("endpoint", 5),
]


@pytest.fixture
def api():
    return Api("manager")


def test_the_front_ends_robot_is_answered_as_the_first_backend_did(api):
    answer = api("POST", "/robot/", R2 | {"is_great": False, "tasks": None})
    assert answer.status_code == 201
    assert answer.content.startswith(
        b'{"name":"R2","is_great":false,"location":"Tatooine","description":"beep","tasks":[],'
    )
    added = ["enabled", "lanes", "labels", "endpoint", "created_at", "updated_at", "state", "hold"]
    assert list(answer.json())[5:] == added


def test_it_is_stored_with_the_defaults(api):
    api("POST", "/robot/", R2)
    robot = Robot.objects.get(pk="R2")
    assert (robot.location, robot.description, robot.is_great) == ("Tatooine", "beep", False)
    assert (robot.enabled, robot.lanes, robot.labels, robot.endpoint) == (True, 1, [], None)


def test_every_field_can_be_given(api):
    fields = {"enabled": False, "lanes": 16, "labels": ["b", "a"], "endpoint": "https://r2.example:8443/rpc?x=1"}
    answer = api("POST", "/robot", R2 | fields)
    assert answer.status_code == 201
    assert {name: answer.json()[name] for name in fields} == fields


def test_the_answer_is_what_a_later_read_gives(api):
    answer = api("POST", "/robot/", R2 | {"labels": ["x"]})
    assert answer.content == api("GET", "/robot/R2").content


@pytest.mark.parametrize(
    "name", ["Crow T. Robot", "Wall-E", "$where", "a%2Fb", "a.b", "ロボ", "r" * 64, "run", "...", "0"]
)
def test_a_name_may_be(api, name):
    assert api("POST", "/robot/", R2 | {"name": name}).json()["name"] == name
    assert Robot.objects.filter(pk=name).exists()


def test_outer_blanks_are_trimmed(api):
    answer = api("POST", "/robot/", {"name": " \tR2\n", "location": " Here ", "description": " beep "})
    assert [answer.json()[key] for key in ("name", "location", "description")] == ["R2", "Here", "beep"]


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", ".", "a\0b", "a\nb", "a\x7fb", "a\x85b", "a\u2028b", "x" * 65])
def test_a_name_may_not_be(api, name):
    answer = api("POST", "/robot/", R2 | {"name": name})
    assert_refused(answer, 422)
    assert set(problems(answer)) == {"body.name"}
    assert not Robot.objects.exists()


def test_unknown_fields_are_ignored(api):
    extra = {"tasks": [{"task_id": "x"}], "$where": "1", "a.b": {"$ne": 1}, "created_at": "x", "_id": "other", "pk": 1}
    assert api("POST", "/robot/", R2 | extra).status_code == 201
    assert list(Robot.objects.values_list("pk", flat=True)) == ["R2"]


def test_booleans_are_read_generously(api):
    for yes in [True, 1, 1.0, "yes", "on", "true", "TRUE", "t", "Y", "1"]:
        answer = api("POST", "/robot/", R2 | {"name": "Bender", "is_great": yes})
        Robot.objects.all().delete()
        assert answer.json()["is_great"] is True, yes


def test_and_so_are_their_opposites(api):
    for number, no in enumerate([False, 0, "no", "off", "False", "f", "n", "0"]):
        answer = api("POST", "/robot/", R2 | {"name": f"R{number}", "is_great": no})
        assert answer.json()["is_great"] is False, no


def test_but_not_everything_is_a_boolean(api):
    for value in [2, -1, "maybe", "", "null", None, [], {}, [True]]:
        assert problems(api("POST", "/robot/", R2 | {"is_great": value})) == ["body.is_great"], value


@pytest.mark.parametrize("great", [True, "yes", 1])
def test_nobody_but_bender_is_great(api, great):
    answer = api("POST", "/robot/", R2 | {"is_great": great})
    assert (answer.status_code, answer.content) == (400, b'{"detail":"Not possible"}')
    assert not Robot.objects.exists()


def test_a_taken_name_is_409_and_changes_nothing(api):
    make_robot(name="R2", location="Naboo")
    answer = api("POST", "/robot/", R2)
    assert answer.status_code == 409
    assert answer.json()["detail"] == [
        {"loc": ["body", "name"], "msg": "A robot named 'R2' exists already", "type": "name_taken"}
    ]
    assert Robot.objects.get().location == "Naboo"


@pytest.mark.parametrize(
    "name", ["R\u200b2", "R2\ufeff", "\u202eR2", "R2\u00ad", "R2\ufe0f", "\u3164", "R2\U000e0041", "a\u2060b", "\u2800"]
)
def test_a_name_has_no_character_that_nobody_sees(api, name):
    for answer in (
        api("POST", "/robot/", R2 | {"name": name}),
        api("PUT", f"/robot/{quote(name)}", R2 | {"name": name}),
    ):
        assert_refused(answer, 422)
        assert [place.partition(".")[2] for place in problems(answer)] == ["name"]
        assert "invisible characters" in answer.json()["detail"][0]["msg"]
    assert not Robot.objects.exists()


COMPOSED, APART = "Björn B", "Bjo\u0308rn\u00a0 B"


def test_a_name_is_stored_in_one_form_and_found_in_each(api):
    make = {"POST /robot/": R2 | {"name": APART}, f"PUT /robot/{quote(APART)}": {"location": "x", "description": "y"}}
    for call, body in make.items():
        answer = api(*call.split(" ", 1), body)
        assert (answer.status_code, answer.json()["name"]) == (201, COMPOSED)
        assert list(Robot.objects.values_list("name", flat=True)) == [COMPOSED]
        assert api("POST", "/robot/", R2 | {"name": COMPOSED}).status_code == 409
        assert api("POST", "/robot/", R2 | {"name": APART}).status_code == 409
        for name in (APART, COMPOSED):
            assert api("GET", f"/robot/{quote(name)}").json()["name"] == COMPOSED
            assert api("PATCH", f"/robot/{quote(name)}", {"name": name, "lanes": 2}).json()["name"] == COMPOSED
            assert api("PUT", f"/robot/{quote(name)}", R2 | {"name": name}).status_code == 200
            assert api("POST", f"/robot/{quote(name)}/run").json()["robot"] == COMPOSED
            batch = api("POST", "/task/batch", {"runs": [{"robot": name, "handler": "noop"}]})
            assert batch.json()["tasks"][0]["robot"] == COMPOSED
        Task.objects.all().delete()
        assert api("DELETE", f"/robot/{quote(APART)}").status_code == 204


@pytest.mark.parametrize("name", [APART, "R2\u200b", "Two  blanks"])
def test_a_robot_that_has_such_a_name_from_before_stays_reachable(api, name):
    make_robot(name=name)
    make_robot(name=plain_name(name).replace("\u200b", ""))
    path = f"/robot/{quote(name)}"
    assert api("GET", path).json()["name"] == name
    assert api("PATCH", path, {"lanes": 2}).json()["name"] == name
    assert api("PUT", path, R2 | {"name": name}).json()["name"] == name
    assert api("POST", f"{path}/run").json()["robot"] == name
    assert (
        api("POST", "/task/batch", {"runs": [{"robot": name, "handler": "noop"}]}).json()["tasks"][0]["robot"] == name
    )
    assert json.loads(run("run_task", name, "noop", "--json").out)["robot"] == name
    Task.objects.all().delete()
    assert api("DELETE", path).status_code == 204
    assert Robot.objects.count() == 1


def test_names_differ_by_case(api):
    make_robot(name="r2")
    assert api("POST", "/robot/", R2).status_code == 201


def test_a_wrong_field_is_named(api):
    for field, value in WRONG:
        answer = api("POST", "/robot/", R2 | {field: value})
        assert_refused(answer, 422)
        assert set(problems(answer)) == {f"body.{field}"}, value
    assert not Robot.objects.exists()


def test_the_wrong_label_is_named_by_its_place(api):
    for label in (1, None, "", "x" * 65, "a\nb", "a\0b", [], {}):
        assert set(problems(api("POST", "/robot/", R2 | {"labels": ["fine", label]}))) == {"body.labels.1"}, label


def test_each_label_is_kept_once_in_its_order(api):
    assert api("POST", "/robot/", R2 | {"labels": ["b", "a", " b ", "$a.b"]}).json()["labels"] == ["b", "a", "$a.b"]


def test_all_problems_are_told_at_once_as_the_front_end_shows_them(api):
    answer = api("POST", "/robot/", {"description": 1})
    assert answer.json()["detail"] == [
        {"loc": ["body", "name"], "msg": "This field is required.", "type": "missing"},
        {"loc": ["body", "location"], "msg": "This field is required.", "type": "missing"},
        {"loc": ["body", "description"], "msg": "Input should be a valid string", "type": "value_error"},
    ]


def test_of_many_at_once_with_one_name_one_is_created(api):
    def create(number):
        try:
            return apis[number]("POST", "/robot/", R2 | {"location": f"place {number}"})
        finally:
            connection.close()

    apis = [Api("manager") for _ in range(50)]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(create, range(50)))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 49]
    winner = next(json.loads(answer.content) for answer in answers if answer.status_code == 201)
    assert Robot.objects.get().location == winner["location"]
