"""Handlers that leave something behind in their process, and one that shows what it finds there."""

import builtins
import contextlib
import contextvars
import decimal
import fcntl
import gc
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tasks.registry import Context, Params, RetryPolicy, handler

ONCE = RetryPolicy(max_attempts=1)
kept: list[Any] = []  # so that nothing is collected
variable = contextvars.ContextVar("variable", default="nothing")


class Leaves(Params):
    value: str
    file: str = ""


def mask() -> int:
    now = os.umask(0o22)
    os.umask(now)
    return now


def bang(*_: object) -> None:
    raise RuntimeError("a signal of the task before")


def alarm(seconds: float = 0.2) -> None:
    signal.signal(signal.SIGALRM, bang)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def interval() -> None:
    signal.signal(signal.SIGALRM, bang)
    with contextlib.suppress(RuntimeError):
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)


def blocked_alarm() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_kill(threading.get_ident(), signal.SIGALRM)


def environment() -> None:
    os.environ["SECRET"] = "of one task"
    os.environ.pop("PATH")


def zone() -> None:
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


def temporary_directory() -> None:
    os.environ["TMPDIR"] = "/var"
    tempfile.tempdir = None
    kept.append(tempfile.gettempdir())


def new_descriptor_for(number: int) -> None:
    file = os.open(os.devnull, os.O_WRONLY)
    os.dup2(file, number)
    os.close(file)


def broken_logging() -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no space left for the log")

    logging.getLogger().addHandler(Broken())


def thread(daemon: bool) -> None:
    threading.Thread(target=time.sleep, args=(600,), daemon=daemon).start()


def child(*, detached: bool) -> None:
    script = "setsid sleep 600 & echo $!; exit" if detached else "echo $$; exec sleep 600"
    process = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True)
    kept.append(process)
    if detached:
        process.wait()


def open_files() -> None:
    kept.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def fork_and_return() -> None:
    os.fork()


#: names of threads that the process itself starts when it first needs them
ON_DEMAND = ("pymongo_", "publisher")
LEAVINGS: dict[str, Callable[[], object]] = {
    "alarm": alarm,
    "interval timer": interval,
    "signal handler": lambda: [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGUSR2)],
    "ignored child": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    "signal mask": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2}),
    "blocked alarm": blocked_alarm,
    "stderr closed": lambda: sys.stderr.close(),  # noqa: PLW0108 - the stream of that moment
    "stderr replaced": lambda: setattr(sys, "stderr", None),
    "descriptor closed": lambda: os.close(2),
    "stderr redirected": lambda: new_descriptor_for(2),
    "non-blocking stderr": lambda: fcntl.fcntl(2, fcntl.F_SETFL, fcntl.fcntl(2, fcntl.F_GETFL) | os.O_NONBLOCK),
    "logging off": lambda: logging.disable(logging.CRITICAL),
    "logging broken": broken_logging,
    "logging level": lambda: logging.getLogger("tasks").setLevel(logging.CRITICAL),
    "directory": lambda: os.chdir("/"),
    "umask": lambda: os.umask(0o777),
    "environment": environment,
    "time zone": zone,
    "temporary directory": temporary_directory,
    "import path": lambda: sys.path.insert(0, "/nowhere"),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8"),
    "decimal": lambda: setattr(decimal.getcontext(), "prec", 3),
    "warnings": lambda: warnings.simplefilter("error"),
    "random": lambda: random.seed(42),
    "garbage collection": gc.disable,
    "trace": lambda: sys.settrace(lambda *_: None),
    "recursion limit": lambda: sys.setrecursionlimit(200),
    "socket timeout": lambda: socket.setdefaulttimeout(0.001),
    "file limit": few_files,
    "start method": lambda: multiprocessing.set_start_method("spawn"),
    "builtins": lambda: setattr(builtins, "open", None),
    "a logger's handler": lambda: logging.getLogger("new").addHandler(logging.StreamHandler()),
    "context variable": lambda: variable.set("of one task"),
    # What cannot be put back.
    "thread": lambda: thread(daemon=False),
    "daemon thread": lambda: thread(daemon=True),
    "child": lambda: child(detached=False),
    "detached child": lambda: child(detached=True),
    "all descriptors": lambda: os.closerange(0, 1000),
    "hard limit": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "process group": lambda: os.setpgid(0, os.getpgid(os.getppid())),
    "open files": open_files,
    "fork": fork_and_return,
    "nothing": lambda: None,
}  # fmt: skip


@handler("leaves", params=Leaves, retry=ONCE)
def leaves(ctx: Context[Leaves]) -> str:
    """Leave something behind."""
    LEAVINGS[ctx.params.value]()
    return ctx.params.value


@handler("fresh", params=Params, retry=ONCE, fresh_process=True)
def fresh(ctx: Context[Params]) -> None:
    """Want a process of its own."""


@handler("shows", params=Params, retry=ONCE)
def shows(ctx: Context[Params]) -> dict[str, Any]:
    """Return the state of the process, after a while in which a left-over signal could arrive."""
    time.sleep(0.3)
    logging.getLogger("tasks.shows").info("a line of task %s", ctx.task_id)
    print(f"a word of task {ctx.task_id}", file=sys.stderr, flush=True)
    os.write(2, b"\n")
    handlers = {number: repr(signal.getsignal(number)).partition(" at ")[0] for number in (10, 12, 14, 15, 17)}
    return {
        "environment": sorted(os.environ),
        "path": sys.path,
        "directory": os.getcwd(),
        "umask": mask(),
        "signals": {str(number): text for number, text in handlers.items()},
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timers": signal.getitimer(signal.ITIMER_REAL),
        "stderr": [sys.stderr.fileno(), os.get_blocking(2), os.fstat(2).st_ino],
        "zone": time.strftime("%z"),
        "temporary directory": tempfile.gettempdir(),
        "locale": locale.setlocale(locale.LC_ALL),
        "precision": decimal.getcontext().prec,
        "filters": len(warnings.filters),
        "collection": gc.isenabled(),
        "trace": repr(sys.gettrace()),
        "recursion": sys.getrecursionlimit(),
        "timeout": socket.getdefaulttimeout(),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "open": repr(open),
        "logger": len(logging.getLogger("new").handlers),
        "level": logging.getLogger("tasks").level,
        "variable": variable.get(),
        "threads": len([each for each in threading.enumerate() if not each.name.startswith(ON_DEMAND)]),
    }


@handler("draws", params=Params, retry=ONCE)
def draws(ctx: Context[Params]) -> float:
    """Return a random number."""
    return random.random()


@handler("multiprocessing", params=Params, retry=ONCE)
def uses_multiprocessing(ctx: Context[Params]) -> list[Any]:
    """Compute in child processes, in each way that is safe in a process with threads."""
    answers = []
    for method in ("spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            answers.append(pool.map(abs, [1, -2]))
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            answers.append(list(executor.map(abs, [-3])))
    return answers


@handler("parent", params=Leaves, retry=ONCE)
def parent(ctx: Context[Leaves]) -> None:
    """Start a child process that writes its number to a file, and wait for it without an end."""
    process = subprocess.Popen(["/bin/sh", "-c", 'echo $$ > "$0"; exec sleep 600', ctx.params.file])
    kept.append(process)
    if ctx.params.value == "grips":
        pow(3, 10**9)
    time.sleep(600)
