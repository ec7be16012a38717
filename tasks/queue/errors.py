"""The errors of the queue's services. The docstring of each is its message."""

from fmv.errors import FmvError, InvalidInput


class UnknownTask(FmvError):
    """Not Found"""

    status = 404


class RobotOutOfService(FmvError):
    """The robot is out of service. With "queue_anyway": true the task waits until it is back."""


class RobotsOutOfService(InvalidInput):
    """Robots of several runs are out of service; the problems name the runs."""

    status = 409


class RobotHasWork(FmvError):
    """The robot has unfinished tasks, or one blocks a lane. Cancel them, let them end, or free the lane first."""


class AlreadyFinished(FmvError):
    """The task is already over."""


class NotFinished(FmvError):
    """The task is not over yet."""


class NotWaiting(FmvError):
    """The task runs or is over: only one that waits can be moved, or get another priority."""


class CannotMove(FmvError):
    """The task cannot run there."""


class NotQueued(FmvError):
    """The task is not queued: only one that is can be put in front of the others."""


class NotOutOfContact(FmvError):
    """Only a running task whose robot is out of contact, and whose cancel was not requested, can be ended."""


class LaneNotBlocked(FmvError):
    """The task keeps no lane: only one that has ended without a word of its robot does."""


class NothingToDo(FmvError):
    """No task that matches could be in a state that allows it."""
