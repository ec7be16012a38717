"""A proxy between agents and the web server that loses, delays and repeats requests and answers, as networks do.

with FaultProxy(url) as proxy:
    start an agent with proxy.url
    proxy.next("/claim", DROP_ANSWER)          # of the next claim
    proxy.chances = {DUPLICATE: 0.1}           # of every request, at random
    proxy.is_down = True                       # until it is False again
"""

import copy
import enum
import http.client
import random
import select
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self
from urllib.parse import urlsplit

TIMEOUT = 60.0  # seconds for an answer of the web server
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class Fault(enum.Enum):
    """What happens to a request."""

    LOSE = "lose"  #: it never reaches the server, and the connection ends
    DROP_ANSWER = "drop answer"  #: the server carries it out, and the connection ends without an answer
    CUT = "cut"  #: the connection ends in the middle of the answer
    DELAY = "delay"  #: it reaches the server after `FaultProxy.delay` seconds, even if the client has gone by then
    DUPLICATE = "duplicate"  #: it reaches the server twice, at once
    LATE_DUPLICATE = "late duplicate"  #: it reaches the server again after `FaultProxy.delay` seconds
    FOREIGN = "foreign"  #: something else answers, such as the sign-in page of a guest network


LOSE, DROP_ANSWER, CUT, DELAY, DUPLICATE, LATE_DUPLICATE, FOREIGN = Fault


class Call(NamedTuple):
    """A request, as the proxy met it; `status` is the server's answer, None if it did not reach the server."""

    method: str
    path: str
    body: bytes
    fault: Fault | None
    status: int | None


class FaultProxy:
    """A proxy on a free port of this machine, in threads of this process."""

    def __init__(self, upstream: str, *, seed: int = 0, delay: float = 3.0) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "", parts.port or 80)
        self.delay = delay
        #: the chance of each fault for a request that `next` does not speak of
        self.chances: dict[Fault, float] = {}
        #: no connection lives meanwhile: the robot is in a lift
        self.is_down = False
        #: everything that passed, in the order of the answers
        self.calls: list[Call] = []
        self._planned: list[tuple[str, Fault]] = []
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Request)
        self._server.proxy = self
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients that are killed end their connections as they like

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next(self, path: str, fault: Fault) -> None:
        """Let this happen to the next request whose path contains `path`."""
        with self._lock:
            self._planned.append((path, fault))

    def fault_of(self, path: str) -> Fault | None:
        with self._lock:
            for planned in self._planned:
                if planned[0] in path:
                    self._planned.remove(planned)
                    return planned[1]
            chance = self._random.random()
            for fault, share in self.chances.items():
                chance -= share
                if chance < 0:
                    return fault
        return None

    def statuses(self, path: str) -> list[int | None]:
        """Return the server's answers to the requests whose path contains `path`."""
        return [call.status for call in self.calls if path in call.path]

    def faults(self) -> Counter[str]:
        """Return how often each fault has happened."""
        return Counter(call.fault.value for call in self.calls if call.fault)


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 120

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        proxy: FaultProxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = LOSE if proxy.is_down else proxy.fault_of(self.path)
        if fault is LOSE:
            self.end_without_answer(body, fault, None)
            return
        if fault is FOREIGN:
            proxy.calls.append(Call(self.command, self.path, body, fault, None))
            self.answer(200, [("Content-Type", "text/html")], b"<h1>Welcome to our guest network</h1>")
            return
        if fault is DELAY:
            time.sleep(proxy.delay)
        try:
            answer, content = self.forward(body, whatever=fault is DELAY)
        except (OSError, http.client.HTTPException):  # the server stops, or is killed
            self.end_without_answer(body, fault, None)
            return
        if fault is DUPLICATE:
            self.forward_again(body)
        elif fault is LATE_DUPLICATE:
            this = copy.copy(self)  # another request may come on this connection meanwhile
            threading.Timer(proxy.delay, this.forward_again, (body,)).start()
        if fault is DROP_ANSWER or proxy.is_down:
            self.end_without_answer(body, fault, answer.status)
            return
        proxy.calls.append(Call(self.command, self.path, body, fault, answer.status))
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        self.answer(answer.status, headers, content, cut=fault is CUT)

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 - the base class calls them so

    def end_without_answer(self, body: bytes, fault: Fault | None, status: int | None) -> None:
        self.server.proxy.calls.append(Call(self.command, self.path, body, fault, status))
        self.close_connection = True

    def forward(self, body: bytes, *, whatever: bool = False) -> tuple[http.client.HTTPResponse, bytes]:
        """Send the request to the server and return its answer.

        If the client ends its connection meanwhile, end the server's, too, and raise ConnectionAbortedError, unless
        `whatever` happens it is to be answered.
        """
        connection = http.client.HTTPConnection(*self.server.proxy.upstream, timeout=TIMEOUT)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            connection.request(self.command, self.path, body, headers | {"Connection": "close"})
            while not whatever and connection.sock not in self.readable(connection.sock):
                if not self.connection.recv(1, socket.MSG_PEEK):
                    raise ConnectionAbortedError
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def readable(self, server: socket.socket) -> list[socket.socket]:
        return select.select([server, self.connection], [], [], TIMEOUT)[0]

    def forward_again(self, body: bytes) -> None:
        with suppress(OSError, http.client.HTTPException):
            self.forward(body, whatever=True)
