import jsonschema
import pytest

from tests.support.api import Api

pytestmark = pytest.mark.django_db


@pytest.fixture
def api():
    return Api("viewer")


def test_it_lists_by_name_what_can_be_run(api):
    answer = api("GET", "/handler/")
    assert list(answer.json()) == ["handlers"]
    handlers = answer.json()["handlers"]
    names = [handler["name"] for handler in handlers]
    assert names == sorted(names)
    assert {"primes", "http", "wait"} <= set(names)
    for handler in handlers:
        keys = ["name", "description", "runs_on", "params", "result", "resume", "timeout", "max_attempts"]
        assert list(handler) == keys
        jsonschema.Draft202012Validator.check_schema(handler["params"])


def test_each_is_found_by_its_name(api):
    for handler in api("GET", "/handler").json()["handlers"]:
        assert handler["description"]
        assert api("GET", f"/handler/{handler['name']}").json() == handler
        assert api("GET", f"/handler/{handler['name']}/").json() == handler


def test_it_says_what_runs_on_the_robot_and_what_that_returns(api):
    drive = api("GET", "/handler/drive").json()
    assert (drive["runs_on"], drive["resume"], drive["description"]) == (
        "robot",
        True,
        "Drive to a place on the robot's map.",
    )
    assert set(drive["result"]["properties"]) == {"x", "y", "distance"}
    primes = api("GET", "/handler/primes").json()
    assert (primes["runs_on"], primes["resume"], primes["result"]) == ("worker", False, None)


def test_the_schema_says_what_a_submit_accepts(api):
    schema = api("GET", "/handler/wait").json()["params"]
    assert schema["required"] == ["seconds"]
    assert schema["additionalProperties"] is False
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid({"seconds": 5})
    assert not validator.is_valid({"seconds": -1})
    assert not validator.is_valid({"seconds": 5, "unknown": 1})


def test_an_unknown_one_is_not_found(api):
    for name in ("nope", "Primes", "%00", "%FF", "..", "a/b", "primes%20", "x" * 10_000):
        answer = api("GET", f"/handler/{name}")
        assert (answer.status_code, answer.content) == (404, b'{"detail":"Not Found"}'), name


def test_head_answers_without_a_body(api):
    assert api("HEAD", "/handler/").content == b""
    assert api("HEAD", "/handler/primes").content == b""
