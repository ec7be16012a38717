"""Renders tasks from their documents. The result equals that of the serializers, at a fraction of their cost.

A page of a list has a hundred tasks of some thirty fields. Serializers process each field by itself, which takes longer
than MongoDB's query; here each task is one dict. Tests compare both results.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fmv.http.fields import rfc3339
from fmv.mongodb.documents import columns_of
from fmv.mongodb.uuid7 import dashed, time_of
from tasks.models import Task
from tasks.reports.attention.lines import Line
from tasks.reports.attention.sources import Found
from tasks.reports.waiting_reason import Waiting

Document = Mapping[str, Any]


def render(task: Document) -> dict[str, Any]:
    """Return the same as RobotTaskSerializer."""
    progress = task["progress"]
    return {
        "task_id": dashed(task["_id"]),
        "status": task["status"],
        "robot": task["robot"],
        "handler": task["handler"],
        "params": task["params"],
        "priority": task["priority"],
        "labels": task["labels"],
        "progress": None if progress is None else float(progress),
        "message": task["message"],
        "result": task["result"],
        "error": task["error"],
        "attempt": task["attempt"],
        "max_attempts": task["max_attempts"],
        "timeout": float(task["timeout"]),
        "run_at": rfc3339(task["run_at"]),
        "expires_at": rfc3339(task["expires_at"]),
        "created_at": rfc3339(time_of(task["_id"])),
        "started_at": rfc3339(task["started_at"]),
        "finished_at": rfc3339(task["finished_at"]),
        "worker": task["worker"],
        "runs_on": task.get("runs_on") or "worker",  # an earlier FMV's tasks have none
        "requested_by": task["requested_by"],
        "retry_of": dashed(task["retry_of"]),
        "cancel_requested": task["cancel_requested"],
        "out_of_contact_since": rfc3339(task.get("out_of_contact_since")),
        "history": [line | {"at": rfc3339(line["at"])} for line in task["history"]],
    }


def render_object(task: Task) -> dict[str, Any]:
    return render(columns_of(task))


def render_new(task: Task) -> dict[str, Any]:
    """Return the same as SubmittedTaskSerializer."""
    return render_object(task) | {"status": "CREATED"}


def render_line(line: Document) -> dict[str, Any]:
    """Return the same as LogLineSerializer."""
    return {"at": rfc3339(time_of(line["_id"])), "attempt": line["attempt"], "text": line["text"]}


def render_waiting(task: Task, waiting: Waiting | None) -> dict[str, Any]:
    """Return the same as TaskWaitingSerializer."""
    why = waiting and {
        "reason": waiting.reason,
        "sentence": waiting.sentence,
        "since": rfc3339(waiting.since),
        "until": rfc3339(waiting.until),
        "blocked_by": dashed(waiting.task),
        "first_task": dashed(waiting.first.pk) if waiting.first else None,
        "remedy": waiting.remedy.do if waiting.remedy else None,
    }
    return {"task_id": str(task.pk), "status": task.status, "waiting": why}


def render_attention(found: Iterable[Found]) -> dict[str, Any]:
    """Return the same as AttentionSerializer."""
    shown = list(found)
    lines = [{"kind": each.source.kind} | _attention_line(line) for each in shown for line in each.lines]
    return {"lines": lines, "more": {each.source.kind: each.more for each in shown if each.more}}


def _attention_line(line: Line) -> dict[str, Any]:
    return {
        "severity": "error" if line.is_error else "warning",
        "robot": line.robot or None,
        "task_id": dashed(line.task),
        "handler": line.handler or None,
        "worker": line.worker or None,
        "reason": line.reason,
        "since": rfc3339(line.since),
        "remedy": line.remedy.do if line.remedy else None,
    }
