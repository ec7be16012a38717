"""Errors of the registry."""

from fmv.errors import FmvError, InvalidInput, Problem


class UnknownRobot(FmvError):
    """Not Found"""

    status = 404


class NotPossible(FmvError):
    """Not possible"""

    status = 400


class Changed(FmvError):
    """The robot does not match the request's If-Match or If-None-Match."""

    status = 412


class NameTaken(InvalidInput):
    """A robot with this name exists."""

    status = 409

    def __init__(self, name: str) -> None:
        super().__init__([Problem(("body", "name"), f"A robot named {name!r} exists already", "name_taken")])


class QueueHeld(FmvError):
    """The robot's queue is held by somebody else, or for another reason."""


class SessionReplaced(FmvError):
    """This session is over: another has begun, or none is open. Open a new one."""

    code = "session_replaced"


class DraftOver(FmvError):
    """This file was stored already, or its preview is older than an hour. Choose the file again."""
