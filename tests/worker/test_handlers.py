"""The built-in handlers, run as an attempt runs them; `http` against a small real server."""

import datetime as dt
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fmv.errors import InvalidInput
from robots.models import Robot
from tasks import handlers, registry
from tasks.handlers import MAX_ANSWER, MAX_REDIRECTS
from tasks.registry import PermanentError


@dataclass
class FakeContext:
    """What a handler is given, without a task behind it."""

    params: Any
    robot: Robot = field(default_factory=lambda: Robot(name="R"))
    task_id: str = "0190-task"
    attempt: int = 2
    reports: list[tuple[float, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    checks: int = 0

    def progress(self, percent: float, message: str = "") -> None:
        self.reports.append((percent, message))

    def log(self, text: str) -> None:
        self.lines.append(text)

    def check(self) -> None:
        self.checks += 1


def run(name: str, params: dict[str, Any], **fields: Any) -> tuple[Any, FakeContext]:
    handler = registry.get(name)
    context = FakeContext(handler.read_params(params), **fields)
    return handler.run(context), context


# --- primes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "primes", "largest"),
    [
        (1, 0, None),
        (2, 1, 2),
        (3, 2, 3),
        (4, 2, 3),
        (5, 3, 5),
        (9, 4, 7),
        (10, 4, 7),
        (25, 9, 23),
        (26, 9, 23),
        (49, 15, 47),
        (100, 25, 97),
        (1_000, 168, 997),
        (7_919, 1_000, 7_919),
        (10_000, 1_229, 9_973),
        (20_002, 2_262, 19_997),
        (20_003, 2_262, 19_997),
        (20_011, 2_263, 20_011),
        (100_000, 9_592, 99_991),
        (104_729, 10_000, 104_729),
    ],
)
def test_primes_are_right(count, primes, largest):
    result, _ = run("primes", {"count": count})
    assert result == {"up_to": count, "primes": primes, "largest": largest}


def test_primes_report_their_progress():
    _, context = run("primes", {"count": 100_000})
    percents = [percent for percent, _ in context.reports]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert len(percents) == 5
    assert context.reports[-1][1] == "9592 primes up to 100000"


@pytest.mark.parametrize("count", [0, -1, 10**13 + 1, "many", 1.5])
def test_primes_up_to_an_invalid_number_are_refused(count):
    with pytest.raises(InvalidInput):
        registry.get("primes").read_params({"count": count})


def test_primes_count_about_three_million_by_default():
    counts = {registry.get("primes").read_params({}).count for _ in range(20)}
    assert len(counts) > 1
    assert all(3_000_000 <= count <= 3_500_000 for count in counts)


# --- wait ------------------------------------------------------------------------------------------------------------


def test_wait_takes_its_time_and_reports_each_step():
    before = time.monotonic()
    result, context = run("wait", {"seconds": 0.3, "steps": 3})
    assert time.monotonic() - before >= 0.3
    assert result == {"waited": 0.3}
    assert [message for _, message in context.reports] == [f"step {n} of 3" for n in (1, 2, 3)]
    assert [round(percent) for percent, _ in context.reports] == [33, 67, 100]
    assert context.checks >= 3


def test_wait_asks_at_least_twice_a_second():
    _, context = run("wait", {"seconds": 1.2, "steps": 1})
    assert context.checks >= 3


def test_wait_of_nothing_is_over_at_once():
    assert run("wait", {"seconds": 0})[0] == {"waited": 0}


@pytest.mark.parametrize(
    "params", [{}, {"seconds": -1}, {"seconds": 86_401}, {"seconds": 1, "steps": 0}, {"seconds": float("nan")}]
)
def test_wait_refuses(params):
    with pytest.raises(InvalidInput):
        registry.get("wait").read_params(params)


# --- http ------------------------------------------------------------------------------------------------------------


@dataclass
class Machine:
    """A robot's own web server: `answers` maps a path to (status, headers, body); it remembers what it was asked."""

    url: str = ""
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    server: Any = None


def serve(machine: Machine) -> ThreadingHTTPServer:
    class Door(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            machine.asked.append((self.command, self.path, headers, body))
            status, extra, content = machine.answers.get(self.path.partition("?")[0], (404, {}, b"nothing here"))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | extra).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Door, f"do_{method}", Door.answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    machine.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    server = machine.server = serve(machine)
    yield machine
    server.shutdown()
    server.server_close()


@pytest.fixture
def call(machine) -> Callable[..., Any]:
    def call(path: str = "", endpoint: str | None = None, **params: Any) -> Any:
        robot = Robot(name="R", endpoint=machine.url if endpoint is None else endpoint)
        return run("http", {"path": path, **params}, robot=robot)[0]

    return call


def answer(status: int = 200, body: Any = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    if not isinstance(body, bytes):
        headers, body = {"Content-Type": "application/json"} | headers, json.dumps(body).encode()
    return status, headers, body


def test_it_posts_to_the_robots_endpoint(machine, call):
    machine.answers["/arm/lift"] = answer(201, {"lifted": True})
    result = call("arm/lift?fast=1", body={"kg": 3}, headers={"X-Arm": "left"})
    assert result == {"status": 201, "body": {"lifted": True}}
    [(method, path, headers, body)] = machine.asked
    assert (method, path, json.loads(body)) == ("POST", "/arm/lift?fast=1", {"kg": 3})
    assert (headers["x-arm"], headers["content-type"]) == ("left", "application/json")
    assert headers["idempotency-key"] == "0190-task/2"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_other_methods_without_a_body(method, machine, call):
    machine.answers["/"] = answer(200, b"plain \xff")
    result = call(method=method)
    assert result == {"status": 200, "body": "" if method == "HEAD" else "plain \ufffd"}
    assert machine.asked[0][0] == method
    assert machine.asked[0][3] == b""


@pytest.mark.parametrize(
    ("endpoint", "path", "asked"),
    [
        ("/base", "", "/base"),
        ("/base", "x", "/base/x"),
        ("/base/", "/x", "/base/x"),
        ("/base/", "//evil.example/x", "/base/evil.example/x"),
        ("", "http://evil.example/", "/http://evil.example/"),
        ("", "@evil.example/", "/@evil.example/"),
    ],
)
def test_the_path_stays_below_the_endpoint(endpoint, path, asked, machine, call):
    machine.answers[asked] = answer(200, 1)
    assert call(path, endpoint=machine.url + endpoint)["body"] == 1
    assert machine.asked[0][1] == asked


def test_broken_json_is_text(machine, call):
    machine.answers["/"] = answer(200, b"{", **{"Content-Type": "application/json"})
    assert call()["body"] == "{"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_on_the_same_host_is_followed(status, machine, call):
    machine.answers |= {"/": answer(status, Location="/there?x=1"), "/there": answer(200, "here")}
    assert call(body=[1]) == {"status": 200, "body": "here"}
    assert [path for _, path, _, _ in machine.asked] == ["/", "/there?x=1"]
    assert machine.asked[1][2]["idempotency-key"] == "0190-task/2"


@pytest.mark.parametrize(
    "location",
    [
        "http://evil.example/",
        "//evil.example/",
        "https://127.0.0.1:{port}/",
        "http://127.0.0.1:1/",
        "http://127.0.0.1/",
        "http://localhost:{port}/",
        "http://user@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}@evil.example/",
        "http://127.0.0.1:99999/",
        "ftp://127.0.0.1:{port}/",
        "file:///etc/passwd",
        "http://127.0.0.1\\@evil.example:{port}/",
    ],
)
def test_a_redirect_elsewhere_is_refused(location, machine, call):
    port = machine.url.rpartition(":")[2]
    machine.answers["/"] = answer(302, Location=location.format(port=port))
    with pytest.raises(PermanentError, match="Refused"):
        call()
    assert len(machine.asked) == 1


def test_a_redirect_for_ever_is_given_up(machine, call):
    machine.answers["/"] = answer(302, Location="/")
    with pytest.raises(PermanentError, match="redirects"):
        call()
    assert len(machine.asked) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("status", [400, 401, 404, 409, 418, 422])
def test_a_refusal_is_final(status, machine, call):
    machine.answers["/"] = answer(status, b"no")
    with pytest.raises(PermanentError, match=f"answered {status}: b'no'"):
        call()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_trouble_is_tried_again(status, machine, call):
    machine.answers["/"] = answer(status, b"later")
    with pytest.raises(OSError, match=f"answered {status}"):
        call()


def test_an_answer_that_is_too_large_is_final(machine, call):
    machine.answers |= {"/fits": answer(200, b"x" * MAX_ANSWER), "/": answer(200, b"x" * (MAX_ANSWER + 1))}
    assert len(call("fits")["body"]) == MAX_ANSWER
    with pytest.raises(PermanentError, match="more than"):
        call()


def test_an_answer_that_breaks_off_is_tried_again(machine, call):
    machine.answers["/"] = answer(200, b"half", **{"Content-Length": "8", "Connection": "close"})
    with pytest.raises(Exception, match="IncompleteRead") as caught:
        call()
    assert not isinstance(caught.value, PermanentError)


def test_a_connection_that_is_refused_is_tried_again(machine, call):
    with pytest.raises(OSError, match="refused"):
        call(endpoint="http://127.0.0.1:1")


@pytest.mark.parametrize("endpoint", ["", None])
def test_without_an_endpoint_there_is_nothing_to_call(endpoint):
    with pytest.raises(PermanentError, match="no endpoint"):
        run("http", {}, robot=Robot(name="R", endpoint=endpoint))


def test_proxies_of_the_environment_are_not_used(machine, call, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    machine.answers["/"] = answer(200, 1)
    assert call()["status"] == 200


@pytest.mark.parametrize(
    "params",
    [
        {"method": "TRACE"},
        {"path": "x" * 2001},
        {"headers": {"a": 1}},
        {"headers": {"Host": "evil.example"}},
        {"headers": {"Idempotency-key": "mine"}},
        {"headers": {"a": "b\r\nc: d"}},
        {"headers": {str(n): "" for n in range(33)}},
    ],
)
def test_an_invalid_request_is_refused_at_submit(params):
    with pytest.raises(InvalidInput):
        registry.get("http").read_params(params)


# --- The registry ----------------------------------------------------------------------------------------------------


def test_every_handler_describes_itself_and_its_parameters():
    for handler in registry.all_handlers():
        assert handler.description
        assert handler.schema["type"] == "object"
        assert handler.schema["additionalProperties"] is False
    assert [handler.name for handler in registry.all_handlers()] == sorted(registry._handlers)


# --- http over TLS ---------------------------------------------------------------------------------------------------


def certificate(name: str, key: Any, issuer: str, issuer_key: Any, *, is_authority: bool) -> bytes:
    """Return a certificate in PEM for this name and 127.0.0.1."""
    now = dt.datetime.now(dt.UTC)
    usage = x509.KeyUsage(
        digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)  # Python 3.13 refuses an authority without it
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return built.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def private_authority(machine, tmp_path) -> Path:
    """Let the machine answer over TLS; return the file of the authority that signed its certificate."""
    authority, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    roots = tmp_path / "authority.pem"
    roots.write_bytes(certificate("Fleet", authority, "Fleet", authority, is_authority=True))
    chain = tmp_path / "machine.pem"
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    chain.write_bytes(
        own.private_bytes(pem, pkcs8, serialization.NoEncryption())
        + certificate("robot", own, "Fleet", authority, is_authority=False)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    machine.server.socket = context.wrap_socket(machine.server.socket, server_side=True)
    machine.url = machine.url.replace("http:", "https:")
    machine.answers["/"] = (200, {}, b"safe")
    return roots


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_robot_behind_a_private_authority_is_called_if_the_worker_knows_that_authority(
    call, private_authority, monkeypatch, variable
):
    for name in handlers.CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(requests.exceptions.SSLError):
        call(method="GET")
    monkeypatch.setenv(variable, str(private_authority))
    assert call(method="GET")["body"] == "safe"


def test_another_authority_is_not_trusted(call, private_authority, tmp_path, monkeypatch):
    key = ec.generate_private_key(ec.SECP256R1())
    other = tmp_path / "other.pem"
    other.write_bytes(certificate("Other", key, "Other", key, is_authority=True))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    with pytest.raises(requests.exceptions.SSLError):
        call(method="GET")
