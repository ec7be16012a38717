#!/usr/bin/env python3
"""FMV's agent: it connects a robot to FMV, reports its state and runs its tasks. Python 3.8 or later, no packages.

    from fmv_agent import main, skill, state

    @skill("drive", resume=True)
    def drive(task):
        for leg in range(task.saved or 0, 10):
            drive_one_metre(task.params)
            task.check()                      # raises Stopped if the task is to end
            task.checkpoint(leg + 1)          # from here the task goes on after a reboot, in task.saved
            task.progress(10 * leg, f"leg {leg}")
        return {"metres": 10}

    @state
    def look():
        return {"battery": {"charge": 80.5, "charging": False}}

    if __name__ == "__main__":
        main()

README.md, beside this file where it comes from, has the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import http.client
import json
import logging
import os
import random
import signal
import socket
import ssl
import sys
import threading
import time
import traceback
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

VERSION = "1.0.0"
PROTOCOL = 1
CLAIM_WAIT = 25  # seconds that FMV may keep a claim waiting for a task
TIMEOUT = 10.0  # seconds for an answer, beyond what FMV was asked to wait
REFUSED_WAIT = 60.0  # seconds before the next request after one that FMV refuses
MAX_WAIT = 60.0  # seconds, the longest that FMV may ask to wait
MARGIN = 0.9  # the part of a lease after which the agent no longer relies on it
MAX_CHECKPOINT = 64 * 1024  # bytes of JSON
MAX_LINES = 1000  # log lines of a task that wait to be sent
MAX_LINE = 4000  # characters of a log line, and of an error's message
MAX_MESSAGE = 500  # characters of a message beside the progress, and of the reason of a release
BATCH = 100  # log lines in a request
MAX_STARTS = 20  # earlier starts of this program that FMV is told of
LOOK_SECONDS = 30.0  # after which the function that returns the robot's state counts as hanging
NO_DIGITS = str.maketrans("", "", "0123456789")

logger = logging.getLogger("fmv-agent")
_skills: dict[str, Skill] = {}
_look: Callable[[], dict[str, Any]] | None = None


class Skill(NamedTuple):
    run: Callable[[Task], Any]
    resume: bool


class Stopped(BaseException):
    """The task is to end. A skill stops the robot and does not catch this; `except Exception` does not catch it."""


class PermanentError(Exception):
    """Raised by a skill if another attempt cannot help: FMV does not try the task again."""


class NotNow(Exception):
    """Raised by a skill to give the task back to the queue for `delay` seconds: `raise NotNow("doors locked", 60)`.

    FMV lets a task be given back ten times; then it fails. `delay` is at most a day.
    """

    def __init__(self, reason: str, delay: float = 0) -> None:
        super().__init__(reason)
        self.delay = min(86_400.0, max(0.0, float(delay)))


def skill(name: str, *, resume: bool = False) -> Callable[[Callable[[Task], Any]], Callable[[Task], Any]]:
    """Register the decorated function for a handler's tasks. It gets a Task and returns the result, as JSON values.

    `resume`: after a restart of the agent the function is called again for the same attempt, with its last checkpoint
    in `task.saved`, instead of the task being tried anew. The handler in FMV must say the same.
    """

    def register(run: Callable[[Task], Any]) -> Callable[[Task], Any]:
        _skills[name] = Skill(run, resume)
        return run

    return register


def state(look: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Register the decorated function, which returns the robot's state. The agent reports it every few seconds.

    Fields that are left out are unknown to FMV. The agent takes no tasks while `mode` is given and is neither automatic
    nor semi_automatic, while `emergency_stop` is given and is not none, while the function fails, and while FMV refuses
    what it returns. A change is noticed with the next report, after a few seconds.
    """
    global _look  # noqa: PLW0603 - a robot has one state
    _look = look
    return look


def uptime() -> float:
    """Return the seconds since some moment, by a clock that nobody sets and that counts while the machine sleeps."""
    if sys.platform == "linux":
        return time.clock_gettime(7)  # CLOCK_BOOTTIME; Python names it from 3.9 on
    return time.monotonic()


def wait_for(event: threading.Event, seconds: float) -> bool:
    """Wait until the event is set, at most so long, and return whether it is.

    `Event.wait` follows the wall clock in Python 3.8: set back by an hour, it would wait an hour longer.
    """
    until = uptime() + seconds
    while not event.is_set():
        left = until - uptime()
        if left <= 0:
            return False
        time.sleep(min(left, 0.1))
    return True


def clean(text: object, limit: int) -> str:
    """Return at most `limit` characters of the text, without those that cannot be stored."""
    return str(text)[:limit].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def pauses(longest: float = 60.0) -> Iterator[float]:
    """Yield the seconds to wait before each further try: random, of a range that doubles from 1 s to `longest`."""
    limit = 1.0
    while True:
        yield random.uniform(0.05, limit)
        limit = min(longest, limit * 2)


# --- Requests --------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    body: Any
    retry_after: float

    @property
    def code(self) -> str:
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""


class NoAnswer(Exception):
    """Nothing that decides came back. FMV may have carried out the request, which can be sent again in any case."""

    def __init__(self, reason: str, wait: float = 0) -> None:
        super().__init__(reason if reason.endswith(".") else f"{reason}.")
        self.wait = wait  # seconds that FMV asks to wait


class Server:
    """FMV, as the agent sees it. Each thread has a connection of its own, which stays open."""

    def __init__(self, url: str, token_file: Path, ca_file: str | None = None) -> None:
        self.url = url.rstrip("/")
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SystemExit(f"fmv-agent: {url!r} is not a URL such as https://fleet.example.org")
        self._host, self._port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        self._path = parts.path + "/api/v1/agent"
        self._tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self._token_file = token_file
        self._token = read_token(token_file)
        self._own = threading.local()

    def call(
        self, method: str, path: str, body: dict[str, Any], timeout: float = TIMEOUT, *, once: bool = False
    ) -> Answer:
        """Send a request and return its answer. Raises NoAnswer.

        If a connection has ended that was open already, it is sent again at once, unless `once`.
        """
        data = json.dumps(body, allow_nan=False).encode()
        headers = {"User-Agent": f"fmv-agent/{VERSION}", "Content-Type": "application/json"}
        while True:
            token = self._read_token()
            headers["Authorization"] = f"Bearer {token}"
            connection = self.connection()
            kept = connection.sock is not None
            connection.timeout = timeout
            try:
                if connection.sock is not None:
                    connection.sock.settimeout(timeout)
                connection.request(method, self._path + path, data, headers)
                response = connection.getresponse()
                content = response.read()
                if response.status != 401 or self._read_token() == token:
                    return self._read(response, content)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if once or not kept or isinstance(error, socket.timeout):
                    raise NoAnswer(f"{method} {self.url}: {_explain(error)}") from None

    def _read_token(self) -> str:
        """Return the token in the file, which may be a new one by now; the last one while the file has none."""
        with contextlib.suppress(BadToken):
            self._token = read_token(self._token_file)
        return self._token

    def connection(self) -> http.client.HTTPConnection:
        """Return the connection of this thread."""
        if not hasattr(self._own, "connection"):
            self._own.connection = self._new_connection()
        made: http.client.HTTPConnection = self._own.connection
        return made

    def _new_connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port)
        proxy = "" if urllib.request.proxy_bypass(self._host) else urllib.request.getproxies().get("https", "")
        if not proxy:
            return http.client.HTTPSConnection(self._host, self._port, context=self._tls)
        via = urllib.parse.urlsplit(proxy if "://" in proxy else "http://" + proxy)
        connection = http.client.HTTPSConnection(via.hostname or "", via.port or 3128, context=self._tls)
        connection.set_tunnel(self._host, self._port)
        return connection

    def _read(self, response: http.client.HTTPResponse, content: bytes) -> Answer:
        status, wait = response.status, response.getheader("Retry-After", "")
        retry_after = min(MAX_WAIT, float(wait)) if wait.isdecimal() else 0.0
        try:
            body = json.loads(content) if content else None
        except ValueError:  # a proxy, or the sign-in page of a guest network: neither may end a task
            raise NoAnswer(f"{self.url} answered {status} without JSON, so it was not FMV.", retry_after) from None
        detail = str(body.get("detail", "") if isinstance(body, dict) else "")[:500]
        if status in (401, 403):
            try:
                read_token(self._token_file)
            except BadToken as error:  # so it was the one before
                detail = f"{detail} {error}"
            logger.error(
                "FMV refuses the token in %s (%s %s). Put a valid one there.", self._token_file, status, detail
            )
            raise NoAnswer(f"FMV answered {status} {detail}", REFUSED_WAIT)
        if status >= 500 or status in (408, 425, 429):
            raise NoAnswer(f"FMV answered {status} {detail}", retry_after)
        if 300 <= status < 400:
            raise NoAnswer(f"{self.url} leads to {response.getheader('Location')}: start the agent with that URL.", 60)
        return Answer(status, body, retry_after)


def _explain(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{error.verify_message}. This robot's clock shows {time.strftime('%Y-%m-%d %H:%M')}; is it right?"
    return str(error) or type(error).__name__


# --- Tasks -----------------------------------------------------------------------------------------------------------


class Task:
    """A task that runs: what a skill gets. Its methods may be called from any thread."""

    def __init__(self, agent: Agent, claimed: dict[str, Any], session: str) -> None:
        document = claimed["task"]
        self.id: str = document["task_id"]
        self.attempt: int = claimed["attempt"]
        self.handler: str = document["handler"]
        self.params: dict[str, Any] = document["params"]
        self.robot: str = document.get("robot", "")
        #: the attempt began in an earlier start of the agent
        self.resumed = agent.journal.has(self.id, self.attempt) or bool(claimed.get("resumed"))
        self.saved: Any = None
        """The last checkpoint of this attempt, or None."""
        if self.resumed:
            self.saved = agent.journal.checkpoint(
                self.id, self.attempt, claimed.get("checkpoint", document.get("checkpoint"))
            )
        #: why the task is to end: "", cancelled, timed out, out of contact, agent stops, lost
        self.reason = ""
        #: is set when the task is to end
        self.to_end = threading.Event()
        self.session = session
        self._agent = agent
        self._timeout = float(document.get("timeout") or float("inf"))
        self._time_over = uptime() + self._timeout
        self._lease = self._hold = self._took = 0.0
        self._held(claimed, uptime())  # a claim may have waited; and only a renewal lets the skill begin
        self._news: dict[str, Any] = {}
        self._lines: list[str] = []
        self._lines_dropped = 0
        self._lines_stored = None if self.resumed else 0  # None: FMV has to be asked
        self._lock, self._sending, self._storing = threading.Lock(), threading.Lock(), threading.Lock()
        self._renewed_at = self._lines_sent_at = self._not_before = float("-inf")
        self._pauses = pauses()
        self.confirmed, self.ended, self.delivered = threading.Event(), threading.Event(), threading.Event()

    def __str__(self) -> str:
        return f"Task {self.id}, attempt {self.attempt} ({self.handler})"

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.attempt

    @property
    def cancelled(self) -> bool:
        """Whether the task is to end, for whichever reason."""
        self.watch()
        return bool(self.reason)

    @property
    def in_contact(self) -> bool:
        """Whether FMV has heard of this attempt within its lease. A skill that needs supervision stops if not."""
        return uptime() < self._contact_until

    def check(self) -> None:
        """Raise Stopped if the task is to end."""
        if self.cancelled:
            raise Stopped(self.reason)

    def sleep(self, seconds: float) -> None:
        """Wait so long, or raise Stopped as soon as the task is to end."""
        wait_for(self.to_end, seconds)
        self.check()

    def progress(self, percent: float, message: str = "") -> None:
        """Report progress, 0-100. It is sent with the next renewal, after a few seconds."""
        percent = min(100.0, max(0.0, float(percent)))
        with self._lock:
            self._news.update(progress=percent, message=clean(message, MAX_MESSAGE))

    def checkpoint(self, value: Any) -> None:
        """Store from where the task can go on after a restart: JSON values of at most 64 KiB.

        It is on the robot's disk when this returns, and soon in FMV, which has it if the disk is lost. Raises
        ValueError or TypeError if it is too large or no JSON.
        """
        if len(json.dumps(value, allow_nan=False).encode()) > MAX_CHECKPOINT:
            raise ValueError(f"A checkpoint has at most {MAX_CHECKPOINT} bytes of JSON.")
        with self._storing:
            if self.ended.is_set():  # by a thread that the skill has left: the file is for the outcome now
                return
            self._agent.journal.write(self.id, self.attempt, checkpoint=value)
            with self._lock:
                self._news["checkpoint"] = value

    def log(self, text: str) -> None:
        """Store a line in the log of the task in FMV."""
        logger.debug("%s: %s", self, text)
        with self._lock:
            if len(self._lines) < MAX_LINES:
                self._lines.append(clean(text, MAX_LINE))
            else:
                self._lines_dropped += 1

    def end(self, reason: str) -> None:
        """Tell the skill to stop. That the task is lost counts more than an earlier reason: FMV wants no outcome."""
        if (not self.reason or (reason == "lost" and self.reason != "lost")) and not self.ended.is_set():
            self.reason = reason
            logger.warning("%s is to end: %s", self, reason)
        self.to_end.set()

    def watch(self) -> None:
        """End the task if its time or its lease is over. Nothing here waits for the network."""
        if uptime() > self._time_over:
            self.end("timed out")
        elif uptime() > self._held_until:
            self.end("out of contact")

    def _held(self, answer: dict[str, Any], since: float) -> None:
        """Reckon from FMV's answer how long this attempt may run; `since` is before the request was sent.

        FMV may hold the robot's lane longer than the lease, for a robot that is out of contact: `hold_seconds`.
        """
        self._lease = float(answer["lease_seconds"])
        self._contact_until = since + self._lease * MARGIN
        self._hold = float(answer.get("hold_seconds") or self._lease) * MARGIN
        self._held_until = since + self._hold

    # The rest talks to FMV, in a thread for each task, from the claim until FMV has the outcome.

    def _keep(self) -> None:
        """Renew the lease at a third of it, and send what the skill reports."""
        while self.reason != "lost":
            session = self._agent.session
            try:
                if session and uptime() >= self._not_before:
                    self._send_what_is_due(session)
            except NoAnswer as error:
                wait = max(error.wait, min(next(self._pauses), self._lease / 6))
                logger.warning("%s: %s Next try in %.1f s.", self, error, wait)
                self._not_before = uptime() + wait
            except Exception:
                logger.exception("%s: a fault of the agent while it renewed the lease; it goes on.", self)
                self._not_before = uptime() + 1
            if wait_for(self.delivered, 0.25):
                return

    def _send_what_is_due(self, session: str) -> None:
        age, every = uptime() - self._renewed_at, self._agent.report_seconds
        if age >= self._lease / 3 or (self._news and age >= (1 if "checkpoint" in self._news else every)):
            self._renew(session)
        if self._lines and not self.ended.is_set() and uptime() - self._lines_sent_at >= every:
            try:
                self._send_lines(session, self._patience())
            except NoAnswer as error:
                if error.wait:
                    raise
                logger.warning("%s: %s The lines of its log are sent later.", self, error)  # no renewal waits for them

    def _renew(self, session: str) -> None:
        with self._lock:
            news = dict(self._news)
        since = uptime()
        self.watch()  # an attempt that was held no longer ends, even if FMV still answers that it may go on
        body = {"session": session, "attempt": self.attempt, **news}
        try:
            answer = self._agent.server.call("POST", f"/task/{self.id}/renew", body, self._patience())
        finally:
            self._took = uptime() - since
        if answer.status == 200:
            self._held(answer.body, since)
            self._renewed_at = since  # not if it failed: it is due again after the pause
            self._pauses = pauses()
            if answer.body.get("cancel"):
                self.end("cancelled")
            self.confirmed.set()
        elif answer.status in (404, 409):
            self._agent.is_lost(self, answer, session)
            return
        elif not news:
            raise NoAnswer(f"FMV answered {answer.status} {answer.body}")
        else:  # the lease must not be lost because of what the skill reports
            logger.error("%s: FMV does not take %s: %s", self, news, answer.body)
            self._renewed_at = float("-inf")
        with self._lock:
            self._news = {name: value for name, value in self._news.items() if news.get(name) is not value}

    def _patience(self) -> float:
        """Return the seconds to wait for an answer while the lease runs: more if FMV or the network is slow."""
        return min(TIMEOUT, max(1.0, self._lease / 4, 2 * self._took))

    def _send_lines(self, session: str, timeout: float = TIMEOUT) -> None:
        """Send a batch of the log. FMV counts the lines, so that one which is sent twice is stored once."""
        with self._sending:
            with self._lock:
                if self._lines_dropped and len(self._lines) < MAX_LINES:
                    self._lines.append(f"({self._lines_dropped} more lines could not be sent)")
                    self._lines_dropped = 0
                lines = self._lines[:BATCH] if self._lines_stored is not None else []  # to be told the next number
            self._lines_sent_at = uptime()
            body = {"session": session, "attempt": self.attempt, "first": self._lines_stored or 0, "lines": lines}
            answer = self._agent.server.call("POST", f"/task/{self.id}/log", body, timeout)
            if answer.status in (200, 409) and "next" in answer.body:
                self._lines_stored = answer.body["next"]
            elif answer.status in (404, 409):
                self._agent.is_lost(self, answer, session)
            else:
                logger.error("%s: FMV does not take %d lines of the log: %s", self, len(lines), answer.body)
            if answer.status != 409:
                with self._lock:
                    del self._lines[: len(lines)]

    def send_rest_of_log(self) -> None:
        """Send what the skill has logged, before its outcome: FMV takes no lines after that."""
        try:
            for _ in range(2 * MAX_LINES // BATCH):
                if self._lines and self.reason != "lost":
                    self._send_lines(self._agent.session or self.session)
        except NoAnswer as error:
            logger.warning("%s: %d lines of its log are not sent: %s", self, len(self._lines), error)

    def run(self) -> tuple[str, dict[str, Any]] | None:
        """Run the skill. Return what is to be sent to FMV, as the last part of the path and the body, None for nothing.

        The skill begins when a renewal has shown that the attempt is ours: an answer to a claim may come too late. What
        goes on after a restart waits, too, until the robot's state lets it.
        """
        threading.Thread(target=self._keep, name=f"lease of {self.id}", daemon=True).start()
        while not self.cancelled and not (self.confirmed.is_set() and (self._agent.fit or not self.resumed)):
            time.sleep(0.1)
        if self.reason == "out of contact" and not self.confirmed.is_set():
            return None
        try:
            return self._outcome()
        except NotNow as error:
            return "release", {"reason": clean(error, MAX_MESSAGE), "delay": error.delay}
        except BaseException as error:  # even SystemExit ends the task only, not the agent
            return self._failure(error)
        finally:
            with self._storing:
                self.ended.set()

    def _outcome(self) -> tuple[str, dict[str, Any]] | None:
        self.check()
        named = _skills.get(self.handler)
        if named is None:
            raise PermanentError(f"The agent has no skill {self.handler!r}.")
        if self.resumed and not named.resume:
            return "finish", _failed("AgentRestarted", "The agent was started again while the task ran.")
        if not self.resumed and not self._agent.fit:
            raise NotNow("the robot's state lets it begin no task")
        self._agent.journal.write(self.id, self.attempt, checkpoint=self.saved)
        logger.info("%s %s", self, "goes on" if self.resumed else "begins")
        result = named.run(self)
        if result is None:
            self.check()  # it may have stopped because it was told to
        try:
            json.dumps(result, allow_nan=False)
        except (TypeError, ValueError) as error:
            return "finish", _failed("InvalidResult", f"The result cannot be sent as JSON: {error}", retryable=False)
        return "finish", {"outcome": "succeeded", "result": result}

    def _failure(self, error: BaseException) -> tuple[str, dict[str, Any]] | None:
        if self.reason == "lost":
            return None
        if isinstance(error, Stopped) and self.reason == "cancelled":
            return "finish", {"outcome": "cancelled"}
        if isinstance(error, Stopped) and self.reason == "agent stops":
            return "release", {"reason": "the agent stops"}
        if isinstance(error, Stopped) and self.reason == "timed out":
            return "finish", _failed("TimedOut", f"Ran longer than {self._timeout:g} s", retryable=False)
        if isinstance(error, Stopped) and self.reason == "out of contact":
            why = f"The agent did not reach FMV for more than {self._hold:g} s and stopped the task"
            return "finish", _failed("OutOfContact", why)
        for line in "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines():
            self.log(line)
        logger.error("%s fails", self, exc_info=error)
        retryable = not isinstance(error, PermanentError)
        return "finish", _failed(type(error).__name__, str(error), retryable=retryable)


def _failed(kind: str, message: str, *, retryable: bool = True) -> dict[str, Any]:
    return {"outcome": "failed", "error": {"type": kind, "message": clean(message, MAX_LINE)}, "retryable": retryable}


# --- What outlives a reboot ------------------------------------------------------------------------------------------


class Journal:
    """A file for each attempt that has begun and of which FMV does not have the outcome.

    It holds the last `checkpoint`, and once the skill has ended `verb` and `body` of the request that says how.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, task_id: str, attempt: int, **what: Any) -> None:
        """Replace the file, and return when it is on the disk. If that fails, the task goes on all the same."""
        path = self._path(task_id, attempt)
        new = path.with_suffix(".new")
        try:
            with new.open("w") as file:
                json.dump({"task_id": task_id, "attempt": attempt, **what}, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
            directory = os.open(self._directory, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            logger.error("%s cannot be written (%s): a reboot would lose it.", path, error)

    def has(self, task_id: str, attempt: int) -> bool:
        return self._path(task_id, attempt).exists()

    def checkpoint(self, task_id: str, attempt: int, default: Any) -> Any:
        """Return the last checkpoint of an attempt, `default` if the file does not have it."""
        try:
            return json.loads(self._path(task_id, attempt).read_text())["checkpoint"]
        except (OSError, ValueError, KeyError):
            return default

    def ends(self) -> Iterator[dict[str, Any]]:
        """Yield what is to be sent of earlier starts of the agent."""
        for path in sorted(self._directory.glob("*.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                item = json.loads(path.read_text())
                if "verb" in item and self._path(item["task_id"], item["attempt"]) == path:
                    yield item

    def forget(self, task_id: str, attempt: int) -> None:
        with contextlib.suppress(OSError):
            self._path(task_id, attempt).unlink()

    def forget_all_but(self, keys: set[tuple[str, int]]) -> None:
        kept = {self._path(*key) for key in keys}
        for path in self._directory.glob("*"):
            if path.with_suffix(".json") not in kept:  # a .new is being written
                with contextlib.suppress(OSError):
                    path.unlink()

    def _path(self, task_id: str, attempt: int) -> Path:
        return self._directory / f"{uuid.UUID(task_id)}.{int(attempt)}.json"


def note_start(path: Path, boot_id: str) -> list[str]:
    """Add this start of the agent to the file, and return those before, whose late requests are to change nothing."""
    earlier: list[str] = []
    try:
        earlier = path.read_text().split()[-MAX_STARTS:] if path.exists() else []
        new = path.with_suffix(".new")
        new.write_text("\n".join([*earlier, boot_id]) + "\n")
        new.replace(path)
    except (OSError, ValueError) as error:
        logger.error("%s cannot be used: %s", path, error)
    return earlier


# --- The agent -------------------------------------------------------------------------------------------------------


class Agent:
    """One start of this program. Threads: one a lane, one that reports, one a task; the main one watches."""

    def __init__(self, server: Server, home: Path, *, lanes: int = 1, stop_seconds: float = 20.0) -> None:
        self.server = server
        self.report_seconds = 5.0
        #: the session with FMV, "" while there is none
        self.session = ""
        self._boot_id = str(uuid.uuid4())
        self._earlier_boots = note_start(home / "starts", self._boot_id)
        self.journal = Journal(home / "tasks")
        self._lanes, self._stop_seconds = lanes, stop_seconds
        self._running: dict[tuple[str, int], Task] = {}
        self._given: list[Task] = []  # which this robot held already when the session began
        #: the state that FMV took last lets the robot begin a task
        self.fit = False
        self._ready = False  # to take tasks: fit, and in service
        self._looks_since: float | None = None  # when the function that returns the state was called, if it still runs
        self._fault = ""  # of the state, as logged last, without its numbers
        self._heard = threading.Event()  # FMV has taken the state since a claim failed last
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._stopped_by = ""  # the name of the signal
        self._claims: list[http.client.HTTPConnection] = []
        self._failures, self._comebacks = pauses(), pauses(600)
        self._signed_in_at = self._come_back_at = 0.0
        self._own = threading.local()

    def run(self) -> int:
        """Run until SIGTERM, SIGINT or SIGHUP; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as with nohup
                signal.signal(number, self._stop)
        self._start(self._report, "report")
        for lane in range(self._lanes if _skills else 0):
            self._start(self._take, f"lane {lane}")
        hangs = False
        while not wait_for(self._stopping, 0.25):
            for task in [*self._running.values()]:
                task.watch()
            since = self._looks_since
            if since is None or uptime() - since < LOOK_SECONDS:
                hangs = False
            elif not hangs:
                hangs = True
                logger.error("The function that returns the robot's state has run for %g s.", LOOK_SECONDS)
                logger.error("Until it returns, nothing is reported and the robot takes no tasks.")
                self._rest()
        return self._say_goodbye()

    def _stop(self, number: int, _: object) -> None:
        if not self._stopped_by:
            self._stopped_by = signal.Signals(number).name
            self._stopping.set()
        elif number != signal.SIGHUP:  # which comes twice when a terminal ends
            logger.error("Stopped for the second time, at once.")
            os._exit(1)

    def _say_goodbye(self) -> int:
        logger.warning("Stopping, because of %s. Tasks are given back.", self._stopped_by)
        since = uptime()
        for task in [*self._running.values()]:
            task.end("agent stops")
        self._withdraw_claims()
        while self._running or (self._claims and uptime() < since + 5):
            if uptime() > since + self._stop_seconds:
                break
            time.sleep(0.05)
            self._withdraw_claims()  # those that were still connecting
        for task in [*self._running.values()]:
            logger.error("%s did not stop, or its end could not be sent, within %g s.", task, self._stop_seconds)
        if self.session:
            try:
                self.server.call("DELETE", "/session", {"session": self.session}, 5)
            except NoAnswer as error:
                logger.warning("FMV does not know that this agent stops: %s", error)
        logger.warning("Stopped.")
        return 1 if self._running else 0

    def _withdraw_claims(self) -> None:
        """Close the connections of claims that wait, so that FMV sees it and gives this robot no task."""
        for connection in [*self._claims]:
            with contextlib.suppress(OSError, AttributeError):  # AttributeError: it is closed already
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _start(self, step: Callable[[], None], name: str) -> None:
        """Repeat a step for ever in a thread. A fault of ours is logged, and ends nothing."""

        def repeat() -> None:
            while not self._stopping.is_set():
                try:
                    step()
                except Exception:  # noqa: PERF203
                    logger.exception("A fault of the agent, in the thread %r; it goes on.", name)
                    wait_for(self._stopping, 5)

        threading.Thread(target=repeat, name=name, daemon=True).start()

    # The session and the state

    def _report(self) -> None:
        """Sign in if there is no session, report the state once, and wait for the next time."""
        wait = self.report_seconds
        try:
            if self.session or self._sign_in():
                self._send_state()
                self._heard.set()
            else:
                wait = 1.0
            self._failures = pauses()
        except NoAnswer as error:
            wait = max(error.wait, next(self._failures))
            logger.warning("%s Next try in %.1f s.", error, wait)
        wait_for(self._stopping, wait)

    def _sign_in(self) -> bool:
        if uptime() < self._come_back_at or any(task.reason == "lost" for task in [*self._running.values()]):
            return False  # what runs for nobody has to stop first
        for item in self.journal.ends():
            if (item["task_id"], item["attempt"]) in self._running:
                continue  # its lane sends it
            try:
                if not self._deliver(item):
                    return False
            except Exception:
                logger.exception("This end of a task cannot be sent and is dropped: %s", item)
                self.journal.forget(item["task_id"], item["attempt"])
        about = {"agent": "fmv_agent.py", "version": VERSION, "boot_id": self._boot_id, "handlers": sorted(_skills)}
        answer = self.server.call("POST", "/session", {**about, "earlier_boot_ids": self._earlier_boots})
        if answer.status != 200:
            wait = 0 if answer.status == 409 else REFUSED_WAIT  # 409: the request came twice, and the other won
            raise NoAnswer(f"FMV opens no session: {answer.status} {answer.body}", wait)
        if answer.body.get("protocol", PROTOCOL) != PROTOCOL:
            logger.warning("FMV speaks protocol %s, this agent %s.", answer.body["protocol"], PROTOCOL)
        self.report_seconds = float(answer.body.get("report_seconds") or self.report_seconds)
        with self._lock:
            held = [Task(self, one, answer.body["session"]) for one in answer.body.get("tasks", ())]
            self._given = [task for task in held if task.key not in self._running]
            self.journal.forget_all_but({task.key for task in held} | self._running.keys())
            self.session, self._signed_in_at = answer.body["session"], uptime()
        logger.info("Connected to %s as robot %s.", self.server.url, answer.body.get("robot"))
        return True

    def _send_state(self) -> None:
        seen, fault = self._see()
        fit = not fault and seen.get("mode") in (None, "automatic", "semi_automatic")
        fit = fit and seen.get("emergency_stop") in (None, "none")
        if not fit:
            self._rest()
        session = self.session
        answer = self._put_state(seen, session)
        if answer.status not in (200, 409):
            fit, fault = False, f"FMV does not take the robot's state: {answer.status} {answer.body}"
            self._rest()
            answer = self._put_state(_unknown(fault), session)
        kind = fault.translate(NO_DIGITS)
        if kind not in ("", self._fault):
            logger.error("The robot takes no tasks. %s", fault)
        self._fault = kind
        if answer.status == 200:
            self.report_seconds = float(answer.body.get("report_seconds") or self.report_seconds)
            self.fit, self._ready = fit, fit and not answer.body.get("drain")
        elif answer.status == 409:
            self.is_replaced(session)

    def _see(self) -> tuple[dict[str, Any], str]:
        """Return the robot's state, and why it is unknown, "" if it is not."""
        if _look is None:
            return {}, ""
        self._looks_since = uptime()
        try:
            seen = dict(_look())
            json.dumps(seen, allow_nan=False)
        except BaseException as error:  # even SystemExit must not end the reports
            lines = traceback.format_exception(type(error), error, error.__traceback__)
            return _unknown(lines[-1]), "The function that returns the robot's state failed.\n" + "".join(lines)
        finally:
            self._looks_since = None
        return seen, ""

    def _put_state(self, seen: dict[str, Any], session: str) -> Answer:
        task = next(iter([*self._running.values()]), None)
        runs = {"task_id": task.id, "attempt": task.attempt} if task else None
        return self.server.call("PUT", "/state", {**seen, "session": session, "task": runs})

    def _rest(self) -> None:
        """Take no more tasks until FMV has taken a state that lets the robot begin one."""
        self.fit = self._ready = False
        self._withdraw_claims()

    def is_lost(self, task: Task, answer: Answer, session: str) -> None:
        """Drop a task that FMV says is not ours, or no more because it has the outcome."""
        if answer.code == "session_replaced":
            self.is_replaced(session)
        elif task.ended.is_set():
            task.delivered.set()
        elif task.reason != "lost":
            logger.warning("%s is not ours any more: %s", task, answer.body)
            task.end("lost")

    def is_replaced(self, session: str) -> None:
        """Leave the robot to another agent, and come back after a pause, longer each time: they must not fight."""
        with self._lock:
            if not session or session != self.session:
                return  # an answer to an earlier session
            self.session, self._ready = "", False
            if uptime() - self._signed_in_at > 600:
                self._comebacks = pauses(600)
            wait = 5 + next(self._comebacks)
            self._come_back_at = uptime() + wait
        why = "Another agent has signed in with this robot's token, or FMV has ended the session."
        logger.error("%s Next try in %.0f s.", why, wait)
        for task in [*self._running.values()]:
            task.end("lost")

    # Tasks

    def _take(self) -> None:
        """Wait for one task, run it and deliver how it ended."""
        task = self._next()
        if task is None:
            return
        try:
            end = task.run()
            if end is not None:
                item = {"verb": end[0], "body": {"session": task.session, "attempt": task.attempt, **end[1]}}
                self.journal.write(task.id, task.attempt, **item)
                task.send_rest_of_log()
                self._deliver({"task_id": task.id, "attempt": task.attempt, **item}, task)
            else:
                self.journal.forget(task.id, task.attempt)
        finally:
            task.delivered.set()
            if task.confirmed.is_set() or task.reason == "lost":
                self._own.claim_id = ""
            with self._lock:
                self._running.pop(task.key, None)

    def _next(self) -> Task | None:
        """Return the next task, None if the agent stops.

        The id of a claim stays until its task has begun, so that an answer which was lost or came too late is repeated.
        """
        failures = pauses()
        self._own.claim_id = getattr(self._own, "claim_id", "") or str(uuid.uuid4())
        while not self._stopping.is_set():
            with self._lock:
                if self._given:
                    return self._begin(self._given.pop(0))
            wait = 0.5
            if self._may_claim():
                try:
                    task, wait = self._claim(self._own.claim_id)
                    failures = pauses()
                    if task is not None:
                        return task
                except NoAnswer as error:
                    self._heard.clear()
                    wait = max(error.wait, next(failures))
                    if self._may_claim():  # else it was withdrawn
                        logger.warning("%s Next try in %.1f s at the latest.", error, wait)
                    if not error.wait and wait_for(self._heard, wait):  # FMV can be reached, and may hold a task for us
                        failures, wait = pauses(), random.uniform(0.05, 1)
                    elif not error.wait:
                        wait = 0
            wait_for(self._stopping, wait)
        return None

    def _may_claim(self) -> bool:
        return self._ready and self.session != "" and not self._stopping.is_set()

    def _claim(self, claim_id: str) -> tuple[Task | None, float]:
        session = self.session
        connection = self.server.connection()
        body = {"session": session, "claim_id": claim_id, "wait": CLAIM_WAIT}
        self._claims.append(connection)
        try:
            answer = self.server.call("POST", "/claim", body, CLAIM_WAIT + TIMEOUT, once=True)
            if answer.status == 200:
                task = Task(self, answer.body, session)
                with self._lock:
                    if task.key not in self._running and session == self.session:
                        return self._begin(task), 0
        finally:
            self._claims.remove(connection)
        if answer.status == 409:
            self.is_replaced(session)
        elif answer.status not in (200, 204):
            raise NoAnswer(f"FMV answered {answer.status} {answer.body} to a claim.", REFUSED_WAIT)
        return None, max(0.1, answer.retry_after)

    def _begin(self, task: Task) -> Task:
        self._running[task.key] = task
        if self._stopping.is_set():  # while the claim was on its way
            task.end("agent stops")
        return task

    def _deliver(self, item: dict[str, Any], task: Task | None = None) -> bool:
        """Send how a task ended until FMV has it or says that the attempt is not ours. False: the agent stops before.

        If it ended in an earlier start of the agent, it is sent in that one's session, before a new session ends it.
        """
        verb, body, failures = item["verb"], item["body"], pauses()
        while True:
            if task and self.session:
                body["session"] = self.session
            try:
                answer = self.server.call("POST", f"/task/{item['task_id']}/{verb}", body)
            except NoAnswer as error:
                wait = max(error.wait, next(failures))
                logger.warning("The end of task %s: %s Next try in %.1f s.", item["task_id"], error, wait)
                if wait_for(self._stopping, wait):
                    if task is None:
                        return False  # the next start sends it
                    time.sleep(min(wait, 1))
                continue
            if answer.status == 200:
                logger.info("Task %s: %s", item["task_id"], body.get("outcome", verb))
            elif answer.status in (404, 409) or body.get("error", {}).get("type") == "ResultRefused":
                logger.error("FMV does not take the end of task %s: %s", item["task_id"], answer.body)
                if answer.code == "session_replaced":
                    self.is_replaced(body["session"])
            else:
                reason = f"FMV answered {answer.status} to the outcome: {answer.body}"
                verb, body = "finish", {**_failed("ResultRefused", reason, retryable=False), **_whose(body)}
                continue
            self.journal.forget(item["task_id"], item["attempt"])
            return True


def _unknown(why: str) -> dict[str, Any]:
    """Return a state that shows people why it is unknown."""
    return {"errors": [{"type": "StateUnknown", "level": "warning", "description": clean(why, MAX_MESSAGE)}]}


def _whose(body: dict[str, Any]) -> dict[str, Any]:
    return {"session": body["session"], "attempt": body["attempt"]}


# --- The command -----------------------------------------------------------------------------------------------------


class BadToken(Exception):
    """The file of the token cannot be used."""


def read_token(path: Path) -> str:
    """Return the token in the file. Raises BadToken."""
    try:
        if path.stat().st_mode & 0o077:
            raise BadToken(f"others can read the token. Run: chmod 600 {path}")
        token = path.read_text().strip()
    except (OSError, ValueError) as error:
        raise BadToken(f"{path} cannot be read: {error}") from None
    if not _is_token(token):
        raise BadToken(f"{path} does not hold one token and nothing else.")
    return token


def _is_token(text: str) -> bool:
    return text.isascii() and len(text.split()) == 1


def ask_for_token(path: Path) -> None:
    """Write a file that others cannot read, with the token from standard input; on a terminal it is not shown."""
    token = getpass.getpass("Token of the robot: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not token.strip():
        raise BadToken(f"there is no token, neither in {path} nor on standard input.")
    if not _is_token(token):
        raise BadToken("what was given is not one token and nothing else. It was not stored: start again.")
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token.strip() + "\n")


def main() -> None:
    """Run the agent with the skills that are registered; the arguments come from the command line."""
    parser = argparse.ArgumentParser(description="Connect this robot to FMV, report its state and run its tasks.")
    parser.add_argument("url", help="FMV's address, such as https://fleet.example.org")
    parser.add_argument(
        "--home", type=Path, default=Path.home() / ".fmv-agent", help="directory of what the agent keeps"
    )
    parser.add_argument(
        "--token-file", type=Path, help="file with the robot's token, instead of `token` in the directory"
    )
    parser.add_argument("--ca-file", help="certificates of the authorities to trust, instead of the system's")
    parser.add_argument("--lanes", type=int, default=1, help="tasks that run at the same time; 1 if left out")
    parser.add_argument(
        "--stop-seconds", type=float, default=20, help="time for tasks to stop on SIGTERM; 20 if left out"
    )
    parser.add_argument("--verbose", action="store_true", help="log what the tasks log, too")
    given = parser.parse_args()
    if given.lanes < 1:
        parser.error("--lanes must be at least 1")
    level = logging.DEBUG if given.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s fmv-agent %(levelname)s %(message)s")
    token_file = given.token_file or given.home / "token"
    try:
        given.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (given.home / "lock").open("w")
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not token_file.exists():
            ask_for_token(token_file)
        server = Server(given.url, token_file, given.ca_file)
    except BlockingIOError:
        sys.exit(f"fmv-agent: another agent runs with {given.home}. For another robot give another --home.")
    except (OSError, BadToken) as error:
        sys.exit(f"fmv-agent: {error}")
    sys.exit(Agent(server, given.home, lanes=given.lanes, stop_seconds=given.stop_seconds).run())


if __name__ == "__main__":
    main()
