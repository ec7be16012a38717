"""Bad input on every route that reads any: it is refused in one shape, and nothing is stored."""

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests
from django_mongodb_backend.query import wrap_database_errors
from pymongo.errors import NetworkTimeout

from tests.support.api import Api, assert_refused, problems, stored
from tests.support.factories import make_robot, make_task

BODIES = [("POST", "/robot/"), ("PUT", "/robot/R2"), ("PATCH", "/robot/R2"), ("POST", "/robot/R2/run")]
BODIES += [("POST", "/task/batch")]
READS = [
    "/robot/",
    "/robot/R2",
    "/task/",
    "/task/{task}",
    "/task/{task}/log",
    "/handler/",
    "/handler/primes",
    "/health",
]
VERBS = [("POST", f"/task/{{task}}/{verb}") for verb in ("cancel", "retry", "end", "free")]
ROUTES = [*BODIES, *(("GET", path) for path in READS), *VERBS]


@pytest.fixture
def task(db):
    return make_task(robot=make_robot(name="R2"), status="SUCCESS")


def deep(levels, inner="1"):
    return ('{"a":' * levels + inner + "}" * levels).encode()


NO_JSON = [
    *(
        b"{",
        b"}",
        b'{"name":',
        b'{"name":"x",}',
        b"{'name':'x'}",
        b"name=x",
        b"\0",
        b"\xff\xfe",
        b"{}{}",
        b"//",
        b"{} x",
    ),
    *(b'{"name":NaN}', b'{"lanes":Infinity}', b'{"lanes":-Infinity}', b'{"timeout":1e400}', b'{"a":-1e400}'),
    *(
        b'{"name":"a\xff"}',
        b'{"name":"\xed\xa0\x80"}',
        b'{"name":"\\ud800"}',
        b'{"\\udfff":1}',
        b'{"a":"\\ud800\\ud800"}',
    ),
    *(b'{"a":"\x00"}', b'{"a":"\n"}', b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16"), b'{"a":01}', b'{"a":+1}', b" "),
    *(b"[" * 100_000, b"[" * 100 + b"]" * 100, deep(100), deep(33), b'{"params":' + deep(99) + b"}"),
    *(b'{"a":1180591620717411303424}', b'{"a":[{"b":-1180591620717411303424}]}', b'{"a":9223372036854775808}'),
    b"1" * 5000,
]
NO_OBJECTS = [b"true", b"[]", b"[{}]", b'"x"', b"3", b"1.5", b'[["name","x"]]']


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_a_body_that_is_no_json_object_is_refused(task, method, path):
    before, api = stored(), Api("manager")
    for body in NO_JSON + NO_OBJECTS + ([] if path.endswith("/run") else [b"null"]):
        answer = api(method, path, body)
        assert_refused(answer, 422)
        assert all(place.startswith("body") for place in problems(answer)), body[:50]
    assert stored() == before


#: what curl, urllib, fetch, axios, requests and JAX-RS send by default, and nonsense
CONTENT_TYPES = ["application/x-www-form-urlencoded", "text/plain;charset=UTF-8", "", "application/octet-stream", "*/*"]
CONTENT_TYPES += ["application/merge-patch+json", "APPLICATION/JSON ; x=y", "application/json;charset=utf-8", "garbage"]
CONTENT_TYPES += ["multipart/form-data; boundary=x", "application/xml", "é"]
ACCEPTS = [
    "text/html, image/gif, image/jpeg, */*; q=.2",
    "text/plain",
    "application/xml",
    "",
    "garbage",
    "application/json;v=2",
]


@pytest.mark.django_db
@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_body_is_read_as_json_whatever_its_type_is_said_to_be(content_type):
    api = Api("manager")
    robot = {"name": "New", "location": "x", "description": "y"}
    assert api("POST", "/robot/", robot, content_type=content_type).status_code == 201
    assert api("PUT", "/robot/New", robot, content_type=content_type).status_code == 200
    assert api("PATCH", "/robot/New", {"lanes": 3}, content_type=content_type).json()["lanes"] == 3
    assert api("POST", "/robot/New/run", {"priority": 9}, content_type=content_type).json()["priority"] == 9
    assert api("POST", "/task/batch", {"runs": [{"robot": "New"}]}, content_type=content_type).status_code == 200
    assert_refused(api("PATCH", "/robot/New", b"lanes=4", content_type=content_type), 422)


@pytest.mark.parametrize("accept", ACCEPTS)
def test_the_answer_is_json_whatever_the_client_accepts(task, accept):
    api = Api("manager")
    for path in (*READS, "/openapi.json", "/openapi-3.0.json", "/stats"):
        answer = api("GET", path.format(task=task.pk), headers={"Accept": accept})
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json"), path
    assert api("GET", f"/task/{task.pk}/events", headers={"Accept": accept}).status_code == 200
    assert api("GET", "/docs", headers={"Accept": accept}).status_code == 200


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_body_that_is_too_large_is_refused_unread(task, method, path):
    before = stored()
    most = 8 * 1024 * 1024 if path == "/task/batch" else 1024 * 1024
    for body in (b"x" * 10_000_000, b'{"name":"' + b"x" * 10_000_000 + b'"}', b" " * (most + 1)):
        assert_refused(Api("manager")(method, path.format(task=task.pk), body), 413)
    assert stored() == before


def test_a_body_as_large_as_may_be_is_read(task):
    body = b'{"name":"New","location":"x","description":"y","tasks":"%s"}'
    body = body.replace(b"%s", b"x" * (1024 * 1024 - len(body) + 2))
    assert Api("manager")("POST", "/robot/", body).status_code == 201


def test_a_body_of_undeclared_length_is_refused(task):
    for method, path in ROUTES:
        answer = Api("manager")(method, path.format(task=task.pk), headers={"Transfer-Encoding": "chunked"})
        assert_refused(answer, 411)


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", "٣", "²", "9" * 5000, "1_0", "+5", " "])
def test_a_length_that_is_no_number_is_refused(length):
    assert_refused(Api(None)("POST", "/robot/", CONTENT_LENGTH=length), 413)


@pytest.mark.parametrize(
    "path", ["/robot/", "/robot/R2", "/robot/R2/run", "/task/", "/task/{task}", "/task/{task}/log"]
)
def test_odd_queries_never_harm(task, path):
    before, api = stored(), Api("manager")
    method = "POST" if path.endswith("run") else "GET"
    for query in (
        *(
            "&" * 5000,
            "=" * 5000,
            "%",
            "%%%",
            "%FF=%FE",
            "\xff",
            "$where=1",
            "a.b=c",
            "q[$ne]=1",
            "__proto__=1",
            "_id=1",
        ),
        *("limit=5&" * 999, "x" * 8000, "%00=%00", "🤖=1", "format=xml", "format=api", "_method=DELETE", "page=99"),
    ):
        if method == "GET":
            assert api(method, f"{path.format(task=task.pk)}?{query}").status_code in (200, 400, 422), query
    assert stored() == before


@pytest.mark.parametrize("path", ["/robot/", "/task/", "/task/{task}/log"])
def test_more_query_parameters_than_anyone_needs_are_refused(task, path):
    assert_refused(Api("viewer")("GET", f"{path.format(task=task.pk)}?{'a=1&' * 1001}"), 400)


def test_a_wrong_method_is_told_the_right_ones(task):
    api, allowed = Api("manager"), {}
    for method, path in [
        *ROUTES,
        ("POST", "/auth/login"),
        ("DELETE", "/robot/R2"),
        ("GET", "/openapi.json"),
        ("GET", "/stats"),
    ]:
        allowed.setdefault(path.format(task=task.pk), set()).update({method, "OPTIONS"})
    before = stored()
    for path, methods in allowed.items():
        if "GET" in methods:
            methods.add("HEAD")
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW", "QUERY"} - methods:
            for body in (b"", b"{", b"{}"):
                answer = api(method, path, body)
                assert answer.status_code == 405, (method, path)
                assert set(answer.headers["Allow"].split(", ")) == methods
                if method != "HEAD":
                    assert_refused(answer, 405)
    assert stored() == before


def test_an_unknown_path_is_not_found(task):
    api = Api("manager")
    for path in (
        *("", "/", "/nope", "//robot/", "/robot//", "/robot/R2/nope", "/robot/R2/run/now", "/robot/R2/run//"),
        *("/task/x", "/%00", "/%FF", "/../admin/", "/robot/%2F", "/v2/robot/", "/robots", "/.env", "/" + "x" * 8000),
    ):
        for method in ("GET", "POST", "DELETE"):
            answer = api(method, path)
            assert_refused(answer, 404)
            assert answer.content == b'{"detail":"Not Found"}'


@pytest.mark.parametrize("host", ["evil.example", "", "a b", "localhost\0", "[::1", "@", "x" * 5000])
def test_a_host_that_is_not_ours_is_refused(host):
    answer = Api(None)("GET", "/health", headers={"Host": host})
    assert_refused(answer, 400)


def test_whatever_is_accepted_the_answer_is_json(task):
    api = Api("viewer")
    for accept in ["text/html", "image/png", "", "garbage", ";;;", "*/*;q=0", "x" * 5000, "\xff"]:
        answer = api("GET", "/robot/R2", headers={"Accept": accept})
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "application/json"
        assert_refused(api("GET", "/robot/nobody", headers={"Accept": accept}), 404)


def test_other_headers_never_harm(task):
    before = stored()
    for headers in (
        {"X-HTTP-Method-Override": "DELETE"},
        {"Cookie": "sessionid=\0; csrftoken=\xff"},
        {"Cookie": "=" * 5000},
        {"Authorization": "Basic \xff"},
        {"Authorization": "Bearer " + "x" * 5000},
        {"Range": "bytes=0-1"},
        {"Accept-Language": "x" * 5000},
        {"Accept-Encoding": "garbage, \xff"},
        {"X-Forwarded-For": "'; drop"},
        {"X-Forwarded-Host": "evil.example"},
        {"If-Modified-Since": "garbage"},
        {"Content-Type": "\0"},
    ):
        api = Api("viewer")
        assert api("GET", "/robot/R2", headers=headers).status_code in (200, 401), headers
    assert stored() == before


def test_a_fault_of_ours_is_told_without_its_details(task, monkeypatch, caplog):
    from tasks.api import robots

    def broken(*args, **kwargs):
        raise RuntimeError("a secret")

    monkeypatch.setattr(robots.RobotPages, "answer", broken)
    answer = Api("viewer")("GET", "/robot/")
    assert_refused(answer, 500)
    assert answer.content == b'{"detail":"Internal Server Error"}'
    assert "a secret" in caplog.text


def test_why_the_database_did_not_answer_is_logged(monkeypatch, caplog):
    from tasks.api import robots

    @wrap_database_errors
    def broken(*args, **kwargs):
        raise NetworkTimeout("mongo:27017: timed out")

    monkeypatch.setattr(robots.RobotPages, "answer", broken)
    assert_refused(Api("viewer")("GET", "/robot/"), 503)
    assert "The database cannot be reached. mongo:27017: timed out" in caplog.text


# --- Over the real server --------------------------------------------------------------------------------------------


@pytest.fixture
def url(web):
    return web("amqp://127.0.0.1:1//", FMV_ANONYMOUS="manager") + "/api/v1"


def talk(url, *lines, body=b""):
    """Send the request lines as they are and return all that comes back until the server closes or falls silent."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
        connection.sendall(b"\r\n".join(line.encode("latin-1") for line in [*lines, "", ""]) + body)
        received = b""
        connection.settimeout(1)
        try:
            while part := connection.recv(65536):
                received += part
        except TimeoutError:
            pass
        return received


def test_the_real_server_keeps_the_same_promises(url):
    with requests.Session() as session:
        _bodies(session, url)
        _paths(session, url)
    _raw(url)


def _bodies(session, url):
    robot = {"name": "Crow T. Robot", "location": "Satellite", "description": "baby", "tasks": None}
    for name, path in (("R1", "/robot/"), ("R2", "/robot")):  # no redirect, which would lose the body
        answer = session.post(url + path, json=robot | {"name": name})
        assert (answer.status_code, answer.history) == (201, [])
    assert session.post(url + "/robot/", json=robot).status_code == 201
    for data in (b"x" * 10_000_000, b'{"name":"' + b"x" * 2_000_000):
        answer = session.post(url + "/robot/", data=data, headers={"Content-Type": "application/json"})
        _is_error(answer, 413)
        assert session.get(url + "/health").json() == {"health": "OK"}
    _is_error(session.post(url + "/robot/", data=iter([b"{", b"}"]), headers={"Content-Type": "application/json"}), 411)
    for _ in range(3):  # an error leaves the connection fit for the next request
        _is_error(session.post(url + "/robot/", data=b"{", headers={"Content-Type": "application/json"}), 422)
        assert session.get(url + "/robot/Crow%20T.%20Robot").json()["name"] == "Crow T. Robot"
    answer = session.post(url + "/robot/Crow%20T.%20Robot/run/")  # the broker is down: accepted all the same
    assert (answer.status_code, answer.json()["status"], answer.history) == (200, "CREATED", [])
    assert answer.elapsed.total_seconds() < 8


def _paths(session, url):
    for path in ("/robot/a%2Fb", "/robot/%2F", "/robot/%00", "/robot/%FF", "/robot/%ED%A0%80", "/nope"):
        _is_error(session.get(url + path), 404)
    _is_error(session.put(url + "/robot/%00", json={"location": "x", "description": "y"}), 422)
    answer = session.head(url + "/robot/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["Content-Length"]) == len(session.get(url + "/robot/").content)
    for path in ("/robot/" + "x" * 9000, "/robot/?q=" + "x" * 9000):
        answer = requests.get(url + path, timeout=5)
        assert 400 <= answer.status_code < 500
        assert list(answer.json()) == ["detail"]
    answer = requests.get(url + "/health", headers={"X-Long": "x" * 100_000}, timeout=5)
    assert 400 <= answer.status_code < 500
    assert list(answer.json()) == ["detail"]
    _is_error(session.get(url + "/health", headers={"Host": "evil.example"}), 400)


def _raw(url):
    host = f"Host: {urlsplit(url).netloc}"
    close = "Connection: close"
    for lines in (
        ["GARBAGE"],
        ["GET /api/v1/health HTTP/9.9", host],
        ["POST /api/v1/robot/ HTTP/1.1", host, "Content-Length: abc", close],
        ["POST /api/v1/robot/ HTTP/1.1", host, "Content-Length: -1", close],
        ["POST /api/v1/robot/ HTTP/1.1", host, "Content-Length: 1", "Content-Length: 2", close],
        ["POST /api/v1/robot/ HTTP/1.1", host, "Transfer-Encoding: chunked", "Content-Length: 2", close],
        ["GET /api/v1/health HTTP/1.1", host, "Bad Header: 1", close],
        ["GET /api/v1/robot/\xff\xfe HTTP/1.1", host, close],
        ["GET /api/v1/health\0 HTTP/1.1", host, close],
    ):
        received = talk(url, *lines)
        assert re.match(rb"HTTP/1\.[01] 4\d\d ", received), (lines, received)
        head, _, body = received.partition(b"\r\n\r\n")
        assert b"application/json" in head, lines
        assert b"x-request-id" in head.lower(), lines
        assert list(json.loads(body)) == ["detail"], lines
    short = talk(url, "POST /api/v1/robot/ HTTP/1.1", host, "Content-Length: 100", close, body=b'{"name":')
    assert not short.startswith(b"HTTP/1.1 5"), short


def _is_error(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-ID"]
    assert list(answer.json()) == ["detail"]


@pytest.mark.slow
def test_a_database_that_cannot_be_reached_is_told_with_the_time_to_wait(web):
    url = web("amqp://127.0.0.1:1//", FMV_ANONYMOUS="manager", MONGODB_URI="mongodb://127.0.0.1:1/fmv") + "/api/v1"
    cookie = {"sessionid": "x" * 32}
    with ThreadPoolExecutor() as pool:  # each waits 3 s for MongoDB
        answers = [
            pool.submit(requests.get, f"{url}/robot/", timeout=10),
            pool.submit(requests.get, f"{url}/robot/", timeout=10, cookies=cookie),
            pool.submit(requests.post, f"{url}/robot/R2/run", timeout=10),
        ]
    for answer in answers:
        _is_error(answer.result(), 503)
        assert int(answer.result().headers["Retry-After"]) > 0
    assert requests.get(url + "/health", timeout=10).json() == {"health": "OK"}
    assert requests.get(url + "/handler/", timeout=10).status_code == 200
