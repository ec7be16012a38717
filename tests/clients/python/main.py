"""What a program does with the generated client: `python main.py BASE_URL TOKEN`."""

import datetime as dt
import sys
import time

from fmv_client import AuthenticatedClient
from fmv_client.api.robots import change_robot_name_patch as change_robot
from fmv_client.api.robots import create_robot_post, find_robot_name_get
from fmv_client.api.tasks import cancel_task_task_id_cancel_post as cancel_task
from fmv_client.api.tasks import find_task_task_id_get as find_task
from fmv_client.api.tasks import list_task_get as list_tasks
from fmv_client.api.tasks import run_robot_name_run_post as run_task
from fmv_client.models import (
    HTTPError,
    HTTPValidationError,
    PatchedRobotChangeRequest,
    RobotInputRequest,
    RobotProfile,
    RobotTask,
    RobotTaskCollection,
    Status,
    SubmitRequest,
    SubmitRequestParams,
    SubmittedTask,
)

base_url, token = sys.argv[1:]
client = AuthenticatedClient(base_url=base_url, token=token, raise_on_unexpected_status=True)
name = "Crow T. Python"


def ended(task_id) -> RobotTask:
    while True:
        task = find_task.sync(task_id, client=client)
        assert isinstance(task, RobotTask)
        if task.status in (Status.SUCCESS, Status.FAILURE, Status.REVOKED):
            return task
        time.sleep(0.1)


robot = RobotInputRequest(name=name, location="Satellite of Love", description="You know you want me baby")
created = create_robot_post.sync(client=client, body=robot)
assert isinstance(created, RobotProfile)
assert (created.name, created.lanes, created.tasks) == (name, 1, [])

busy = RobotInputRequest(
    name=f"{name} II",
    location="x",
    description="y",
    enabled=False,
    lanes=4,
    labels=["a"],
    endpoint="http://crow.example",
)
before = create_robot_post.sync(client=client, body=busy)
assert isinstance(before, RobotProfile)
change_robot.sync(busy.name, client=client, body=PatchedRobotChangeRequest(location="Mars"))
moved = find_robot_name_get.sync(busy.name, client=client)
assert isinstance(moved, RobotProfile)
assert moved.to_dict() == before.to_dict() | {"location": "Mars", "updated_at": moved.to_dict()["updated_at"]}

params = SubmitRequestParams.from_dict({"seconds": 0.1})
wait = SubmitRequest(handler="wait", params=params, labels=["client"])
first, again = (run_task.sync(name, client=client, body=wait, idempotency_key="python") for _ in range(2))
assert isinstance(first, SubmittedTask)
assert isinstance(again, SubmittedTask)
assert first.task_id == again.task_id

task = ended(first.task_id)
assert (task.status, task.robot, task.error) == (Status.SUCCESS, name, None)
assert task.created_at.tzinfo

later = run_task.sync(name, client=client, body=SubmitRequest(run_at=dt.datetime(2100, 1, 1, tzinfo=dt.UTC)))
assert isinstance(later, SubmittedTask)
cancelled = cancel_task.sync(later.task_id, client=client)
assert isinstance(cancelled, RobotTask)
assert cancelled.status == Status.REVOKED

over = [Status.SUCCESS, Status.REVOKED]
page = list_tasks.sync(client=client, robot=name, status=over, limit=10)
assert isinstance(page, RobotTaskCollection)
assert [task.task_id for task in page.tasks] == [later.task_id, first.task_id]
assert page.next_ is None

unknown = find_robot_name_get.sync("nobody", client=client)
assert isinstance(unknown, HTTPError)
assert unknown.detail == "Not Found"

taken = create_robot_post.sync_detailed(client=client, body=robot)
assert taken.status_code == 409
assert isinstance(taken.parsed, HTTPValidationError)
assert taken.parsed.detail[0].loc == ["body", "name"]

print("All as expected")
