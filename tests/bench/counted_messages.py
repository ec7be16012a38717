"""A Django app for the processes of FMV (`FMV_APPS`), which counts the messages that wake workers up.

Each adds a byte to the file that FMV_TEST_MESSAGES names. Messages of beat for the maintenance worker do not count.
"""

import os
from typing import Any

from celery.signals import after_task_publish


@after_task_publish.connect
def count(routing_key: str, **_: Any) -> None:
    if routing_key == "work":
        file = os.open(os.environ["FMV_TEST_MESSAGES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, b".")
        os.close(file)
