import pytest

from robots.models import Robot
from tests.support.api import Api, problems
from tests.support.factories import make_robot

pytestmark = pytest.mark.django_db


def names(answer):
    assert answer.status_code == 200, answer.content
    return [robot["name"] for robot in answer.json()["robots"]]


def walk(api, path, step="next"):
    """Yield each page from `path` on."""
    while path:
        page = api("GET", path).json()
        yield page
        path = page[step] and page[step].removeprefix("http://testserver/api/v1")


def test_it_is_as_the_first_backend_wrote_it():
    make_robot(name="Crow T. Robot", location="Satellite of Love")
    make_robot(name="Bender", location="Earth", is_great=True)
    assert Api("viewer")("GET", "/robot/").content == (
        b'{"robots":[{"name":"Bender","is_great":true,"location":"Earth"},'
        b'{"name":"Crow T. Robot","is_great":false,"location":"Satellite of Love"}],"next":null,"previous":null}'
    )


def test_without_robots_it_is_empty():
    assert Api("viewer")("GET", "/robot/").json() == {"robots": [], "next": None, "previous": None}


def test_a_missing_trailing_slash_makes_no_difference():
    make_robot(name="A")
    assert names(Api("viewer")("GET", "/robot")) == ["A"]


def test_names_are_in_utf_8():
    make_robot(name="Röbi 🤖", location="Zürich")
    answer = Api("viewer")("GET", "/robot/")
    assert "Röbi 🤖".encode() in answer.content


def test_head_answers_without_a_body():
    answer = Api("viewer")("HEAD", "/robot/")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("location=Earth", ["Bender", "Wall-E"]),
        ("location=earth", []),
        ("location=Ear", []),
        ("is_great=true", ["Bender"]),
        ("is_great=0", ["Crow", "Wall-E"]),
        ("enabled=no", ["Crow"]),
        ("enabled=ON", ["Bender", "Wall-E"]),
        ("label=red", ["Bender", "Crow"]),
        ("label=re", []),
        ("location=Earth&label=red&is_great=yes", ["Bender"]),
        ("location=Earth&enabled=false", []),
        ("location=$ne", []),
    ],
)
def test_filters_narrow_it(query, found):
    make_robot(name="Bender", location="Earth", is_great=True, labels=["red", "blue"])
    make_robot(name="Crow", location="Satellite", enabled=False, labels=["red"])
    make_robot(name="Wall-E", location="Earth")
    assert names(Api("viewer")("GET", f"/robot/?{query}")) == found


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("BEND", ["Bender"]),
        ("lab", ["a.*c", "Bender", "back\\slash", "x [y] (z)"]),
        ("GIRDER", ["Bender"]),
        (".*", ["a.*c"]),
        ("\\", ["back\\slash"]),
        ("[", ["x [y] (z)"]),
        ("(z)", ["x [y] (z)"]),
        ("^B", []),
        ("$", []),
        (" ", ["Bender", "x [y] (z)"]),
        ("  ", []),
        ("insert ", ["Bender"]),
        (" girder", ["Bender"]),
        ("insert girder ", []),
    ],
)
def test_q_is_found_literally_in_name_location_and_description(q, found):
    make_robot(name="Bender", description="Insert girder")
    for name in ("a.*c", "back\\slash", "x [y] (z)"):
        make_robot(name=name, description="-")
    answer = Api("viewer").client.get("/api/v1/robot/", {"q": q})
    assert sorted(names(answer)) == sorted(found)


def test_pages_forward_and_back_hold_every_robot_once_while_others_are_added():
    Robot.objects.bulk_create(
        Robot(name=f"r{i:03}", location="Lab" if i % 5 else "Attic", description="-") for i in range(320)
    )
    api, wanted = Api("viewer"), [f"r{i:03}" for i in range(320) if i % 5]
    seen, pages = [], []
    for number, page in enumerate(walk(api, "/robot/?location=Lab&limit=25")):
        make_robot(name=f"a{number}", location="Lab")  # before what was read
        make_robot(name=f"r{25 * number:03}.5", location="Attic")
        seen += [robot["name"] for robot in page["robots"]]
        pages.append(page)
    assert seen == wanted
    back = [page["robots"] for page in walk(api, _local(pages[-1]["previous"]), "previous")]
    names_back = [robot["name"] for page in reversed(back) for robot in page]
    assert [name for name in names_back if not name.startswith("a")] == wanted[: len(wanted) - len(pages[-1]["robots"])]
    assert len(set(names_back)) == len(names_back)


def test_links_keep_the_filters():
    for name in ("a b", "a c", "a d"):
        make_robot(name=name, location="x&y=z")
    first = Api("viewer")("GET", "/robot/?location=x%26y%3Dz&limit=1&q=a%20").json()
    second = Api("viewer")("GET", _local(first["next"])).json()
    for link in (first["next"], second["next"], second["previous"]):
        assert link.startswith("http://testserver/api/v1/robot/?")
        assert {"location=x%26y%3Dz", "limit=1"} <= set(link.partition("?")[2].split("&"))
    assert [second["robots"][0]["name"], first["previous"]] == ["a c", None]


def test_a_page_holds_a_thousand_unless_told_otherwise():
    Robot.objects.bulk_create(Robot(name=f"r{i:04}", location="Lab", description="-") for i in range(1001))
    page = Api("viewer")("GET", "/robot/").json()
    assert len(page["robots"]) == 1000
    assert page["next"]


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("is_great=maybe", "query.is_great"),
        ("is_great=", "query.is_great"),
        ("enabled=2", "query.enabled"),
        ("label=", "query.label"),
        ("location=%00", "query.location"),
        ("q=%00", "query.q"),
        ("q=" + "x" * 201, "query.q"),
    ],
)
def test_a_wrong_filter_is_named(query, problem):
    answer = Api("viewer")("GET", f"/robot/?{query}")
    assert answer.status_code == 422
    assert problems(answer) == [problem]


def test_all_wrong_filters_are_named_at_once():
    assert problems(Api("viewer")("GET", "/robot/?is_great=x&enabled=z")) == ["query.is_great", "query.enabled"]


def _local(url):
    return url.removeprefix("http://testserver/api/v1")
