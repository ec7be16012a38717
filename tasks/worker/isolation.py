"""What a handler may not leave to the next task of its process.

After each attempt the state of the process is put back as it was (tasks.worker.process_state), and child processes are
ended. If something cannot be put back, or a thread stays, the process ends before its next task.
"""

import contextlib
import logging
import os
import random
import threading
import time

import psutil

from fmv import publisher
from tasks.worker import process_end, process_state

logger = logging.getLogger(__name__)

CHILD_GRACE = 1.0  # seconds from SIGTERM to SIGKILL for the child processes of a task
KILL_TIME = 1.0  # seconds within which killed processes must be gone; with CHILD_GRACE less than lease.KILL_GRACE
THREAD_GRACE = 0.2  # seconds for a thread to end that was about to
MAX_TRIES = 1000  # to put the state back, while left-over signals raise exceptions


class Contained:
    """Undoes what a handler, which runs in this context, does to its process; ends the process soon if it cannot."""

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._pid = os.getpid()
        self._state = process_state.read()
        self._descriptors = process_state.SavedDescriptors()
        self._children = {child.pid for child in _children()}
        self._threads = set(threading.enumerate())

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self._pid:  # a child process of the handler, which has returned like the handler itself
            os._exit(1)
        try:
            self._clean_up()
        except Exception as error:
            self._end_soon(f"what nobody knows: {error!r}")

    def _end_soon(self, what: str) -> None:
        logger.warning("Task %s has left behind %s; its process ends", self._task_id, what)
        process_end.end_soon(f"task {self._task_id} has left behind {what}")

    def _clean_up(self) -> None:
        changed: set[str] = set()
        stay: set[str] = set()
        for number in range(MAX_TRIES):
            with contextlib.suppress(BaseException):  # the handler's signal handlers raise until they are put back
                stay = process_state.put_back(self._state, changed)
                if number or not stay:
                    break
        stay |= self._put_descriptors_back(changed)
        stay |= {f"the child process {name}" for name in _end_children(self._children)}
        stay |= {f"the thread {name}" for name in _threads_that_stay(self._threads)}
        random.seed()  # if the handler has chosen a seed, or has seen the state, nobody can tell the next numbers
        if changed:
            logger.info("Task %s changed in its process, now put back: %s", self._task_id, ", ".join(sorted(changed)))
        if process_state.too_many_open_files():
            stay.add("too many open files")
        if stay:
            self._end_soon(", ".join(sorted(stay)))

    def _put_descriptors_back(self, changed: set[str]) -> set[str]:
        try:
            if self._descriptors.put_back():
                changed.add("file descriptors")
        except (process_state.CannotRestore, OSError):
            return {"closed or replaced file descriptors"}
        finally:
            self._descriptors.close()
        return set()


def _children() -> list[psutil.Process]:
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return psutil.Process().children()
    return []


def _end_children(kept: set[int]) -> set[str]:
    """End the child processes, except those kept, and all of theirs; return the names of those that were running."""
    found = [child for child in _children() if child.pid not in kept]
    _, running = psutil.wait_procs(found, timeout=0)
    if not running:
        return set()
    names = set()
    for child in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            names.add(f"{child.name()} ({child.pid})")
            child.terminate()
    psutil.wait_procs(running, timeout=CHILD_GRACE)
    for _ in range(int(KILL_TIME / 0.05)):  # the children of a killed child become ours, to be killed next
        found = [child for child in _children() if child.pid not in kept]
        if not found:
            break
        for child in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(found, timeout=0.05)
    return names


def _threads_that_stay(before: set[threading.Thread]) -> list[str]:
    """Return the names of new threads, except FMV's own.

    Those of PyMongo's clients watch the servers; the publisher's starts when a handler is the first to submit a task.
    """
    found = set(threading.enumerate()) - before
    new = [thread for thread in found if thread.name != publisher.THREAD and not thread.name.startswith("pymongo_")]
    end = time.monotonic() + THREAD_GRACE
    for thread in new:
        thread.join(max(0, end - time.monotonic()))
    return [thread.name for thread in new if thread.is_alive()]
