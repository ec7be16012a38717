"""An embedded MongoDB server for development and tests: SecantusDB, in a process of its own."""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

PROGRAM = "secantusd-py"


class StackError(Exception):
    """The stack cannot run; the message is one sentence for the user at the terminal."""


@contextmanager
def embedded_mongodb(path: Path, port: int | None = None, *options: str, needed: bool = False) -> Iterator[str]:
    """Run a server on the data in `path` and yield its address, "mongodb://127.0.0.1:<port>/", once it answers.

    It listens on `port` if that is free, else on any free port. `options` are added to its command line. Its log and
    lock file are kept beside `path`. Raises StackError if it does not start, or if another process runs a server on the
    same data. `needed`: see `needed_server`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a+") as lock, path.with_suffix(".log").open("ab") as log:
        stop_leftover(lock, PROGRAM, path)
        port = free_port(port)
        command = [str(Path(sys.executable).with_name(PROGRAM)), "--standalone", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--storage-path", str(path), "--log-level", "WARNING"]
        command += options
        # In a session of its own, so that Ctrl-C in the terminal does not reach it and this process stops it in order.
        server = subprocess.Popen(
            tied(signal.SIGTERM, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            print(server.pid, file=lock, flush=True)
            wait_for_mongodb(server, port, log.name)
            with needed_server(server, "MongoDB", log.name) if needed else nullcontext():
                yield f"mongodb://127.0.0.1:{port}/"
        finally:
            stop_mongodb(server, port)
            lock.truncate(0)


@contextmanager
def needed_server(server: subprocess.Popen[bytes], name: str, log: str) -> Iterator[None]:
    """If the server ends by itself meanwhile, send SIGTERM to this process, and raise StackError at the end."""
    own, before = os.getpid(), signal.getsignal(signal.SIGCHLD)

    def on_child(*arguments: Any) -> None:
        if callable(before):
            before(*arguments)
        if os.getpid() == own and server.poll() is not None:
            signal.signal(signal.SIGCHLD, before)
            os.kill(own, signal.SIGTERM)

    signal.signal(signal.SIGCHLD, on_child)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)
        if server.poll() is not None:
            reason = f"the embedded {name} server ended by itself (rc={server.returncode})"
            raise StackError(f"{reason}, so everything was stopped; see {log}.")


def stop_leftover(lock: IO[str], program: str, path: Path) -> None:
    """Take the lock, and end the server of an earlier stack that was killed before it could end it.

    `program` and `path` are parts of its command line.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StackError(f"another process already runs the embedded {program} of {path}; stop it first.") from None
    lock.seek(0)
    for pid in map(int, lock.read().split()):
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                if runs(pid, program, path):
                    os.kill(pid, signum)
            deadline = time.monotonic() + 10
            while runs(pid, program, path) and time.monotonic() < deadline:
                time.sleep(0.1)
    lock.truncate(0)


def runs(pid: int, program: str, path: Path) -> bool:
    """Return whether the process is an embedded server with this path, judging by its command line."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        if sys.platform == "linux":
            return False
        arguments = subprocess.run(
            ["ps", "-wwo", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
        ).stdout
    return program in arguments and f" {path} " in arguments


def check_port(host: str, port: int) -> None:
    """Raise StackError unless a server can listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise StackError(
            f"cannot listen on {host}:{port} ({reason}); set FMV_HOST and FMV_PORT to a free one."
        ) from None


def free_port(wanted: int | None) -> int:
    """Return `wanted` if it is free, else any free port."""
    if wanted:
        with suppress(StackError):
            check_port("127.0.0.1", wanted)
            return wanted
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for_mongodb(server: subprocess.Popen[bytes], port: int, log: str) -> None:
    deadline = time.monotonic() + 30
    while server.poll() is None and time.monotonic() < deadline:
        with (
            suppress(PyMongoError),
            MongoClient[dict[str, Any]]("127.0.0.1", port, serverSelectionTimeoutMS=200) as client,
        ):
            # Another server may have taken the port meanwhile; the process id identifies ours.
            if client.admin.command("serverStatus")["pid"] == server.pid:
                return
    raise StackError(f"the embedded MongoDB server did not start; see {log}.")


def stop_mongodb(server: subprocess.Popen[bytes], port: int) -> None:
    server.terminate()
    with suppress(OSError):  # a connection wakes it; otherwise it notices the signal only every two seconds
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    try:
        server.wait(timeout=15)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def tied(signum: signal.Signals, *command: str, parent: str | None = None) -> list[str]:
    """Return a command that becomes `command`; on Linux it gets `signum` when its parent ends, even if killed.

    `parent` is the parent's process id, by default this process's. If the parent has ended before the kernel was asked
    for the signal, `command` is not run.
    """
    become = (
        "import ctypes, os, sys\n"
        "if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, int(sys.argv[1]))\n"  # PR_SET_PDEATHSIG
        "if str(os.getppid()) != sys.argv[2]: sys.exit('The parent process has ended.')\n"
        "os.execvp(sys.argv[3], sys.argv[3:])"
    )
    return [sys.executable, "-ISc", become, str(int(signum)), parent or str(os.getpid()), *command]


def end_with_parent(parent: int) -> None:
    """End this process, just forked, when its parent ends, even if that is killed: the same for a fork as `tied`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(1)
