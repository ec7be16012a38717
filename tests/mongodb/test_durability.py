"""What FMV has acknowledged outlives a MongoDB server that is killed."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from django.db import connection
from pymongo import MongoClient

from fmv.devstack import embedded_mongodb, stack
from tests.conftest import wait_until

#: prints the id of each task that it has submitted, until the server is gone
SUBMITS = """
import django
django.setup()
from robots.models import Robot
from tasks.queue import services
robot = Robot.objects.create(name="R2", location="Tatooine", description="beep", enabled=False)
run = {"robot": robot.name, "handler": "noop", "queue_anyway": True}
while True:
    print(services.submit(run, by="test").pk, flush=True)
"""


def accepted_until_the_server_is_killed(server: str, output: Path) -> list[str]:
    """Submit tasks to it and kill it in the midst of that; return the ids of those that were accepted."""
    with output.open("wb") as out:
        client = subprocess.Popen(
            [sys.executable, "-c", SUBMITS],
            env=os.environ | {"MONGODB_URI": f"{server}fmv", "PYTHONPATH": str(stack.ROOT)},
            cwd=output.parent,
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: len(output.read_text().splitlines()) > 50)
            with MongoClient[dict[str, Any]](server) as mongodb:
                os.kill(mongodb.admin.command("serverStatus")["pid"], signal.SIGKILL)
            client.wait(timeout=30)
        finally:
            client.kill()
            client.wait()
    return [line for line in output.read_text().splitlines() if len(line) == 36]


def test_an_accepted_task_survives_the_death_of_the_database(tmp_path):
    with embedded_mongodb.embedded_mongodb(tmp_path / "mongodb") as server:
        accepted = accepted_until_the_server_is_killed(server, tmp_path / "ids")
    with (
        embedded_mongodb.embedded_mongodb(tmp_path / "mongodb") as server,
        MongoClient[dict[str, Any]](server) as mongodb,
    ):
        stored = {task["_id"] for task in mongodb.fmv.tasks_task.find({}, {"_id": 1})}
    assert len(accepted) > 50
    assert [id for id in accepted if uuid.UUID(id).hex not in stored] == []


def test_every_write_waits_for_the_journal(db):
    assert connection.connection.write_concern.document == {"w": "majority", "j": True}
