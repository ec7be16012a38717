"""The page Map: who is where, who may see and change what, and floor plans that come and go."""

import datetime as dt
import re

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from fmv.accounts.permissions import Role
from fmv.audit.models import AuditEntry
from fmv.mongodb.server import server_now
from robots import agents, floor_plans
from robots.models import FloorPlan, RobotState
from robots.plan_files import Placement, read_picture
from tasks.admin.pages import map_page
from tests.support.factories import make_robot, make_task
from tests.support.pages import admin, messages, robot_url, text
from tests.support.plan_files import map_yaml, png
from tests.support.probes import STARTED, listening

pytestmark = pytest.mark.django_db(transaction=True)

MAP, PLAN, DELETE = "/admin/map/", "/admin/map/plan/", "/admin/map/plan/delete/"
JAM = [{"type": "jam", "level": "fatal", "description": ""}]


@pytest.fixture(autouse=True)
def _nothing_cached():
    map_page.forget()
    yield
    map_page.forget()


def put(name: str, x: float = 1.0, y: float = 2.0, *, errors=(), robot=None, **position) -> str:
    """Store a robot that reports to be on the map "hall", or on another."""
    session = agents.open_session(make_robot(name=name, **robot or {}).name, boot_id="1")
    agents.report(name, session.id, {"position": {"map": "hall", "x": x, "y": y} | position, "errors": list(errors)})
    return name


def silence(name: str) -> None:
    past = server_now() - dt.timedelta(minutes=5)
    RobotState.objects.filter(pk=name).update(last_seen=past, reported_at=past)


def store_plan(name: str = "hall", *, yaw: float = 0.0) -> FloorPlan:
    floor_plans.store(name, Placement(0.05, 0.0, 0.0, yaw), read_picture(png()), by="fry")
    return floor_plans.find(name)


def dots(page: str) -> dict[str, str]:
    """Return the class of each robot in the picture, without those that all have."""
    found = re.findall('<a id="at-([^"]*)" class="fmv-dot ([^"]*)"', page)
    return {name: kind.replace("dot-", "") for name, kind in found}


def row(page: str, name: str) -> str:
    [found] = re.findall(f'<tr data-key="{name}">(.*?)</tr>', page)
    return re.sub("<[^>]*>", " ", found)


# --- Who is where ----------------------------------------------------------------------------------------------------


def test_robots_are_dots_by_state_that_lead_to_their_pages_and_rows_of_the_table():
    put("Idle", 1, 2, theta=0.0)
    make_task(robot=put("Busy", 3, 4), status="STARTED", lane="Busy/0", **STARTED)
    put("Out", robot={"enabled": False})
    put("Sick", errors=JAM)
    silence(put("Silent", 5, 6))
    put("Elsewhere", map="yard")
    page = text(admin("viewer").get(MAP))
    assert dots(page) == {
        "Idle": "idle",
        "Busy": "busy",
        "Out": "out",
        "Sick": "with_errors",
        "Silent": "offline fmv-old",
    }
    for name in dots(page):
        assert page.count(f'href="/admin/robots/robot/{name}/change/"') == 2  # its dot, and its row
    assert row(page, "Busy").split() == ["Busy", "busy", "3.00", "4.00", "now"]
    assert row(page, "Silent").split() == ["Silent", "offline", "5.00", "6.00", "5", "min", "ago"]
    assert page.index('data-key="Silent"') < page.index('data-key="Sick"') < page.index('data-key="Busy"')
    assert "1 of them without a fresh position" in page
    assert page.count('class="nose"') == 1  # of those, one reports its heading


def test_the_map_with_most_robots_comes_first_and_the_address_names_any():
    put("A", map="yard")
    put("B", map="hall")
    put("C", map="hall")
    put("D", map="")
    store_plan("attic")
    client = admin("viewer")
    page = text(client.get(MAP))
    assert dots(page).keys() == {"B", "C"}
    chips = [" ".join(re.sub("<[^>]*>", "", each).split()) for each in re.findall('<a class="fmv-chip".*?</a>', page)]
    assert chips == ["hall 2 robots", "no name 1 robot", "yard 1 robot", "attic 0 robots"]
    for name, there in (("yard", {"A"}), ("", {"D"}), ("attic", set()), ("nowhere", set()), ("a\0b", {"B", "C"})):
        assert dots(text(client.get(MAP, {"map": name}))).keys() == there
    assert "No robot reports a position on this map." in text(client.get(MAP, {"map": "attic"}))
    assert "The address has an unknown parameter" in text(client.get(MAP, {"mapp": "hall"}))
    assert "The address has the parameter map twice" in text(client.get(f"{MAP}?map=a&map=b"))


def test_a_fleet_without_positions_is_told_how_to_report_them():
    page = text(admin("viewer").get(MAP))
    assert "No robot reports a position yet." in page
    assert "Add a floor plan" not in page
    assert "Add a floor plan" in text(admin("manager").get(MAP))


def test_names_are_shown_as_they_are_and_run_nothing():
    name, hall = "<b>&\"' 搬送 %", "<script>alert(1)</script> hall"
    put(name, map=hall)
    page = text(admin("manager").get(MAP))
    assert "<script>alert" not in page
    assert "<b>&" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; hall" in page
    assert "&lt;b&gt;&amp;&quot;" in page


def test_the_live_part_is_that_of_the_page():
    put("R2")
    client = admin("viewer")
    page = text(client.get(MAP))
    [url, seconds] = re.findall('id="fmv-map"[^>]* data-live="([^"]*)" data-live-seconds="([0-9]*)"', page)[0]
    assert (url, seconds) == ("/admin/map/live/?map=hall", "2")
    answer = client.get(url)
    assert text(answer) in page
    assert answer.headers["X-Live"] == "goes on"


def test_what_many_look_at_is_read_once_a_second():
    put("R2")
    first, second = admin("viewer"), admin("viewer")
    first.get(f"{MAP}live/?map=hall")
    with listening() as commands:
        assert "R2" in text(second.get(f"{MAP}live/?map=hall"))
    assert not [each for each in commands.sent if "robots_" in each]


def test_it_says_so_when_mongodb_does_not_answer(fail_command):
    put("R2")
    client = admin("viewer")
    client.get(MAP)
    map_page.forget()
    fail_command("find", errorCode=50)
    assert "MongoDB did not answer" in text(client.get(f"{MAP}live/?map=hall"))


def test_a_robots_page_shows_it_on_its_map_and_leads_there():
    store_plan()
    put("R2 D2", 3.0, 4.0, theta=1.0)
    put("Lost", map="hall", x=1e300)
    make_robot(name="Without")
    client = admin("viewer")
    page = text(client.get(robot_url("R2 D2")))
    assert dots(page) == {"R2%20D2": "idle"}
    assert 'href="/admin/map/?map=hall#at-R2%20D2"' in page
    assert '<image href="/admin/map/image/?map=hall&amp;v=' in page
    assert 'href="/admin/map/?map=hall#at-R2%20D2"' in text(client.get(robot_url("R2 D2", "live")))
    for name in ("Lost", "Without"):
        assert "fmv-map-near" not in text(client.get(robot_url(name)))


def test_a_thousand_robots_cost_as_many_commands_as_one_and_have_no_names_in_the_picture():
    states = [template(number) for number in range(1000)]
    RobotState.objects.bulk_create(states)
    client = admin("viewer")
    with listening() as commands:
        page = text(client.get(f"{MAP}live/?map=hall"))
    asked = [each for each in commands.sent if not each.startswith("getMore")]
    assert asked[2:] == [
        "find robots_robotstate",
        "aggregate tasks_task",
        "aggregate robots_robot",
        "aggregate robots_floorplan",
    ]
    assert len(dots(page)) == 1000
    assert page.count("<tr data-key") == map_page.ROWS
    assert "800 more are in the picture only" in page
    assert len(page) < 500_000
    assert "fmv-map-many" in page
    assert 'data-live-seconds="4"' in text(client.get(MAP))


def template(number: int) -> RobotState:
    now = server_now()
    position = {"map": "hall", "x": number % 40 * 2.0, "y": number // 40 * 2.0, "theta": 0.01 * number}
    times = {"last_seen": now, "since": now, "reported_at": now, "changed_at": now}
    return RobotState(robot=f"R{number}", online=True, map="hall", reported={"position": position}, **times)


# --- Floor plans -----------------------------------------------------------------------------------------------------


def file(content: bytes, name: str = "hall.png") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content)


TYPED = {"map": "hall", "resolution": "0.05", "x": "-1", "y": "2.5", "yaw": "0.5"}


def test_a_manager_adds_a_floor_plan_by_typed_values_or_by_the_yaml_file():
    client = admin("manager", username="fry")
    answer = client.post(PLAN, TYPED | {"image": file(png(30, 20))}, follow=True)
    assert messages(answer) == ["The floor plan of hall is stored."]
    assert answer.redirect_chain == [("/admin/map/?map=hall", 302)]
    page = text(answer)
    for words in ("30 by 20 pixels", "0.05 m per pixel", "x = -1 m, y = 2.5 m", "0.5 rad", "by fry", "plan.create"):
        assert words in page
    client.post(PLAN, {"map": "yard", "image": file(png(30, 20)), "yaml": file(map_yaml(0.1, 1, 2, 3), "yard.yaml")})
    plan = floor_plans.find("yard")
    assert (plan.resolution, plan.x, plan.y, plan.yaw, plan.changed_by) == (0.1, 1, 2, 3, "fry")


def test_a_replacement_is_confirmed_and_may_keep_the_picture():
    before = store_plan()
    client = admin("manager")
    form = text(client.get(f"{PLAN}?map=hall"))
    assert 'name="resolution" value="0.05"' in form
    assert "Replace the floor plan that this map has now" in form
    for change in ({"image": file(png(7, 7))}, {}):
        answer = client.post(PLAN, TYPED | change)
        assert "Tick the box to replace it." in text(answer)
        assert floor_plans.find("hall").changed_at == before.changed_at
    client.post(PLAN, TYPED | {"replace": "on"})
    after = floor_plans.find("hall")
    assert (after.digest, after.yaw) == (before.digest, 0.5)
    client.post(PLAN, TYPED | {"replace": "on", "image": file(png(7, 7))})
    assert floor_plans.find("hall").width == 7
    assert [entry.action for entry in AuditEntry.objects.filter(kind="plan").order_by("id")] == [
        "plan.create",
        "plan.change",
        "plan.change",
    ]


def test_a_floor_plan_is_stored_in_four_commands_and_deleted_in_two():
    client = admin("manager")
    with listening() as commands:
        client.post(PLAN, TYPED | {"image": file(png())})
        stored, commands.sent[:] = commands.sent[2:], []
        client.post(f"{DELETE}?map=hall")
        deleted = commands.sent[2:]
    plans, entry = "robots_floorplan", "insert fmv_auditentry"
    assert stored[:4] == [f"aggregate {plans}", f"aggregate {plans}", f"update {plans}", entry]
    assert deleted[:2] == [f"delete {plans}", entry]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": None}, "This map has no floor plan yet. Choose a picture."),
        ({"image": b"GIF89a"}, "The file is neither a PNG nor a binary PGM"),
        ({"image": png()[:-5]}, "The PNG is damaged: it was cut off."),
        ({"image": png() + bytes(5 * 2**20)}, "At most 4,194,304 are allowed."),
        ({"image": b""}, "The submitted file is empty."),
        ({"resolution": ""}, "It should be a finite number."),
        ({"resolution": "0"}, "It should be more than 0"),
        ({"x": "nan"}, "It should be a finite number."),
        ({"y": "1e999"}, "It should be a finite number."),
        ({"yaw": "90"}, "from -6.2832 to 6.2832 radians"),
        ({"map": "x" * 201}, "at most 200 characters"),
        ({"map": "a\nb"}, "no control characters"),
        ({"yaml": b"["}, "The file is not YAML"),
        ({"yaml": b"image: hall.pgm"}, "should be a list of three numbers"),
        ({"yaml": map_yaml(resolution=-1)}, "It should be more than 0"),
    ],
)
def test_what_is_no_floor_plan_is_refused_beside_its_field_and_changes_nothing(change, said):
    client, form = admin("manager"), TYPED | {"image": png()} | change
    fields = {
        name: file(value) if isinstance(value, bytes) else value for name, value in form.items() if value is not None
    }
    page = text(client.post(PLAN, fields))
    assert said in page
    assert "Nothing was stored." in page
    assert not FloorPlan.objects.exists()
    assert not AuditEntry.objects.filter(kind="plan").exists()


def test_a_form_that_is_too_large_is_refused_before_it_is_read():
    answer = admin("manager").post(PLAN, TYPED | {"image": file(bytes(9 * 2**20))})
    assert answer.status_code == 413
    assert not FloorPlan.objects.exists()


def test_a_floor_plan_is_deleted_after_a_question():
    store_plan()
    put("R2")
    client = admin("manager")
    assert "Delete the picture of 200 by 100 pixels?" in text(client.get(f"{DELETE}?map=hall"))
    assert floor_plans.find("hall")
    answer = client.post(f"{DELETE}?map=hall", follow=True)
    assert messages(answer) == ["The floor plan of hall is deleted."]
    assert "This map has no floor plan" in text(answer)
    assert AuditEntry.objects.filter(action="plan.delete", key="hall").exists()
    assert messages(client.get(f"{DELETE}?map=hall", follow=True)) == ["hall has no floor plan."]


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.MANAGER])
def test_viewers_see_and_managers_change(role):
    plan, client = store_plan(), admin(role)
    changes = role.includes(Role.MANAGER)
    for page in (MAP, f"{MAP}live/?map=hall", f"{MAP}image/?map=hall"):
        assert client.get(page).status_code == 200, page
    for page in (f"{PLAN}?map=hall", f"{DELETE}?map=hall"):
        assert client.get(page).status_code == (200 if changes else 403), page
        assert changes or client.post(page, TYPED | {"replace": "on"}).status_code == 403
    assert ("Replace…" in text(client.get(MAP))) == changes
    assert floor_plans.find("hall").changed_at == plan.changed_at


def test_nobody_else_sees_any_of_it():
    store_plan()
    pages = (MAP, f"{MAP}live/", f"{MAP}image/?map=hall", PLAN, DELETE)
    for client, page in ((client, page) for client in (Client(), admin(Role.NONE)) for page in pages):
        answer = client.get(page)
        assert (answer.status_code, answer.url.partition("?")[0]) == (302, "/admin/login/")


def test_a_form_of_another_site_changes_nothing():
    store_plan()
    client = admin("manager", enforce_csrf_checks=True)
    assert client.post(f"{DELETE}?map=hall").status_code == 403
    assert client.post(PLAN, TYPED | {"replace": "on"}).status_code == 403
    assert floor_plans.find("hall").yaw == 0


# --- The picture -----------------------------------------------------------------------------------------------------


def test_the_picture_is_sent_once_with_strict_headers_and_asked_about_each_time():
    plan, client = store_plan(), admin("viewer")
    url = f"{MAP}image/?map=hall&v={plan.digest[:12]}"
    answer = client.get(url)
    assert answer.content == png()
    headers = answer.headers
    assert headers["Content-Type"] == "image/png"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "private, no-cache"
    assert headers["ETag"] == f'"{plan.digest}"'
    with listening() as commands:
        again = client.get(url, headers={"If-None-Match": headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert sum(len(repr(each)) for each in commands.answers) < 5000
    store_plan_anew = png(9, 9)
    floor_plans.store("hall", Placement(0.05, 0.0, 0.0, 0.0), read_picture(store_plan_anew), by="fry")
    assert client.get(url, headers={"If-None-Match": headers["ETag"]}).content == store_plan_anew
    assert client.get(f"{MAP}image/?map=yard").status_code == 404
    assert client.get(f"{MAP}image/?map=%00").status_code == 404


def test_what_the_page_says_beside_the_picture_is_where_it_lies():
    store_plan(yaw=1.0)
    put("R2", 2.0, 2.0)
    page = text(admin("viewer").get(MAP))
    [(href, width, height, matrix)] = re.findall(
        '<image href="([^"]*)" width="([0-9]*)" height="([0-9]*)" transform="(matrix[^"]*)"', page
    )
    assert href == f"/admin/map/image/?map=hall&amp;v={floor_plans.digest_of('hall')[:12]}"
    assert (width, height) == ("200", "100")
    assert len(matrix.split()) == 6
