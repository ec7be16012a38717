"""The built-in handlers: `primes`, `http`, `wait`; and `drive`, which runs on robots whose agent knows it."""

import bisect
import contextlib
import json
import math
import os
import random
import time
from typing import Annotated, Any, Literal
from urllib.parse import urljoin, urlsplit

import requests
from pydantic import AfterValidator, BaseModel, Field, JsonValue

from tasks.registry import Context, Params, PermanentError, handler, robot_handler

STRIDE = 20_000  # numbers between two reports of progress
MAX_ANSWER = 256 * 1024  # bytes of an answer that are kept
MAX_REDIRECTS = 5
#: variables with the file of certificate authorities to trust instead of the usual ones; the first that is set counts
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
HTTP_TIMEOUT = 30  # seconds for the robot to take the connection, and between two bytes of its answer


class PrimesParams(Params):
    count: int = Field(
        default_factory=lambda: random.randint(3_000_000, 3_500_000),
        ge=1,
        le=10**13,
        description="Count the primes up to and including this number. By default random, from 3,000,000 to 3,500,000.",
    )


@handler("primes", params=PrimesParams, timeout=600)
def primes(ctx: Context[PrimesParams]) -> dict[str, Any]:
    """Count the primes up to `count` and find the largest, by trial division: a few seconds of CPU time."""
    limit = ctx.params.count
    divisors = [n for n in range(3, math.isqrt(limit) + 1, 2) if _is_prime(n)]
    found, largest = (1, 2) if limit >= 2 else (0, None)
    for low in range(3, limit + 1, STRIDE):
        high = min(low + STRIDE, limit + 1)
        primes_here = _primes_between(low, high, divisors)
        found += len(primes_here)
        largest = primes_here[-1] if primes_here else largest
        ctx.progress(100 * (high - 1) / limit, f"{found} primes up to {high - 1}")
    return {"up_to": limit, "primes": found, "largest": largest}


def _is_prime(odd: int) -> bool:
    return all(odd % divisor for divisor in range(3, math.isqrt(odd) + 1, 2))


def _primes_between(low: int, high: int, divisors: list[int]) -> list[int]:
    """Return the primes in [low, high), low odd; `divisors` holds the odd primes up to the root of high - 1."""
    enough = divisors[: bisect.bisect_right(divisors, math.isqrt(high - 1))]
    return [n for n in range(low, high, 2) if all(n % divisor for divisor in enough if divisor * divisor <= n)]


class WaitParams(Params):
    seconds: float = Field(ge=0, le=86_400, description="How many seconds the task takes.")
    steps: int = Field(10, ge=1, le=10_000, description="How often the task reports progress.")


@handler("wait", params=WaitParams, timeout=86_400)
def wait(ctx: Context[WaitParams]) -> dict[str, float]:
    """Do nothing for some seconds, in steps: for trying FMV out."""
    end = time.monotonic() + ctx.params.seconds
    for step in range(1, ctx.params.steps + 1):
        step_end = end - ctx.params.seconds * (1 - step / ctx.params.steps)
        while (left := step_end - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
            ctx.check()
        ctx.progress(100 * step / ctx.params.steps, f"step {step} of {ctx.params.steps}")
    return {"waited": ctx.params.seconds}


def _not_ours(name: str) -> str:
    if name.lower() in ("idempotency-key", "host", "content-length", "transfer-encoding"):
        raise ValueError("FMV sends this header itself")
    return name


# A token, and visible ASCII: RFC 9110, 5.6.2 and 5.5.
HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$"), AfterValidator(_not_ours)]
HeaderValue = Annotated[str, Field(pattern=r"^[!-~]?([ -~]{0,998}[!-~])?$")]


class HttpParams(Params):
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    path: str = Field("", max_length=2000, description="Appended to the robot's endpoint; may include a query string.")
    body: JsonValue = Field(None, description="Sent as JSON unless null.")
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict, max_length=32)


@handler("http", params=HttpParams, timeout=60)
def http(ctx: Context[HttpParams]) -> dict[str, Any]:
    """Call the endpoint of the robot; the result is its answer. Redirects to other hosts are refused.

    Sends `Idempotency-Key: <task id>/<attempt>`. After a 408, 425, 429 or 5xx or a broken connection the task is tried
    again; after any other error it fails. If the robot's certificate is of a private authority, the worker needs that
    authority's file in `REQUESTS_CA_BUNDLE` or `SSL_CERT_FILE`.
    """
    endpoint = ctx.robot.endpoint
    if not endpoint:
        raise PermanentError(f"The robot {ctx.robot.name!r} has no endpoint")
    url = endpoint.rstrip("/") + "/" + ctx.params.path.lstrip("/") if ctx.params.path else endpoint
    method, body = ctx.params.method, ctx.params.body
    headers = {**ctx.params.headers, "Idempotency-Key": f"{ctx.task_id}/{ctx.attempt}"}
    for _ in range(MAX_REDIRECTS + 1):
        ctx.check()
        with _send(method, url, headers, body) as answer:
            ctx.log(f"{method} {url}: {answer.status_code}")
            if not answer.is_redirect:
                return _read(answer)
            url = _redirected(endpoint, url, answer.headers["Location"])
            if answer.status_code == 303 and method != "HEAD":  # "see other": RFC 9110, 15.4.4
                method, body = "GET", None
    raise PermanentError(f"More than {MAX_REDIRECTS} redirects")


def _send(method: str, url: str, headers: dict[str, str], body: JsonValue) -> requests.Response:
    """Send one request with the adapter alone: without proxies, .netrc, or reading the body of a redirect."""
    try:
        request = requests.Request(method, url, headers=headers, json=body).prepare()
    except requests.RequestException as error:
        raise PermanentError(str(error)) from error
    adapter = requests.adapters.HTTPAdapter()
    authorities = next((os.environ[name] for name in CA_VARIABLES if os.environ.get(name)), True)
    return adapter.send(request, stream=True, timeout=HTTP_TIMEOUT, verify=authorities)


def _redirected(endpoint: str, url: str, location: str) -> str:
    """Return the URL to which `location` leads from `url`. Raises PermanentError if that is on another host."""
    try:
        target = urljoin(url, location)
        ours, theirs = urlsplit(endpoint), urlsplit(target)
        same = (ours.scheme, ours.hostname, ours.port) == (theirs.scheme, theirs.hostname, theirs.port)
    except ValueError:
        same = False
    if not same or "@" in theirs.netloc:
        raise PermanentError(f"Refused to go from {url} to {location}")
    return target


def _read(answer: requests.Response) -> dict[str, Any]:
    text = answer.raw.read(MAX_ANSWER + 1, decode_content=True)
    if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
        raise OSError(f"The robot answered {answer.status_code}")
    if answer.status_code >= 400:
        raise PermanentError(f"The robot answered {answer.status_code}: {text[:200]!r}")
    if len(text) > MAX_ANSWER:
        raise PermanentError(f"The robot answered more than {MAX_ANSWER} bytes")
    body: Any = text.decode("utf-8", "replace")
    if answer.headers.get("Content-Type", "").startswith("application/json"):
        with contextlib.suppress(ValueError, RecursionError):
            body = json.loads(text)
    return {"status": answer.status_code, "body": body}


class DriveParams(Params):
    """Drive to a place on the robot's map."""

    x: float = Field(allow_inf_nan=False, description="Metres.")
    y: float = Field(allow_inf_nan=False, description="Metres.")
    speed: float = Field(1.0, gt=0, le=10, description="Metres a second, at most.")


class Driven(BaseModel):
    x: float = Field(allow_inf_nan=False, description="Metres: where the robot stands.")
    y: float = Field(allow_inf_nan=False, description="Metres.")
    distance: float = Field(ge=0, allow_inf_nan=False, description="Metres that it drove.")


robot_handler("drive", params=DriveParams, result=Driven, timeout=1800, resume=True)
