"""What the API answers is made by plain functions; here they are held to the serializers that describe it."""

import datetime as dt
import json

import orjson
import pytest
from rest_framework.serializers import Serializer

from fmv.mongodb.documents import columns_of, find_document
from robots import rendering as robots
from robots.models import Robot
from robots.serializers import RobotSerializer
from tasks.api.rendering import render, render_line, render_new, render_object
from tasks.api.serializers import (
    LogLineSerializer,
    RobotProfileSerializer,
    RobotTaskSerializer,
    SubmittedTaskSerializer,
)
from tasks.models import LogLine, Status, Task
from tests.support.factories import make_robot, make_task
from tests.support.probes import make_task_in

pytestmark = pytest.mark.django_db

MOMENT = dt.datetime(2026, 11, 23, 12, 0, 0, 7000, tzinfo=dt.UTC)
ODD = {
    "params": {"a": [1, {"b": None}], "é": "ü", "big": 2**40},
    "labels": ["night", "R2 D2"],
    "result": [1.5, None, {"x": True}],
    "progress": 100,
    "timeout": 30,
    "run_at": MOMENT,
    "expires_at": MOMENT,
    "started_at": MOMENT,
    "finished_at": MOMENT.replace(microsecond=0),
    "cancel_requested": True,
    "error": {"type": "ValueError", "message": "no", "traceback": "Traceback …"},
}


def document_of(row):
    return find_document(type(row), row.pk)


def as_json(value) -> str:
    """The JSON text: equal texts have their keys in the same order."""
    return json.dumps(json.loads(orjson.dumps(value)))


def by_serializer(serializer_class, row) -> str:
    return as_json(Serializer.to_representation(serializer_class(), row))


@pytest.mark.parametrize("status", Status)
def test_a_task_is_what_its_serializer_says(status):
    task = make_task_in(status)
    stored = Task.objects.get(pk=task.pk)
    assert as_json(render(document_of(task))) == by_serializer(RobotTaskSerializer, stored)
    assert as_json(render_object(stored)) == by_serializer(RobotTaskSerializer, stored)


def test_so_is_a_task_of_odd_values_before_it_is_stored_and_after():
    task = make_task(**ODD, retry_of=make_task().pk)
    assert as_json(render_object(task)) == by_serializer(RobotTaskSerializer, task)
    assert as_json(render(document_of(task))) == by_serializer(RobotTaskSerializer, Task.objects.get(pk=task.pk))


def test_a_new_task_is_created():
    task = make_task()
    assert as_json(render_new(task)) == as_json(SubmittedTaskSerializer(task).data)


def test_a_robot_in_a_list_and_by_itself_is_what_its_serializers_say():
    robot = make_robot(labels=["lab"], endpoint="http://127.0.0.1:1/", lanes=3)
    tasks = [make_task(robot=robot) for _ in range(2)]
    stored = Robot.objects.get(pk=robot.pk)
    summary = robots.summary_with_state(document_of(robot) | {"state": None, "alarms": []})
    assert as_json(summary) == by_serializer(RobotSerializer, stored)
    assert robots.summary(document_of(robot)) | {"state": None} == summary
    latest = [render(document_of(task)) for task in reversed(tasks)]
    stored.tasks = list(Task.objects.of_robot(robot.name).newest_first())
    assert as_json(robots.profile(document_of(robot), latest, None)) == by_serializer(RobotProfileSerializer, stored)
    assert len(tasks) == len(latest)


def test_a_log_line_is_what_its_serializer_says():
    line = LogLine.objects.create(task=make_task().pk, attempt=1, text="hello")
    assert as_json(render_line(document_of(line))) == by_serializer(LogLineSerializer, line)


def test_an_object_s_columns_are_its_document():
    task = make_task(**ODD)
    stored = document_of(task)
    assert columns_of(task).keys() == stored.keys()
