"""What is stored of an exception that a handler raised. To report an error may not itself fail."""

import traceback
from collections.abc import Callable

from tasks.models.error_document import error_document

MAX_PART = 4000  # characters of a traceback's frame or message: a huge message must not push the frames out


def report_of(error: BaseException) -> dict[str, str]:
    """Return the document of the exception, in place of what it cannot show a note that says so.

    This runs the exception's own code (`__str__`, `__notes__`, …), which may raise anything or never return: call it
    while an interrupt can end the attempt.
    """
    return error_document(
        _shown(lambda: type(error).__name__, "(its type has no name)"),
        _shown(lambda: str(error), "(its message cannot be shown)"),
        _shown(lambda: _traceback_of(error), "")
        or _shown(lambda: _frames_of(error), "(its traceback cannot be shown)"),
    )


def _shown(show: Callable[[], str], otherwise: str) -> str:
    try:
        return str.__str__(show())  # also of a subclass of str, whose methods may be its own
    except BaseException:
        return otherwise


def _traceback_of(error: BaseException) -> str:
    parts = traceback.TracebackException(type(error), error, error.__traceback__, compact=True).format()
    return "".join(part if len(part) <= MAX_PART else f"{part[:MAX_PART]}…\n" for part in parts)


def _frames_of(error: BaseException) -> str:
    return "".join(traceback.format_tb(error.__traceback__))
