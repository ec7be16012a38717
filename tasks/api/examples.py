"""What the OpenAPI document shows as examples of requests and answers."""

from robots.serializers import EXAMPLE
from robots.state_serializers import SHOWN_EXAMPLE

TASK_EXAMPLE = {
    "task_id": "019ab0f3-7c1e-7a31-9d3c-2f6c1b7e4a10",
    "status": "SUCCESS",
    "robot": "Bender",
    "handler": "primes",
    "params": {"count": 100},
    "priority": 4,
    "labels": [],
    "progress": 100.0,
    "message": "25 primes so far",
    "result": {"up_to": 100, "primes": 25, "largest": 97},
    "error": None,
    "attempt": 1,
    "max_attempts": 3,
    "timeout": 600.0,
    "run_at": None,
    "expires_at": None,
    "created_at": "2026-11-23T08:00:00.000Z",
    "started_at": "2026-11-23T08:00:00.012Z",
    "finished_at": "2026-11-23T08:00:00.020Z",
    "worker": "host/4711-9f2c41aa",
    "runs_on": "worker",
    "requested_by": "anonymous",
    "retry_of": None,
    "cancel_requested": False,
    "out_of_contact_since": None,
    "history": [{"at": "2026-11-23T08:00:00.000Z", "status": "QUEUED", "attempt": 0, "note": "by anonymous"}],
}

NEW_TASK_EXAMPLE = TASK_EXAMPLE | {
    "status": "CREATED",
    "progress": None,
    "message": "",
    "result": None,
    "attempt": 0,
    "started_at": None,
    "finished_at": None,
    "worker": "",
}
STOPPING_EXAMPLE = TASK_EXAMPLE | {
    "status": "STARTED",
    "progress": 40.0,
    "result": None,
    "finished_at": None,
    "cancel_requested": True,
}
PROFILE_EXAMPLE = EXAMPLE | {
    "tasks": [TASK_EXAMPLE],
    "enabled": True,
    "lanes": 1,
    "labels": [],
    "endpoint": None,
    "created_at": "2026-11-23T07:00:00.000Z",
    "updated_at": "2026-11-23T07:00:00.000Z",
    "state": SHOWN_EXAMPLE,
    "hold": None,
}
HANDLER_EXAMPLE = {
    "name": "wait",
    "description": "Do nothing for some seconds, in steps: for trying FMV out.",
    "runs_on": "worker",
    "params": {"type": "object", "properties": {"seconds": {"type": "number"}}, "required": ["seconds"]},
    "result": None,
    "resume": False,
    "timeout": 86400.0,
    "max_attempts": 3,
}
COUNTS_EXAMPLE = {
    "SCHEDULED": 2,
    "QUEUED": 17,
    "STARTED": 3,
    "RETRY": 1,
    "SUCCESS": 120934,
    "FAILURE": 310,
    "REVOKED": 25,
}
STATS_EXAMPLE = {
    "tasks": COUNTS_EXAMPLE,
    "handlers": {"primes": COUNTS_EXAMPLE},
    "queue_age": 4.2,
    "last_hour": {"SUCCESS": 410, "FAILURE": 2, "REVOKED": 0},
    "robots": {
        "in_service": 40,
        "out_of_service": 2,
        "busy": 3,
        "online": 31,
        "offline": 2,
        "low_battery": 1,
        "with_errors": 2,
    },
    "behind": 0.0,
}
WAITING_EXAMPLE = {
    "task_id": "019ab0f3-7c1e-7a31-9d3c-2f6c1b7e4a10",
    "status": "QUEUED",
    "waiting": {
        "reason": "workers_busy",
        "sentence": "Both workers are busy, with wait for Marvin and primes for Wall-E, since 2026-11-23 08:00:00 UTC.",
        "since": "2026-11-23T08:00:00.000Z",
        "until": None,
        "blocked_by": "019ab0f2-1a2b-7c3d-8e4f-5a6b7c8d9e0f",
        "first_task": None,
        "remedy": "show_workers",
    },
}
ATTENTION_EXAMPLE = {
    "lines": [
        {
            "kind": "offline",
            "severity": "warning",
            "robot": "Wall-E",
            "task_id": None,
            "handler": None,
            "worker": None,
            "reason": "Its agent is offline, because nothing is heard from it",
            "since": "2026-11-23T08:00:00.000Z",
            "remedy": "show_robot",
        },
        {
            "kind": "stuck",
            "severity": "error",
            "robot": "Bender",
            "task_id": "019ab0f3-7c1e-7a31-9d3c-2f6c1b7e4a10",
            "handler": "primes",
            "worker": None,
            "reason": "Its worker has not renewed its lease",
            "since": "2026-11-23T08:00:00.000Z",
            "remedy": "show_task",
        },
    ],
    "more": {},
}
LOG_LINE_EXAMPLE = {"at": "2026-11-23T08:00:00.015Z", "attempt": 1, "text": "GET http://robot.example/: 200"}
FIGURES_EXAMPLE = {
    "succeeded": 980,
    "failed": 20,
    "cancelled": 3,
    "success_rate": 98.0,
    "per_hour": 6.4,
    "wait_p50": 1.7,
    "wait_p95": 14.9,
    "run_p50": 21.2,
    "run_p95": 62.5,
}
COMPARISON_EXAMPLE = {
    "now": {"begin": "2026-11-17T00:00:00.000Z", "end": "2026-11-23T08:00:00.000Z"},
    "before": {"begin": "2026-11-10T00:00:00.000Z", "end": "2026-11-16T08:00:00.000Z"},
    "total": {"name": "", "now": FIGURES_EXAMPLE, "before": FIGURES_EXAMPLE},
    "groups": [{"name": "primes", "now": FIGURES_EXAMPLE, "before": FIGURES_EXAMPLE}],
    "complete": True,
}
TIMELINE_EXAMPLE = {
    "begin": "2026-11-23T08:00:00.000Z",
    "end": "2026-11-23T09:00:00.000Z",
    "complete": True,
    "attempts": [
        {
            "task_id": "019ab0f3-7c1e-7a31-9d3c-2f6c1b7e4a10",
            "handler": "primes",
            "attempt": 1,
            "begin": "2026-11-23T08:00:02.000Z",
            "end": "2026-11-23T08:00:03.000Z",
            "outcome": "SUCCESS",
        }
    ],
    "waits": [
        {
            "task_id": "019ab0f3-7c1e-7a31-9d3c-2f6c1b7e4a10",
            "handler": "primes",
            "begin": "2026-11-23T08:00:00.000Z",
            "end": "2026-11-23T08:00:02.000Z",
        }
    ],
    "absences": [{"kind": "offline", "begin": "2026-11-23T08:30:00.000Z", "end": None}],
    "marks": [{"at": "2026-11-23T08:40:00.000Z", "text": "disable in service: yes → no", "by": "fry", "task_id": None}],
}
