import datetime as dt

import pytest

from tasks.models import Task
from tests.support.api import Api, assert_refused, problems, stored
from tests.support.factories import make_robot, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def api():
    make_robot(name="R2")
    return Api("operator")


def from_now(**delta):
    return (dt.datetime.now(dt.UTC) + dt.timedelta(**delta)).isoformat()


def test_without_a_body_it_runs_primes_of_a_random_count(api):
    for answer in (api("POST", "/robot/R2/run"), api("POST", "/robot/R2/run/"), api("POST", "/robot/R2/run", {})):
        assert answer.status_code == 200
        task = answer.json()
        assert list(task)[:5] == ["task_id", "status", "robot", "handler", "params"]
        assert (task["status"], task["robot"], task["handler"]) == ("CREATED", "R2", "primes")
        assert 3_000_000 <= task["params"]["count"] <= 3_500_000


def test_a_body_of_nothing_may_have_any_type_or_none(api):
    for content_type in ("", "application/json", "text/plain", "application/x-www-form-urlencoded", "garbage"):
        assert api("POST", "/robot/R2/run", content_type=content_type).status_code == 200, content_type


def test_null_is_no_body(api):
    answer = api("POST", "/robot/R2/run", b"null")
    assert (answer.status_code, answer.json()["handler"]) == (200, "primes")


def test_every_later_read_gives_the_real_status(api):
    task_id = api("POST", "/robot/R2/run").json()["task_id"]
    assert api("GET", f"/task/{task_id}").json()["status"] == "QUEUED"
    assert api("GET", "/robot/R2").json()["tasks"][0]["status"] == "QUEUED"


def test_but_for_its_status_the_answer_is_what_a_later_read_gives(api):
    answer = api("POST", "/robot/R2/run", {"run_at": "2100-01-01T00:00:00.1239+05:00", "labels": ["x"]}).json()
    assert answer["run_at"] == "2099-12-31T19:00:00.123Z"
    later = api("GET", f"/task/{answer['task_id']}").json()
    assert answer | {"status": "SCHEDULED"} == later


def test_every_option_is_kept(api):
    options = {
        "handler": "wait",
        "params": {"seconds": 1.5, "steps": 3},
        "priority": 9,
        "run_at": "2100-01-01T00:00:00.000Z",
        "expires_at": "2100-01-02T00:00:00.000Z",
        "timeout": 12.5,
        "max_attempts": 7,
        "labels": ["b", "a", "b"],
    }
    answer = api("POST", "/robot/R2/run", options)
    assert answer.status_code == 200, answer.content
    assert {name: answer.json()[name] for name in options} == options | {"labels": ["b", "a"]}
    task = Task.objects.get()
    assert (str(task.pk), task.status, task.robot) == (answer.json()["task_id"], "SCHEDULED", "R2")


def test_a_null_option_is_one_not_given(api):
    options = {"run_at": None, "expires_at": None, "timeout": None, "max_attempts": None}
    task = api("POST", "/robot/R2/run", options).json()
    assert (task["run_at"], task["timeout"], task["max_attempts"]) == (None, 600.0, 3)


def test_a_time_that_has_come_is_now(api):
    for moment in (from_now(seconds=-1), "0001-01-01T00:00:00Z"):
        api("POST", "/robot/R2/run", {"run_at": moment})
    assert list(Task.objects.values_list("status", "run_at")) == [("QUEUED", None)] * 2


def test_it_is_requested_by_the_caller_with_the_id_of_the_request(api):
    caller = Api(make_user("operator", username="Leela"))
    task = caller("POST", "/robot/R2/run", headers={"X-Request-ID": "my-request"}).json()
    assert task["requested_by"] == "Leela"
    assert [(step["status"], step["attempt"], step["note"]) for step in task["history"]] == [("QUEUED", 0, "by Leela")]
    assert Task.objects.get().request_id == "my-request"


def test_ids_are_version_7_and_sort_by_time(api):
    ids = [api("POST", "/robot/R2/run").json()["task_id"] for _ in range(5)]
    assert ids == sorted(ids)
    assert {id[14] for id in ids} == {"7"}


def test_an_unknown_robot_is_not_found(api):
    for name in ("R3", "r2", "%00", "..", "x" * 10_000, "a%2Fb"):
        answer = api("POST", f"/robot/{name}/run")
        assert (answer.status_code, answer.content) == (404, b'{"detail":"Not Found"}'), name
    assert not Task.objects.exists()


def test_a_robot_out_of_service_takes_none_unless_it_may_wait(api):
    make_robot(name="Off", enabled=False)
    answer = api("POST", "/robot/Off/run")
    assert answer.status_code == 409
    assert "out of service" in answer.json()["detail"]
    assert not Task.objects.exists()
    for yes in (True, "yes", 1, "on"):
        assert api("POST", "/robot/Off/run", {"queue_anyway": yes}).status_code == 200, yes
    assert Task.objects.queued().count() == 4


@pytest.mark.parametrize(
    "params",
    [
        {"body": {"$where": "1", "a.b": {"": 2}, "$set": {"x": 1}}},
        {"body": "\0 and \x1b"},
        {"body": [2**63 - 1, -(2**63), 1e-300, 0.1]},
        {"body": [2.0**63, -(2.0**64), 1e20, 1.7976931348623157e308, 5e-324, "12345678901234567890"]},
        {"body": "🤖\u2028"},
        {"headers": {"X-$a.b": "c"}},
    ],
)
def test_params_are_kept_as_they_are(api, params):
    answer = api("POST", "/robot/R2/run", {"handler": "http", "params": params})
    assert answer.status_code == 200, answer.content
    later = api("GET", f"/task/{answer.json()['task_id']}").json()["params"]
    assert {name: later[name] for name in params} == params


WRONG = [
    ("handler", ["nope", "", None, 3, "$where", "a\0", "x" * 10_000, {}, ["primes"]]),
    ("params", [[], None, "x", 3, True]),
    ("params.count", [{"count": value} for value in (0, -1, 1.5, 2**63, 2**70, 10**14, "many", None, [], {})]),
    ("params.$where", [{"$where": 1}]),
    ("params.a.b", [{"a.b": 1}]),
    ("params.", [{"": 1}]),
    ("params.a\0b", [{"a\0b": 1}]),
    ("priority", [-1, 10, "4", True, 4.5, None, 2**63 - 1, 2**70, -(2**70), [], {}]),
    ("run_at", ["garbage", "", 3, True, [], {}, "2100-01-01", "2100-01-01T00:00:00", "2100-13-01T00:00:00Z"]),
    ("run_at", ["0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "2100-W01-1T00:00:00Z"]),
    ("run_at", ["٢١٠٠-01-01T00:00:00Z", "2100-01-01T00:00:60Z", "2100-01-01T24:00:01Z", "2100-01-01T00:00:00+24:00"]),
    ("expires_at", ["garbage", "2100-01-01T00:00:00", "2001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", 2**70]),
    ("timeout", [0, -1, -0.0, 0.0009, 604_801, 1e300, 2**70, "5", True, [], {}]),
    ("max_attempts", [0, -1, 101, 1.5, "3", True, 2**70, []]),
    ("labels", [None, "a", {"a": 1}, 5, [str(n) for n in range(33)]]),
    ("labels.1", [["fine", value] for value in (1, None, "", "x" * 65, "a\nb", "a\0b", [], {})]),
    ("queue_anyway", [2, None, "maybe", [], {}]),
]


def test_a_wrong_option_is_named(api):
    for place, values in WRONG:
        for value in values:
            answer = api("POST", "/robot/R2/run", {place.partition(".")[0]: value})
            assert_refused(answer, 422)
            assert set(problems(answer)) == {f"body.{place}"}, value
    assert not Task.objects.exists()


def test_an_unknown_option_is_refused(api):
    for option in ("prioritty", "PRIORITY", "$where", "a.b", "a\0", "", "task_id", "status", "__proto__", "🤖"):
        answer = api("POST", "/robot/R2/run", {"priority": 5, option: 1})
        assert_refused(answer, 422)
        hint = ". Did you mean priority?" if option.casefold().startswith("priori") else ""
        assert answer.json()["detail"] == [
            {"loc": ["body", option], "msg": f"Extra inputs are not permitted{hint}", "type": "extra_forbidden"}
        ]
    assert not Task.objects.exists()


def test_what_cannot_be_stored_is_refused(api):
    bodies = [{"a\0b": 2}, "x" * 65_537, [["deep"] * 7000] * 2, [2**63]]
    for body in bodies:
        answer = api("POST", "/robot/R2/run", {"handler": "http", "params": {"body": body}})
        assert_refused(answer, 422)
        assert problems(answer)[0].startswith("body.params")
    assert not Task.objects.exists()


EXTREME = [  # a JSON text, and where the answer finds it at fault
    ('{"body": 18446744073709551616}', "body"),
    ('{"body": {"a": [-9223372036854775809]}}', "body.a.0"),
    (f'{{"body": {"9" * 5000}}}', "body"),
    ('{"body": 1e400}', "body"),
    ('{"body": [0, -1e999]}', "body.1"),
    ('{"body": NaN}', "body"),
    ('{"body": -Infinity}', "body"),
    (r'{"body": "\ud800"}', "body"),
    (r'{"body": {"\udfff": 1}}', r"body.\udfff"),
]


@pytest.mark.parametrize(("params", "place"), EXTREME)
def test_a_number_or_text_that_cannot_be_stored_is_refused_by_its_name(api, params, place):
    run = f'{{"handler": "http", "params": {params}}}'
    answer = api("POST", "/robot/R2/run", run.encode())
    assert_refused(answer, 422)
    assert problems(answer) == [f"body.params.{place}"]
    batch = api("POST", "/task/batch", f'{{"runs": [{{"robot": "R2", {run[1:]}]}}'.encode())
    assert_refused(batch, 422)
    assert problems(batch) == [f"body.runs.0.params.{place}"]
    assert not Task.objects.exists()


def test_the_sign_of_zero_is_kept(api):
    answer = api("POST", "/robot/R2/run", {"handler": "http", "params": {"body": -0.0}})
    assert b'"body":-0.0' in api("GET", f"/task/{answer.json()['task_id']}").content


@pytest.mark.parametrize("seconds", ["NaN", "inf", "1e400"])
def test_a_text_that_the_model_makes_no_finite_number_is_refused_by_its_name(api, seconds):
    answer = api("POST", "/robot/R2/run", {"handler": "mark", "params": {"file": "-", "seconds": seconds}})
    assert_refused(answer, 422)
    assert problems(answer) == ["body.params.seconds"]


def test_a_task_must_not_expire_before_it_may_start(api):
    for options in (
        {"expires_at": from_now(seconds=-1)},
        {"run_at": "2100-01-01T00:00:00Z", "expires_at": "2100-01-01T00:00:00Z"},
        {"run_at": "2100-01-01T00:00:00Z", "expires_at": "2099-12-31T23:59:59Z"},
    ):
        assert problems(api("POST", "/robot/R2/run", options)) == ["body.expires_at"]
    assert not Task.objects.exists()


def test_bodies_that_are_no_objects_are_refused(api):
    before = stored()
    for body in ([], [{}], "primes", 5, True, b"{", b'{"handler":', b"\xff", b"NaN", b"\xef\xbb\xbf{}"):
        assert_refused(api("POST", "/robot/R2/run", body), 422)
    assert stored() == before
