"""The message "this robot has work". A lost one delays, a doubled one does nothing: MongoDB holds the queue."""

import logging

from kombu.exceptions import OperationalError
from pymongo.errors import PyMongoError

from fmv.celery import app
from tasks.models import DEFAULT_PRIORITY

logger = logging.getLogger(__name__)

RUN_NEXT = "tasks.run_next"


def ring(robot: str, priority: int = DEFAULT_PRIORITY) -> bool:
    """Tell the workers; False when the broker does not take the message (the sweeper rings again)."""
    try:
        app.send_task(RUN_NEXT, (robot,), queue="work", priority=priority, ignore_result=True)
    except (OperationalError, OSError, PyMongoError) as error:
        logger.warning("The broker did not take the doorbell of robot %r: %s", robot, error)
        return False
    return True
