"""Calls that may hang: looking up a host name has no timeout, and a socket's timeout starts anew with each byte.

This is outside the rooms because accounts and monitoring use it.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def call_in_thread(function: Callable[[], T], name: str) -> "Future[T]":
    """Call the function in a daemon thread of that name and return its future.

    `result(seconds)` raises TimeoutError at the deadline. The thread is then left behind and ends when it can.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
