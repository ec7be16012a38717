"""A Django app for the processes of FMV (`FMV_APPS`), which watches the messages that wake workers up.

Each adds a byte to the file that FMV_TEST_MESSAGES names. The steps of its way leave marks in the file that
FMV_TEST_STEPS names: when its sender begins to send it, when a worker gets it, when a pool process gets it. Messages of
beat for the maintenance worker do neither.
"""

import os
from typing import Any

from celery.signals import after_task_publish, before_task_publish, task_prerun, task_received

from tests.support.event_marks import mark

WAKE_UP = "tasks.run_next"


@after_task_publish.connect
def count(sender: str, **_: Any) -> None:
    if sender == WAKE_UP and (path := os.environ.get("FMV_TEST_MESSAGES")):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, b".")
        os.close(file)


def step(name: str, task: str) -> None:
    if task == WAKE_UP and (path := os.environ.get("FMV_TEST_STEPS")):
        mark(path, name)


@before_task_publish.connect
def sent(sender: str, **_: Any) -> None:
    step("sent", sender)


@task_received.connect
def received(request: Any, **_: Any) -> None:
    step("received", request.name)


@task_prerun.connect
def handed_over(task: Any, **_: Any) -> None:
    step("handed-over", task.name)
