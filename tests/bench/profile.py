"""Profile: where a request's and a task's wall time goes, by the package of the innermost Python frame.

The web server's application, a task's submit and a task's run are called in one thread of this process, and a timer
interrupts them a thousand times a second. Time in C code counts for the frame that called it: waiting for MongoDB
counts for PyMongo, waiting for the broker's confirmation for the messages. Where the innermost frame is in Python's own
library (logging, sockets, locks), the nearest frame outside of it counts.
"""

import io
import logging
import signal
import sys
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from types import FrameType
from typing import Any, TextIO
from urllib.parse import unquote

from fmv.devstack import stack
from tests.bench.figures import Figure, Size, figure, say
from tests.bench.requests import Route, prepare, routes
from tests.bench.stage import Stage

INTERVAL = 0.001  # seconds between samples
#: package -> its name in the report
PARTS = {
    **dict.fromkeys(("pymongo", "bson", "gridfs"), "MongoDB and its driver"),
    **dict.fromkeys(("celery", "kombu", "amqp", "vine", "billiard"), "messages"),
    "django": "Django",
    "rest_framework": "REST framework",
    "django_mongodb_backend": "Django on MongoDB",
    **dict.fromkeys(("fmv", "robots", "tasks"), "FMV"),
}
REST = "the rest"
LIBRARY, SITE = (sysconfig.get_paths()[name] + "/" for name in ("stdlib", "purelib"))
OURS = f"{stack.ROOT}/"


def package_of(file: str) -> str | None:
    """Return the package that a source file belongs to; None for Python's own library."""
    for root in (SITE, OURS):
        if file.startswith(root):
            return file.removeprefix(root).partition("/")[0]
    return None if file.startswith((LIBRARY, "<frozen")) else REST


def part_of(frame: FrameType | None) -> str:
    while frame is not None:
        if package := package_of(frame.f_code.co_filename):
            return PARTS.get(package, REST)
        frame = frame.f_back
    return REST


def sample(work: Callable[[], object], seconds: float, first: Callable[[], object] = int) -> Counter[str]:
    """Repeat the work for `seconds`; return the number of samples in each part. `first` is called before, unsampled."""
    seen: Counter[str] = Counter()
    at_work = False
    before = signal.signal(signal.SIGALRM, lambda _, frame: seen.update([part_of(frame)] if at_work else ()))
    signal.setitimer(signal.ITIMER_REAL, INTERVAL, INTERVAL)
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            first()
            at_work = True
            work()
            at_work = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return seen


def call(application: Any, route: Route, numbers: Any) -> None:
    """Call the application as gunicorn would. Raises RuntimeError when the response is no success."""
    body = route.body.replace("#", f"profile-{next(numbers)}").encode()
    environ = {
        "REQUEST_METHOD": route.method, "PATH_INFO": unquote(f"/api/v1{route.path}"), "SCRIPT_NAME": "",
        "QUERY_STRING": "", "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "127.0.0.1", "REMOTE_ADDR": "127.0.0.1", "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body), "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
    }  # fmt: skip
    statuses: list[str] = []
    response = application(environ, lambda status, _: statuses.append(status))
    b"".join(response)
    response.close()
    if statuses[0][0] != "2":
        raise RuntimeError(f"{route.method} {route.path} answered {statuses[0]}")


def measure(stage: Stage, size: Size) -> list[Figure]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No directory at")  # of static files: no page is asked for
        from fmv.wsgi import application
    from robots import services as registry
    from tasks.queue import services
    from tasks.worker.claim import run_next

    task = prepare()
    robot = registry.get("Robot 98")
    submit = partial(services.submit, {"robot": robot.name, "handler": "noop"}, by="bench")
    works = [(route.name, partial(call, application, route, count()), int) for route in routes(task)]
    works += [("a task's submit", submit, int), ("a task's run", partial(run_next, robot.name, "bench"), submit)]
    with (stage.directory / "profile.log").open("w") as log, _logging_to(log):
        return [each for work in works for each in _shares(stage, size, *work)]


@contextmanager
def _logging_to(file: TextIO) -> Iterator[None]:
    """Write the log to this file, as a web server writes to one."""
    [handler] = logging.getLogger().handlers
    before = handler.setStream(file)
    try:
        yield
    finally:
        handler.setStream(before)


def _shares(
    stage: Stage, size: Size, name: str, work: Callable[[], object], first: Callable[[], object]
) -> list[Figure]:
    """Return each part's share of the samples, over `size.pairs` runs."""
    sample(work, 0.2, first)  # to fill the caches
    runs = [sample(work, size.seconds / 4, first) for _ in range(size.pairs)]
    found = []
    for part in [*dict.fromkeys(PARTS.values()), REST]:
        shares = [run[part] / (run.total() or 1) for run in runs]
        if any(shares):
            found.append(figure(f"{name}: share of {part}", stage.engine, "", shares))
    say(f"  {name}: " + ", ".join(f"{each.name.partition('share of ')[2]} {each.ratio:.0%}" for each in found))
    return found
