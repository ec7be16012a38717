"""The state of a process that a handler can change and that can be read and put back, part by part."""

import _signal  # type: ignore[import-not-found]
import contextlib
import fcntl
import gc
import locale
import logging
import multiprocessing
import os
import resource
import signal
import socket
import ssl
import stat
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SIGNALS = [
    int(number) for number in signal.valid_signals()
]  # for _signal: the enums of `signal` cost half a millisecond
#: what may wait behind a mask for a reason that is not the handler's; other signals are dropped with the mask
NOT_OF_THE_HANDLER = {signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD}
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
LIMITS = [number for name, number in vars(resource).items() if name.startswith("RLIMIT_")]
#: a process that has more than this part of its permitted files open cannot be trusted to open more
MAX_OPEN_FILES = 0.5
SAVED_FROM = 100  # the lowest number of a copy of a standard file descriptor


class CannotRestore(Exception):
    """Nothing can put this part back."""


@dataclass(frozen=True)
class Part:
    """`read` returns the present value; `write` puts an earlier one back, and raises any exception if it cannot."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


# --- Signals ---------------------------------------------------------------------------------------------------------


def _armed_timers() -> tuple[bool, ...]:
    return tuple(any(signal.getitimer(timer)) for timer in TIMERS)


def _disarm(armed: tuple[bool, ...]) -> None:
    for timer, was_armed in zip(TIMERS, armed, strict=True):
        if not was_armed:
            signal.setitimer(timer, 0)


def _signal_handlers() -> dict[int, Any]:
    return {number: _signal.getsignal(number) for number in SIGNALS}


def _set_signal_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if _signal.getsignal(number) != handler:
            _signal.signal(number, handler)


def _signal_mask() -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def _set_signal_mask(mask: set[int]) -> None:
    for number in signal.sigpending() - mask - NOT_OF_THE_HANDLER:
        signal.sigtimedwait({number}, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _wakeup_fd() -> int:
    number = signal.set_wakeup_fd(-1)
    with contextlib.suppress(ValueError, OSError):  # closed
        signal.set_wakeup_fd(number)
    return number


# --- Files -----------------------------------------------------------------------------------------------------------


def _stream_works(stream: Any) -> bool:
    try:
        return not stream.closed
    except (AttributeError, ValueError):  # none, detached
        return False


def _streams() -> tuple[tuple[Any, bool], ...]:
    return tuple((stream, _stream_works(stream)) for stream in (sys.stdin, sys.stdout, sys.stderr))


def _set_streams(streams: tuple[tuple[Any, bool], ...]) -> None:
    for number, (name, (stream, worked)) in enumerate(zip(("stdin", "stdout", "stderr"), streams, strict=True)):
        new = stream
        if worked and not _stream_works(stream):
            mode = "r" if name == "stdin" else "w"
            new = open(number, mode, buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, name, new)


def _identity(number: int) -> tuple[int, int] | None:
    """Return which file a descriptor is open on, None when it is closed."""
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino


_pipes: dict[int, tuple[int, int] | None] = {}


def remember_pipes() -> None:
    """Take the pipes that are open now for those to the worker's main process, which nobody may close."""
    for number in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):  # that of the listing itself
            if number > 2 and stat.S_ISFIFO(os.fstat(number).st_mode):
                _pipes[number] = _identity(number)


class SavedDescriptors:
    """Copies of standard input, output and error."""

    def __init__(self) -> None:
        self._standard: dict[int, tuple[int, tuple[int, int] | None, int]] = {}
        for number in range(3):
            if identity := _identity(number):
                copy = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, SAVED_FROM)
                self._standard[number] = copy, identity, fcntl.fcntl(number, fcntl.F_GETFL)

    def put_back(self) -> bool:
        """Return whether something had to be put back. Raises CannotRestore if a copy or a pipe was closed."""
        changed = False
        for number, (copy, identity, flags) in self._standard.items():
            if _identity(copy) != identity:
                raise CannotRestore
            if _identity(number) != identity:
                os.dup2(copy, number)
                changed = True
            if fcntl.fcntl(number, fcntl.F_GETFL) != flags:
                fcntl.fcntl(number, fcntl.F_SETFL, flags)
                changed = True
        if any(_identity(number) != identity for number, identity in _pipes.items()):
            raise CannotRestore
        return changed

    def close(self) -> None:
        for copy, identity, _ in self._standard.values():
            if _identity(copy) == identity:
                os.close(copy)


def too_many_open_files() -> bool:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit != resource.RLIM_INFINITY and len(os.listdir("/dev/fd")) > MAX_OPEN_FILES * limit


# --- The process, as the kernel sees it ------------------------------------------------------------------------------


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _set_environment(values: dict[str, str]) -> None:
    changed = os.environ.items() ^ values.items()
    for name in os.environ.keys() - values.keys():
        del os.environ[name]
    for name, value in values.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    names = {name for name, _ in changed}
    if "TZ" in names:
        time.tzset()
    if names & {"TMPDIR", "TEMP", "TMP"}:
        tempfile.tempdir = None


def _set_limits(limits: dict[int, tuple[int, int]]) -> None:
    for number, limit in limits.items():
        if resource.getrlimit(number) != limit:
            resource.setrlimit(number, limit)


def _owner() -> tuple[Any, ...]:
    root = os.stat("/")
    return os.getresuid(), os.getresgid(), os.getgroups(), os.getpgrp(), os.getsid(0), root.st_dev, root.st_ino


def _give_up(_: object) -> None:
    raise CannotRestore


# --- Python ----------------------------------------------------------------------------------------------------------

#: (module, attribute): replaced for good by `module.attribute = …`, or by the call of a library
ATTRIBUTES = (
    (sys, "excepthook"), (sys, "unraisablehook"), (sys, "displayhook"), (threading, "excepthook"),
    (socket, "socket"), (socket, "create_connection"), (socket, "getaddrinfo"),
    (ssl, "_create_default_https_context"), (urllib.request, "_opener"),
    (warnings, "showwarning"), (warnings, "_showwarnmsg_impl"),
)  # fmt: skip


def _attributes() -> tuple[Any, ...]:
    return tuple(getattr(module, name) for module, name in ATTRIBUTES)


def _set_attributes(values: tuple[Any, ...]) -> None:
    for (module, name), value in zip(ATTRIBUTES, values, strict=True):
        setattr(module, name, value)


def _set_import_path(path: list[str]) -> None:
    sys.path[:] = path


def _builtins() -> dict[str, Any]:
    return dict(vars(sys.modules["builtins"]))


def _set_builtins(values: dict[str, Any]) -> None:
    now = vars(sys.modules["builtins"])
    for name in now.keys() - values.keys():
        del now[name]
    now.update(values)


def _set_filters(filters: list[Any]) -> None:
    warnings.resetwarnings()
    warnings.filters[:] = filters  # type: ignore[index]


def _garbage_collection() -> tuple[Any, ...]:
    return gc.isenabled(), gc.get_threshold(), gc.get_debug()


def _set_garbage_collection(values: tuple[Any, ...]) -> None:
    enabled, threshold, debug = values
    (gc.enable if enabled else gc.disable)()
    gc.set_threshold(*threshold)
    gc.set_debug(debug)


DEFAULT: tuple[Any, ...] = (logging.NOTSET, [], [], True, False)


def _logger_state(logger: logging.Logger) -> tuple[Any, ...]:
    return logger.level, list(logger.handlers), list(logger.filters), logger.propagate, logger.disabled


def _loggers() -> list[logging.Logger]:
    root = logging.getLogger()
    return [root, *(logger for logger in [*root.manager.loggerDict.values()] if isinstance(logger, logging.Logger))]


def _logging() -> tuple[Any, ...]:
    """Return the configuration of all loggers, except those that nobody has configured, and of the root's handlers."""
    states = {logger: state for logger in _loggers() if (state := _logger_state(logger)) != DEFAULT}
    handlers = [(each, each.level, each.formatter, list(each.filters)) for each in logging.getLogger().handlers]
    return states, handlers, logging.root.manager.disable, logging.raiseExceptions


def _set_logging(values: tuple[Any, ...]) -> None:
    states, handlers, disabled, logging.raiseExceptions = values
    for logger in _loggers():
        state = states.get(logger, DEFAULT)
        if _logger_state(logger) != state:
            level, own, filters, logger.propagate, logger.disabled = state
            logger.handlers, logger.filters = list(own), list(filters)
            logger.setLevel(level)
    for handler, level, formatter, filters in handlers:
        handler.setLevel(level)
        handler.setFormatter(formatter)
        handler.filters = list(filters)
    logging.disable(disabled)


#: In this order: signals first, because those of a handler may end the restoring itself.
PARTS = (
    Part("a timer", _armed_timers, _disarm),
    Part("signal handlers", _signal_handlers, _set_signal_handlers),
    Part("the signal mask", _signal_mask, _set_signal_mask),
    Part("the wake-up file of signals", _wakeup_fd, signal.set_wakeup_fd),
    Part("a trace function", sys.gettrace, sys.settrace),
    Part("a profile function", sys.getprofile, sys.setprofile),
    Part("a trace function of threads", threading.gettrace, threading.settrace),
    Part("a profile function of threads", threading.getprofile, threading.setprofile),
    Part("builtins", _builtins, _set_builtins),
    Part("standard streams", _streams, _set_streams),
    Part("logging", _logging, _set_logging),
    Part("environment variables", lambda: dict(os.environ), _set_environment),
    Part("the working directory", os.getcwd, os.chdir),
    Part("the umask", _umask, os.umask),
    Part("resource limits", lambda: {number: resource.getrlimit(number) for number in LIMITS}, _set_limits),
    Part("the priority", lambda: os.getpriority(os.PRIO_PROCESS, 0), lambda n: os.setpriority(os.PRIO_PROCESS, 0, n)),
    Part("the CPU affinity", lambda: os.sched_getaffinity(0), lambda cpus: os.sched_setaffinity(0, cpus)),
    Part("the user, group, session or root directory", _owner, _give_up),
    Part("the locale", lambda: locale.setlocale(locale.LC_ALL), lambda name: locale.setlocale(locale.LC_ALL, name)),
    Part("the import path", lambda: list(sys.path), _set_import_path),
    Part("functions of the standard library", _attributes, _set_attributes),
    Part("warning filters", lambda: list(warnings.filters), _set_filters),
    Part("garbage collection", _garbage_collection, _set_garbage_collection),
    Part("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Part("the switch interval", sys.getswitchinterval, sys.setswitchinterval),
    Part("the limit of digits", sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    Part("the default timeout of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout),
    Part(
        "the start method of multiprocessing",
        lambda: multiprocessing.get_start_method(allow_none=True),
        lambda method: multiprocessing.set_start_method(method, force=True),
    ),
)


def read() -> list[tuple[Part, Any]]:
    """Return all parts with their present values; those that cannot be read are left out."""
    values = []
    for part in PARTS:
        with contextlib.suppress(AttributeError, OSError):  # not on this system; a working directory that was deleted
            values.append((part, part.read()))
    return values


def put_back(values: list[tuple[Part, Any]], changed: set[str]) -> set[str]:
    """Put all parts back. Adds the names of those that had changed to `changed`; returns those that stay changed."""
    stay = set()
    for part, value in values:
        try:
            if part.read() != value:
                changed.add(part.name)
                part.write(value)
        except Exception:
            stay.add(part.name)
    return stay
