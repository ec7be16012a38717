"""`manage.py export_robots`: all robots, so that `import_robots` makes the same ones."""

import csv
import io
import json

import pytest

from fmv.devstack import stack
from robots.models import Robot
from robots.transfer import FIELDS
from tests.support.commands import run
from tests.support.factories import make_robot

pytestmark = pytest.mark.django_db(transaction=True)

ODD = [
    {"name": "Bender", "is_great": True, "enabled": False, "lanes": 16, "endpoint": "http://bender.example/?a=1,2"},
    {"name": 'Crow "T." Robot, Jr.', "labels": ["a;b", "c,d", 'e"f']},
    {"name": "=1+1", "labels": ["[night"]},
    {"name": "[1]", "labels": ["x", "[y]"]},
    {"name": "Zoë 🤖", "labels": ["ünder", "x y"]},
    {"name": "-", "description": "two\nlines\r\nthree\rfour\u2028five"},
    {"name": "'", "description": '"', "location": ","},
    {"name": "null", "description": "true", "location": "1", "endpoint": None},
]


@pytest.fixture
def odd_robots():
    return [make_robot(**fields) for fields in ODD]


def fields():
    return {robot.name: {name: getattr(robot, name) for name in FIELDS} for robot in Robot.objects.all()}


@pytest.mark.usefixtures("odd_robots")
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_what_is_exported_is_imported_as_it_was(tmp_path, suffix):
    path, before = tmp_path / f"fleet{suffix}", fields()
    outcome = run("export_robots", str(path))
    assert (outcome.status, outcome.err) == (0, f"Wrote {len(ODD)} robots to {path}.\n")
    assert run("import_robots", str(path), "--existing", "replace").out == f"{len(ODD)} unchanged.\n"
    Robot.objects.all().delete()
    assert run("import_robots", str(path)).out == f"{len(ODD)} added.\n"
    assert fields() == before
    again = tmp_path / f"again{suffix}"
    run("export_robots", str(again))
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.usefixtures("odd_robots")
def test_robots_are_in_the_order_of_their_names(tmp_path):
    run("export_robots", str(tmp_path / "fleet.jsonl"))
    lines = (tmp_path / "fleet.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["name"] for line in lines] == sorted(each["name"] for each in ODD)


def test_csv_is_what_spreadsheets_read(tmp_path):
    make_robot(name="R2", labels=["a", "b"], location="Naboo", description="beep\nbeep")
    run("export_robots", str(tmp_path / "fleet.csv"))
    text = (tmp_path / "fleet.csv").read_bytes().decode()
    assert text == f'{",".join(FIELDS)}\r\nR2,false,Naboo,"beep\nbeep",true,1,a;b,\r\n'
    [row] = csv.DictReader(io.StringIO(text, newline=""))
    assert row["description"] == "beep\nbeep"


def test_csv_holds_no_cell_that_a_spreadsheet_evaluates(tmp_path):
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "'=1+1"]
    for number, formula in enumerate(formulas):
        make_robot(name=f"R{number}", description=formula, labels=[formula, "x", f"{formula}2"])
    run("export_robots", str(tmp_path / "fleet.csv"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "fleet.csv").read_text(), newline="")))
    assert [row["description"] for row in rows] == [f"'{formula}" for formula in formulas]
    assert [row["labels"] for row in rows] == [f"'{formula};x;'{formula}2" for formula in formulas]
    Robot.objects.all().delete()
    assert run("import_robots", str(tmp_path / "fleet.csv")).out == "5 added.\n"
    stored = list(Robot.objects.order_by("name").values_list("description", "labels"))
    assert stored == [(formula, [formula, "x", f"{formula}2"]) for formula in formulas]


def test_an_empty_registry_is_an_empty_file(tmp_path):
    assert run("export_robots", str(tmp_path / "fleet.jsonl")).status == 0
    assert (tmp_path / "fleet.jsonl").read_bytes() == b""
    run("export_robots", str(tmp_path / "fleet.csv"))
    assert run("import_robots", str(tmp_path / "fleet.csv")).out == "No robots.\n"


def test_a_file_that_exists_is_replaced_by_force_only(tmp_path):
    path = tmp_path / "fleet.jsonl"
    path.write_text("mine")
    make_robot(name="R2")
    outcome = run("export_robots", str(path))
    assert outcome.status == 1
    assert "--force" in outcome.err
    assert path.read_text() == "mine"
    assert run("export_robots", str(path), "--force").status == 0
    assert json.loads(path.read_bytes())["name"] == "R2"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("arguments", [["nowhere/fleet.csv"], [str(stack.ROOT)], ["fleet.txt"], ["--format", "xml"]])
def test_wrong_arguments_are_refused(arguments):
    assert run("export_robots", *arguments).status != 0
    assert not (stack.ROOT / "fleet.txt").exists()
