"""A tap on the way to MongoDB: a proxy that records the commands which real processes send."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import bson

HEADER = 16  # bytes: the length of the message, two numbers, the kind
OP_MSG = 2013
BODY = HEADER + 5  # where the command begins: behind flags, and the kind of the section
#: what drivers send by themselves, to watch the server and to open and close connections
OF_THE_DRIVER = {"hello", "ismaster", "isMaster", "saslStart", "saslContinue", "endSessions", "ping"}


@dataclass
class Tap:
    """`sent`: the commands in order, as "update tasks_task"; those of the drivers themselves are left out."""

    uri: str
    sent: list[str]

    def count(self, command: str) -> int:
        return self.sent.count(command)


@contextmanager
def tapped(uri: str) -> Iterator[Tap]:
    """Yield a Tap whose `uri` leads to the MongoDB server at `uri`, which must be one without TLS."""
    parts = urlsplit(uri)
    server = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    netloc = parts.netloc.replace(parts.netloc.rpartition("@")[2], address)
    query = "&".join(filter(None, (parts.query, "directConnection=true")))
    tap = Tap(parts._replace(netloc=netloc, query=query).geturl(), [])
    ends: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):  # closed below
            while True:
                client, _ = server.accept()
                to = socket.create_connection((parts.hostname, parts.port or 27017))
                ends.extend((client, to))
                threading.Thread(target=_forward, args=(to, client), daemon=True).start()
                threading.Thread(target=_record, args=(client, to, tap.sent), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield tap
    finally:
        for end in (server, *ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _record(client: socket.socket, server: socket.socket, sent: list[str]) -> None:
    """Forward the client's messages, whole ones, and note the command of each."""
    with suppress(OSError, EOFError):
        while True:
            message = _read(client, HEADER)
            message += _read(client, int.from_bytes(message[:4], "little") - HEADER)
            if int.from_bytes(message[12:16], "little") == OP_MSG and (name := _command(message)):
                sent.append(name)
            server.sendall(message)
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)


def _read(source: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        if not (more := source.recv(size - len(data))):
            raise EOFError
        data += more
    return bytes(data)


def _command(message: bytes) -> str:
    """Return the command of an OP_MSG, and its collection; "" for one of the driver's own.

    FMV itself sends a `hello` to read the server's clock. Unlike the driver it names its database.
    """
    size = int.from_bytes(message[BODY : BODY + 4], "little")
    body = bson.decode(message[BODY : BODY + size])
    name, target = next(iter(body.items()))
    if name == "hello" and body.get("$db") != "admin":
        return "hello"
    return "" if name in OF_THE_DRIVER else f"{name} {target}"
