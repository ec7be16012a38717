"""How a pool process ends by itself: between two messages, so that nothing is lost, and the pool starts another.

It does so when a task has left something behind that cannot be put back (tasks.worker.isolation), when FMV's own code
fails again and again in it, and when the worker's main process has died.
"""

import contextlib
import ctypes
import logging
import multiprocessing.process
import os
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from billiard.pool import EX_RECYCLE
from billiard.process import current_process

from fmv.mongodb.server import is_unreachable
from tasks.worker import process_state
from tasks.worker.lease import INTERRUPT

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
MAX_FAILURES = 2  # messages in a row at which FMV's own code may fail in one process
#: how multiprocessing sees the worker's main process. In a pool process Celery replaces it by a daemon, which may have
#: no child processes; handlers may have some.
MAIN = multiprocessing.current_process()

_why = ""  # the process is to end before its next message
_orphaned = False  # the worker's main process has died
_busy = False  # it handles a message
_failures = 0  # messages in a row at which FMV's own code has failed


def end_soon(why: str) -> None:
    """Let this process end after the message that it handles. `why` is for its log."""
    global _why  # noqa: PLW0603 - this module holds the state of one process
    _why = _why or why


def is_ending() -> bool:
    """Return whether this process is to take no further task."""
    return bool(_why)


def is_orphaned() -> bool:
    """Return whether the worker's main process has died: nobody waits for this process then."""
    return _orphaned


@contextlib.contextmanager
def handling_message() -> Iterator[None]:
    """Count failures of FMV's own code while a message is handled, and let an interrupt end a task, not the process."""
    global _busy, _failures  # noqa: PLW0603
    _busy = True
    try:
        yield
        _failures = 0
    except BaseException as error:
        _failures += not is_unreachable(error)
        if _failures >= MAX_FAILURES:
            end_soon(f"FMV's own code failed {_failures} times in a row, the last time with {error!r:.200}")
        raise
    finally:
        _busy = False


def prepare() -> None:
    """Prepare a new pool process: it looks, before each message, whether it is to end."""
    worker: Any = current_process()._target  # type: ignore[attr-defined]  # billiard.pool.Worker
    receive = worker.wait_for_job

    def wait_for_job() -> Any:
        if _why:
            logger.info("This process ends, and the pool starts another: %s", _why)
            sys.exit(EX_RECYCLE)
        return receive()

    worker.wait_for_job = wait_for_job
    if sys.platform == "linux":
        _give_up_sockets()
    process_state.remember_pipes()
    multiprocessing.process._current_process = MAIN  # type: ignore[attr-defined]
    os.setpgid(0, 0)  # what a handler starts is of this group and ends with it: see celery_hooks.Request
    if sys.platform == "linux":
        _outlive_the_parents_thread()
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a handler's child leaves behind becomes our child


def _give_up_sockets() -> None:
    """Replace the sockets that the main process had open at the fork by the null device.

    This process would hold the worker's connection to the broker: if the main process is killed, the broker gives the
    next message to that connection for as long as this process lives. The file descriptors stay taken, because objects
    of the main process that end here close them.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the one of the list itself is closed
            if fd > 2 and stat.S_ISSOCK(os.fstat(fd).st_mode):  # stderr may be one
                os.dup2(null, fd)
    os.close(null)


def _outlive_the_parents_thread() -> None:
    """Replace the SIGKILL that Celery has ordered for the death of the main process.

    Linux sends it already when the thread ends that has forked this process, and a pool with threads replaces its
    processes from a thread that ends first at a stop: the stop would kill running tasks. When the main process itself
    has died, the running task is released, so that its death costs no attempt.
    """
    try:
        main_process = os.pidfd_open(os.getppid())
    except OSError:  # before Linux 5.3, or dead: see end_without_parent
        return
    signal.signal(signal.SIGRTMIN, _on_death_of_main_process)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
    threading.Thread(target=_watch, args=(main_process,), name="main process", daemon=True).start()


def _watch(main_process: int) -> None:
    poll = select.poll()
    poll.register(main_process, select.POLLIN)
    poll.poll()
    while True:  # a signal that arrives just before a blocking call does not end that call
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGRTMIN)
        time.sleep(1)


def _on_death_of_main_process(*_: object) -> None:
    global _orphaned  # noqa: PLW0603
    if _busy:
        os.kill(os.getpid(), INTERRUPT)
    elif _orphaned:  # it ends already
        return
    _orphaned = True
    current_process()._target.on_ready_counter = None  # type: ignore[attr-defined]  # nobody reads its last messages
    end_soon("the worker's main process has died")
    if not _busy:
        sys.exit(EX_RECYCLE)
