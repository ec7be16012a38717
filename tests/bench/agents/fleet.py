"""Many agents in one process, far lighter than the agent that robots get, but with its requests and connections.

    python -m tests.bench.agents.fleet URL TOKENS MARKS DO RENEW REPORT WAIT

TOKENS is a file with the token of a robot in each line. DO is what each agent does once it has signed in:

    works   claim one task, keep it, renew it every RENEW seconds, and report the robot's state every REPORT seconds
    asks    claim a task once without waiting; the process ends when all have
    waits   wait for a task up to WAIT seconds, again and again, and finish it at once

Each answer leaves a mark in the file MARKS: what was asked, the status, the seconds it took, and a claimed task's id.
"""

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Container
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from tests.support.event_marks import mark

SIGN_IN_AT_ONCE = 8  # agents
HANDLERS = ("drive", "turn")
NOTHING = 204  # the answer to a claim when there is no task
NOT_NOW = 503  # the answer when MongoDB is too slow; agents then ask again


class Pace(NamedTuple):
    """How often agents call, in seconds."""

    renew: float = 10.0
    report: float = 5.0
    wait: float = 25.0


PACE = Pace()


class Mark(NamedTuple):
    """An answer to an agent. `at` is a time by `time.monotonic_ns()`."""

    at: int
    asked: str
    status: int
    seconds: float
    task: str

    @classmethod
    def read(cls, line: str) -> Self:
        at, asked, status, seconds, task = line.split(" ")
        return cls(int(at), asked, int(status), float(seconds), task)


class Connection:
    """A connection to the web server, which stays open between requests."""

    def __init__(self, url: str, token: str, marks: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        self._head = f"Host: {parts.netloc}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        self._marks = marks
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, asked: str, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return the answer's JSON, with its status as `status` and `Retry-After` as `pause`."""
        begin = time.monotonic_ns()
        while True:
            kept = self._streams is not None
            try:
                answer = await self._send(method, path, json.dumps(body).encode())
                break
            except (OSError, EOFError):
                self._streams = None
                if not kept:
                    raise
        now = time.monotonic_ns()
        task = answer.get("task", {}).get("task_id", "") if asked == "claim" else ""
        mark(self._marks, asked, answer["status"], (now - begin) / 1e9, task or "-")
        return answer

    async def _send(self, method: str, path: str, data: bytes) -> dict[str, Any]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        head = f"{method} /api/v1/agent{path} HTTP/1.1\r\n{self._head}Content-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        headers = dict(line.split(": ", 1) for line in lines if line)
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            writer.close()
            self._streams = None
        answer: dict[str, Any] = json.loads(content) if content else {}
        return answer | {"status": int(first.split()[1]), "pause": float(headers.get("retry-after", 0))}


class Agent:
    """The agent of one robot. `place`, of 0 to 1, is its place in the fleet, which spreads the agents' requests."""

    def __init__(self, url: str, token: str, marks: str, place: float, pace: Pace) -> None:
        self._connect = lambda: Connection(url, token, marks)
        self.connection = self._connect()
        self.place, self.pace = place, pace
        self.session = ""

    async def sign_in(self) -> None:
        body = {"agent": "bench", "version": "1", "boot_id": uuid.uuid4().hex, "handlers": HANDLERS}
        signed_in = await repeated(lambda: self.connection.call("sign-in", "POST", "/session", body))
        self.session = signed_in["session"]

    async def claim(self, wait: float) -> dict[str, Any]:
        body = {"session": self.session, "claim_id": str(uuid.uuid4()), "wait": wait}
        return await self.connection.call("claim", "POST", "/claim", body)

    async def _tell(self, verb: str, claimed: dict[str, Any], **body: Any) -> dict[str, Any]:
        body |= {"session": self.session, "attempt": claimed["attempt"]}
        return await self.connection.call(verb, "POST", f"/task/{claimed['task']['task_id']}/{verb}", body)

    async def works(self) -> None:
        """Keep a task, with one connection for its renewals and one for the reports, as the agent of robots has."""
        claimed = await repeated(lambda: self.claim(0), (NOTHING, NOT_NOW))
        await repeated(lambda: self._tell("renew", claimed))
        await asyncio.gather(self._renew_always(claimed), self._report_always(self._connect()))

    async def _renew_always(self, claimed: dict[str, Any]) -> None:
        async for number in every(self.pace.renew, self.place):
            await self._tell("renew", claimed, progress=number % 100, message=f"leg {number}")

    async def _report_always(self, connection: Connection) -> None:
        async for number in every(self.pace.report, self.place):
            await connection.call("report", "PUT", "/state", state(number) | {"session": self.session})

    async def asks(self) -> None:
        await repeated(lambda: self.claim(0))

    async def waits(self) -> None:
        while True:
            claimed = await self.claim(self.pace.wait)
            if claimed["status"] == 200:
                await repeated(partial(self._tell, "renew", claimed))
                await repeated(partial(self._tell, "finish", claimed, outcome="succeeded", result={"degrees": 1}))
            else:
                await asyncio.sleep(claimed["pause"])


async def repeated(ask: Callable[[], Awaitable[dict[str, Any]]], again: Container[int] = (NOT_NOW,)) -> dict[str, Any]:
    """Ask until the status is none of these, with the pauses that the server wishes; return that answer."""
    while (answer := await ask())["status"] in again:
        await asyncio.sleep(answer["pause"])
    return answer


async def every(seconds: float, place: float) -> Any:
    """Yield numbers at the agent's place in each such span of time; if it is late, at once."""
    due, number = (time.monotonic() // seconds + place) * seconds, 0
    while due < time.monotonic():
        due += seconds
    while True:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield number
        number, due = number + 1, due + seconds


def state(number: int) -> dict[str, Any]:
    """Return the state of a robot that drives in a circle."""
    return {
        "battery": {"charge": 80 - number % 60, "charging": False, "voltage": 24.1},
        "position": {"map": "hall", "x": number % 30 * 1.5, "y": 4.0, "theta": 0.5, "localized": True},
        "velocity": {"linear": 0.8, "angular": 0.0},
        "driving": True,
        "paused": False,
        "mode": "automatic",
        "emergency_stop": "none",
        "errors": [],
    }


async def run(url: str, tokens: list[str], marks: str, do: str, pace: Pace) -> None:
    places = asyncio.Semaphore(SIGN_IN_AT_ONCE)

    async def live(agent: Agent) -> None:
        async with places:
            await agent.sign_in()
            if do == "asks":
                await agent.asks()
        if do == "works":
            await agent.works()
        elif do == "waits":
            await agent.waits()

    agents = [Agent(url, token, marks, number / len(tokens), pace) for number, token in enumerate(tokens)]
    async with asyncio.TaskGroup() as group:  # the first that fails ends them all
        for agent in agents:
            group.create_task(live(agent))


def main() -> None:
    url, tokens, marks, do, *pace = sys.argv[1:]
    asyncio.run(run(url, Path(tokens).read_text().split(), marks, do, Pace(*map(float, pace))))


if __name__ == "__main__":
    main()
