import logging

import pytest

from fmv.http import request_id
from tests.support.api import Api
from tests.support.factories import make_robot

ERRORS = [("GET", "/nope"), ("GET", "/task/x"), ("PUT", "/health"), ("GET", "/auth/login"), ("POST", "/auth/login")]


@pytest.mark.parametrize("id", ["my-id", "a", "A.b_c:d/e+f=g-1", "x" * 128, "0"])
def test_a_sane_id_of_the_client_comes_back(id):
    assert Api(None)("GET", "/health", headers={"X-Request-ID": id}).headers["X-Request-ID"] == id


@pytest.mark.parametrize(
    "id", ["", " ", "a b", "x" * 129, "a\r\nX-Evil: 1", "\0", "é", "\x7f", '"', "{}", "<b>", "a\n"]
)
def test_any_other_is_replaced(id):
    answer = Api(None)("GET", "/health", headers={"X-Request-ID": id})
    assert answer.headers["X-Request-ID"] != id
    assert len(answer.headers["X-Request-ID"]) == 36
    assert "X-Evil" not in answer.headers


def test_each_request_gets_its_own():
    ids = {Api(None)("GET", "/health").headers["X-Request-ID"] for _ in range(10)}
    assert len(ids) == 10


def test_errors_carry_it_too():
    for method, path in ERRORS:
        assert Api(None)(method, path, headers={"X-Request-ID": "mine"}).headers["X-Request-ID"] == "mine", path
    for headers in ({"Host": "evil.example"}, {"Transfer-Encoding": "chunked"}, {"Content-Length": "99999999"}):
        answer = Api(None)("GET", "/health", headers=headers | {"X-Request-ID": "mine"})
        assert answer.status_code >= 400
        assert answer.headers["X-Request-ID"] == "mine"


def test_pages_outside_the_api_carry_it_too(client):
    for path in ("/livez", "/nope", "/"):
        assert client.get(path, headers={"X-Request-ID": "mine"}).headers["X-Request-ID"] == "mine", path


@pytest.mark.django_db
def test_log_lines_of_the_request_carry_it():
    seen = []

    class Collector(logging.Handler):
        def emit(self, record):
            request_id.LogFilter().filter(record)
            seen.append((record.name, record.request_id))

    logger, collector = logging.getLogger("fmv.access"), Collector()
    logger.addHandler(collector)
    try:
        Api("viewer")("GET", "/robot/nobody", headers={"X-Request-ID": "mine"})
    finally:
        logger.removeHandler(collector)
    assert seen == [("fmv.access", "mine")]
    assert request_id.current.get() == "-"


@pytest.mark.django_db
def test_the_task_a_request_starts_keeps_it():
    from tasks.models import Task

    make_robot(name="R2")
    answer = Api("operator")("POST", "/robot/R2/run")
    assert Task.objects.get().request_id == answer.headers["X-Request-ID"]
