"""`manage.py import_robots`: robots from JSON lines and CSV, all or none."""

import datetime as dt
import json

import pytest

from fmv import audit
from robots import transfer
from robots.models import Robot
from tests.support.commands import run
from tests.support.factories import make_robot

pytestmark = pytest.mark.django_db(transaction=True)

FULL = {
    "name": "Bender",
    "is_great": True,
    "location": "Earth",
    "description": "Please insert girder",
    "enabled": False,
    "lanes": 3,
    "labels": ["bending", "night"],
    "endpoint": "http://bender.example/rpc",
}
LEAST = {"name": "Wall-E", "location": "Earth", "description": "Waste Allocation Load Lifter: Earth-class"}
HEADER = "name,is_great,location,description,enabled,lanes,labels,endpoint"


@pytest.fixture
def imported(tmp_path):
    """Import what the lines say: `imported(*lines, suffix=".csv", options=[…])`."""

    def run_it(*lines, suffix=".jsonl", options=()):
        path = tmp_path / f"fleet{suffix}"
        content = [line if isinstance(line, bytes | str) else json.dumps(line) for line in lines]
        path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in content))
        return run("import_robots", str(path), *options)

    return run_it


def stored(name):
    robot = Robot.objects.get(pk=name)
    return {field: getattr(robot, field) for field in FULL}


# --- JSON lines ------------------------------------------------------------------------------------------------------


def test_it_adds_the_robots_of_a_file(imported):
    outcome = imported(FULL, "", LEAST)
    assert (outcome.status, outcome.out) == (0, "2 added.\n")
    assert stored("Bender") == FULL
    defaults = {"is_great": False, "enabled": True, "lanes": 1, "labels": [], "endpoint": None}
    assert stored("Wall-E") == LEAST | defaults
    robot = Robot.objects.get(pk="Wall-E")
    assert robot.revision == 1
    assert robot.updated_at - robot.created_at < dt.timedelta(seconds=1)


def test_each_robot_has_its_entry_in_the_audit_list(imported):
    imported(FULL, LEAST)
    [entry] = audit.of("robot", "Bender")
    assert (entry.by, entry.action) == ("command", "robot.create")
    assert "Earth" in entry.text
    [other] = audit.of("robot", "Wall-E")
    assert other.request_id == entry.request_id != "-"


def test_what_the_api_answers_can_be_imported(imported):
    profile = LEAST | {"tasks": [], "created_at": "2026-01-01T00:00:00.000Z", "updated_at": "2026-01-01T00:00:00.000Z"}
    assert imported(profile).status == 0
    assert stored("Wall-E")["location"] == "Earth"


def test_an_empty_file_has_no_robots(imported):
    assert imported().out == "No robots.\n"


def test_the_answer_is_one_object(imported):
    assert json.loads(imported(FULL, LEAST, options=["--json"]).out) == {
        "added": 2, "changed": 0, "unchanged": 0, "skipped": 0, "bad": 0, "dry_run": False, "faults": [],
    }  # fmt: skip


def test_a_dry_run_checks_all_and_changes_nothing(imported):
    outcome = imported(FULL, LEAST, options=["--dry-run"])
    assert (outcome.status, outcome.out) == (0, "Would be: 2 added.\n")
    assert not Robot.objects.exists()
    assert imported(FULL, FULL, options=["--dry-run"]).status == 1


# --- Faults ----------------------------------------------------------------------------------------------------------

LINE_FAULTS = [
    ("{", "line 2: JSON decode error: unexpected end of data"),
    ('{"lanes": 1e400}', "line 2: lanes: NaN, Infinity and numbers beyond 1.8e308 are not supported"),
    (r'{"location": "\ud800"}', "line 2: location: Lone surrogates are not supported"),
    ("[1]", "line 2: A line must be one JSON object"),
    ("1", "line 2: A line must be one JSON object"),
    ({}, "line 2: name: This field is required."),
    (LEAST | {"name": None}, "line 2: name: This field may not be null."),
    (LEAST | {"name": 7}, "line 2: name: Input should be a valid string"),
    (LEAST | {"name": "a/b"}, "line 2: name: A name has no '/'"),
    (LEAST | {"name": ".."}, "line 2: name: A name has no '/'"),
    (LEAST | {"name": "R2\u200b"}, "line 2: name: A name has no invisible characters, but here is U+200B."),
    (LEAST | {"name": "a\nb"}, "line 2: name: A name has no '/'"),
    (LEAST | {"name": "x" * 65}, "line 2: name: Ensure this field has no more than 64 characters."),
    (LEAST | {"is_great": True}, "line 2: is_great: Not possible"),
    (LEAST | {"is_great": "perhaps"}, "line 2: is_great: Must be a valid boolean."),
    (LEAST | {"location": " "}, "line 2: location: This field may not be blank."),
    (LEAST | {"lanes": 0}, "line 2: lanes: Ensure this value is greater than or equal to 1."),
    (LEAST | {"lanes": 17}, "line 2: lanes: Ensure this value is less than or equal to 16."),
    (LEAST | {"lanes": "2"}, "line 2: lanes: Input should be a valid integer"),
    (LEAST | {"labels": ["ok", ""]}, "line 2: labels.1: This field may not be blank."),
    (LEAST | {"labels": "night"}, "line 2: labels: Expected a list of items"),
    (LEAST | {"endpoint": "ftp://x"}, "line 2: endpoint: An endpoint is an http or https URL"),
    (LEAST | {"enabled": None}, "line 2: enabled: This field may not be null."),
    (LEAST | {"lable": "night"}, "line 2: lable: Unknown field"),
    (FULL, "line 2: name: 'Bender' is in line 1 already"),
    (FULL | {"name": " Bender "}, "line 2: name: 'Bender' is in line 1 already"),
]


def test_a_robot_of_a_spreadsheet_needs_no_description(imported):
    assert imported("name,location,description", "R2,Naboo,", suffix=".csv").status == 0
    assert imported("name,location", "R3,Naboo", suffix=".csv").status == 0
    assert set(Robot.objects.values_list("name", "description")) == {("R2", ""), ("R3", "")}


def test_two_names_that_look_the_same_are_one_robot(imported):
    outcome = imported(LEAST | {"name": "Bjo\u0308rn"}, LEAST | {"name": "Björn"})
    assert outcome.err.startswith("line 2: name: 'Björn' is in line 1 already")
    assert imported(LEAST | {"name": "A\u00a0 B"}).status == 0
    assert Robot.objects.get().name == "A B"


@pytest.mark.parametrize(("line", "fault"), LINE_FAULTS)
def test_a_line_at_fault_is_reported_and_nothing_is_changed(imported, line, fault):
    outcome = imported(FULL, line, LEAST)
    assert outcome.status == 1
    assert outcome.err.startswith(fault)
    assert outcome.err.endswith("CommandError: Faulty lines: 1. Nothing has changed.\n")
    assert not Robot.objects.exists()


def test_all_faults_are_reported(imported):
    outcome = imported("{", LEAST | {"lanes": 0, "labels": [""]}, LEAST, options=["--json"])
    assert [line.split(": ")[:2] for line in outcome.err.splitlines()[:-1]] == [
        ["line 1", "JSON decode error"],
        ["line 2", "lanes"],
        ["line 2", "labels.0"],
    ]
    answer = json.loads(outcome.out)
    assert (answer["added"], answer["bad"]) == (0, 2)
    assert answer["faults"][2] == {"line": 2, "field": "labels.0", "message": "This field may not be blank."}


def test_told_to_it_skips_what_is_bad(imported):
    outcome = imported(FULL, "{", LEAST | {"lanes": 0}, LEAST, options=["--skip-bad"])
    assert (outcome.status, outcome.out) == (0, "2 added, 2 bad.\n")
    assert set(Robot.objects.values_list("name", flat=True)) == {"Bender", "Wall-E"}


# --- Robots that exist -----------------------------------------------------------------------------------------------


def test_robots_that_exist_are_refused(imported):
    make_robot(name="Bender", location="Bar")
    outcome = imported(LEAST, FULL)
    assert outcome.status == 1
    assert outcome.err.startswith("line 2: name: A robot named 'Bender' exists already\n")
    assert outcome.err.endswith(" After an interrupted import, --existing skip adds the rest.\n")
    assert list(Robot.objects.values_list("name", "location")) == [("Bender", "Bar")]


def test_robots_that_exist_are_bad_lines_that_can_be_skipped(imported):
    make_robot(name="Bender", location="Bar")
    outcome = imported(LEAST, FULL, options=["--skip-bad"])
    assert (outcome.status, outcome.out) == (0, "1 added, 1 bad.\n")
    assert Robot.objects.get(pk="Bender").location == "Bar"


def test_robots_that_exist_are_left_alone(imported):
    make_robot(name="Bender", location="Bar")
    outcome = imported(LEAST, FULL, options=["--existing", "skip"])
    assert (outcome.status, outcome.out) == (0, "1 added, 1 skipped.\n")
    assert Robot.objects.get(pk="Bender").location == "Bar"
    assert stored("Wall-E")["location"] == "Earth"


def test_robots_that_exist_become_as_the_file_says(imported):
    make_robot(name="Bender", location="Bar", labels=["old"])
    before = Robot.objects.get(pk="Bender")
    outcome = imported(LEAST, FULL, options=["--existing", "replace"])
    assert (outcome.status, outcome.out) == (0, "1 added, 1 changed.\n")
    assert stored("Bender") == FULL
    after = Robot.objects.get(pk="Bender")
    assert (after.revision, after.created_at) == (before.revision + 1, before.created_at)
    assert "Bar → Earth" in audit.of("robot", "Bender")[0].text


def test_to_repeat_it_changes_nothing(imported):
    imported(FULL, LEAST)
    outcome = imported(FULL, LEAST, options=["--existing", "replace"])
    assert outcome.out == "2 unchanged.\n"
    assert Robot.objects.get(pk="Bender").revision == 1
    assert len(audit.of("robot", "Bender")) == 1


def test_a_dry_run_tells_of_robots_that_exist(imported):
    make_robot(name="Bender")
    assert imported(LEAST, FULL, options=["--dry-run", "--existing", "replace"]).out == (
        "Would be: 1 added, 1 changed.\n"
    )
    assert imported(LEAST, FULL, options=["--dry-run", "--existing", "skip"]).out == "Would be: 1 added, 1 skipped.\n"
    assert imported(LEAST, FULL, options=["--dry-run"]).status == 1
    assert Robot.objects.count() == 1


def test_of_many_names_those_taken_are_found_too(imported, monkeypatch):
    monkeypatch.setattr(transfer, "WRITE_BATCH", 3)
    for number in (2, 5, 99):
        make_robot(name=f"R{number}", location="Bar")
    outcome = imported(*[LEAST | {"name": f"R{number}"} for number in range(10)], options=["--existing", "skip"])
    assert outcome.out == "8 added, 2 skipped.\n"
    assert set(Robot.objects.filter(location="Bar").values_list("name", flat=True)) == {"R2", "R5", "R99"}


def test_a_robot_that_somebody_adds_meanwhile_stays_as_it_is(imported, monkeypatch):
    faults = transfer.Import.faults

    def late(self):
        found = faults(self)
        make_robot(name="Bender", location="Bar")
        return found

    monkeypatch.setattr(transfer.Import, "faults", late)
    outcome = imported(LEAST, FULL)
    assert (outcome.status, outcome.out) == (1, "1 added, 1 skipped.\n")
    assert "added by another process meanwhile" in outcome.err
    assert Robot.objects.get(pk="Bender").location == "Bar"


# --- CSV -------------------------------------------------------------------------------------------------------------


def test_it_reads_csv(imported):
    outcome = imported(
        HEADER,
        'Bender,yes,Earth,"Please insert\ngirder, ""now""",false,3,bending; night ,http://bender.example/rpc',
        "",
        "Wall-E,,Earth, cleans ,,,,",
        'R2,0,Naboo,beeps,1,1,"[""a;b"", ""[c""]",',
        suffix=".csv",
    )
    assert (outcome.status, outcome.out) == (0, "3 added.\n")
    assert stored("Bender") == FULL | {"description": 'Please insert\ngirder, "now"'}
    assert stored("Wall-E") == LEAST | {"description": "cleans", "is_great": False, "enabled": True, "lanes": 1} | {
        "labels": [],
        "endpoint": None,
    }
    assert stored("R2")["labels"] == ["a;b", "[c"]


def test_the_columns_may_be_in_any_order_and_some_missing(imported):
    imported("description,name,location", "beeps,R2,Naboo", suffix=".csv")
    assert stored("R2")["description"] == "beeps"


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([HEADER, "R2,,Naboo"], "line 2: The line has 3 cells, but there are 8 columns"),
        (["name,location,description", '"R\n2",a,b', "R3,a,b,c"], "line 2: name: A name has no '/'"),
        (["name,location,description", 'R2,"a\nb",c', "R3,,b"], "line 4: location: This field is required."),
        (["name,location,description,lanes", "R2,a,b,many"], "line 2: lanes: Input should be a valid integer"),
        (["name,location,description,labels", "R2,a,b,x;;y"], "line 2: labels.1: This field may not be blank."),
    ],
)
def test_a_line_of_csv_at_fault_is_reported_with_its_number(imported, lines, fault):
    outcome = imported(*lines, suffix=".csv")
    assert outcome.status == 1
    assert fault in outcome.err
    assert not Robot.objects.exists()


# --- Files that are none of robots -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "suffix", "reason"),
    [
        (b"", ".csv", "The first line must name the columns"),
        (b"Bender,true,Earth,x", ".csv", "The first line must name the columns"),
        (b"Name|location|description\nR2|a|b", ".csv", "The first line must name the columns, separated by commas"),
        (b"PK\x03\x04\x14\0\x08\0\x08\0", ".csv", "The file is a workbook. Save its sheet as a text file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ".csv", "The file is a workbook."),
        (b"name,location,description,color\nR2,a,b,c", ".csv", "No robot has 'color'"),
        (b"name,name,location\nR2,a,b", ".csv", "A column is named twice."),
        (b'name,location,description\nR2,a,"b\n', ".csv", "is not CSV"),
        (b'name,location,description\nR2,a,"b"c\n', ".csv", "Line 2 is not CSV"),
        (b"name,location,description\nR2,a," + b"x" * 140_000, ".csv", "Line 2 is not CSV: field larger than"),
        ('{"name": "Bänder"}'.encode("latin-1"), ".jsonl", "Line 1 is not UTF-8, at byte 12."),
        ("name\n".encode("utf-16"), ".csv", "The file is UTF-16. Save it as UTF-8"),
        ("name,location\n".encode("utf-16-le"), ".csv", "The file is UTF-16. Save it as UTF-8"),
        ("name,location\n".encode("utf-16-be"), ".csv", "The file is UTF-16. Save it as UTF-8"),
        ('{"name": "R2"}\n'.encode("utf-16-le"), ".jsonl", "The file is UTF-16. Save it as UTF-8"),
        (b"name,location\rR2,a\rR3,b\r", ".csv", "The lines end with CR only"),
        (b'{"name": "R2"}\r{"name": "R3"}\r', ".jsonl", "The lines end with CR only"),
        (b"\n{" + b" " * (1024 * 1024), ".jsonl", "Line 2 is longer than 1 MiB."),
    ],
)
@pytest.mark.parametrize("options", [[], ["--skip-bad"]])
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(imported, content, suffix, reason, options):
    outcome = imported(content, suffix=suffix, options=options)
    assert outcome.status == 1
    assert reason in outcome.err
    assert not Robot.objects.exists()


@pytest.mark.parametrize(("suffix", "lines"), [(".jsonl", [FULL]), (".csv", ["name,location,description", "R2,a,b"])])
def test_a_byte_order_mark_is_no_part_of_the_file(imported, suffix, lines):
    first, *others = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    assert imported(b"\xef\xbb\xbf" + first.encode(), *others, suffix=suffix).out == "1 added.\n"


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_cells_may_be_separated_as_spreadsheets_of_the_country_have_it(imported, separator):
    rows = [["location", '"name"', "labels"], ["Naboo", "R2", '"a;b"'], ["Hall; 1", "C3", ""]]
    quoted = [[f'"{cell}"' if separator in cell and '"' not in cell else cell for cell in row] for row in rows]
    assert imported(*(separator.join(row) for row in quoted), suffix=".csv").out == "2 added.\n"
    assert (stored("R2")["labels"], stored("C3")["location"]) == (["a", "b"], "Hall; 1")


def test_lines_may_end_as_in_windows(imported):
    assert imported(b"name,location,description\r\nR2,a,b\r\n", suffix=".csv").out == "1 added.\n"
    assert stored("R2")["description"] == "b"


# --- Arguments -------------------------------------------------------------------------------------------------------


def test_the_format_is_reported_by_the_name_or_by_the_option(imported):
    refused = imported(FULL, suffix=".txt")
    assert refused.status == 2
    assert "--format jsonl or csv" in refused.err
    assert imported(FULL, suffix=".txt", options=["--format", "jsonl"]).out == "1 added.\n"


@pytest.mark.parametrize(
    "arguments", [[], ["nowhere.csv"], ["."], ["README.md", "--existing", "perhaps"], ["README.md", "--format", "xml"]]
)
def test_wrong_arguments_are_refused(arguments):
    assert run("import_robots", *arguments).status != 0
    assert not Robot.objects.exists()
