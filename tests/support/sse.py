"""A client of server-sent events that shows what came over the wire."""

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Block:
    """What stood between two empty lines."""

    id: str = ""
    event: str = ""
    data: str = ""
    retry: str = ""
    comments: list[str] = field(default_factory=list)

    @property
    def task(self) -> Any:
        return json.loads(self.data)

    @property
    def status(self) -> str:
        return str(self.task["status"])


class Sse:
    """An open stream: `Sse(server + "/api/v1/events")`. Reading waits for `timeout` seconds at most."""

    def __init__(self, url: str, *, method: str = "GET", timeout: float = 30, **headers: str) -> None:
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
        self.connection.request(method, f"{parts.path}?{parts.query}", headers=headers)
        self.answer = self.connection.getresponse()
        self.status = self.answer.status
        self.headers = {name.lower(): value for name, value in self.answer.getheaders()}
        self.last_id = ""

    def close(self) -> None:
        self.answer.close()
        self.connection.close()

    def __enter__(self) -> "Sse":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def blocks(self) -> Iterator[Block]:
        """Yield what comes, until the server ends the stream."""
        block = Block()
        while line := self.answer.readline().decode():
            name, _, value = line.rstrip("\n").partition(":")
            if line == "\n":
                self.last_id = block.id or self.last_id
                yield block
                block = Block()
            elif not name:
                block.comments.append(value.strip())
            else:
                setattr(block, name, value.removeprefix(" "))
        assert block == Block(), "cut in the middle of an event"

    def events(self) -> Iterator[Block]:
        return (block for block in self.blocks() if block.event)

    def until(self, condition: Callable[[Block], bool]) -> list[Block]:
        """Return the events up to the first that fulfils the condition."""
        seen = []
        for block in self.events():
            seen.append(block)
            if condition(block):
                return seen
        raise AssertionError(f"the stream ended after {seen}")
