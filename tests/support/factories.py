"""Plain functions that store what a test starts from: `make_robot(lanes=2)`, `make_task(status="STARTED")`."""

import datetime as dt
import secrets
import uuid
from itertools import count
from typing import Any

from django.conf import settings
from django.contrib import auth
from django.utils import timezone
from django.utils.crypto import get_random_string

from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken, User
from fmv.accounts.permissions import Role
from fmv.accounts.sessions import Session, SessionStore
from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import id_at
from robots.models import Robot
from tasks.models import Task, WorkerProcess

PASSWORD = "open sesame, robots"

_numbers = count(1)


def make_robot(**fields: Any) -> Robot:
    fields = {"name": f"Robot {next(_numbers)}", "location": "Lab", "description": "Made for a test"} | fields
    return Robot.objects.create(**fields)


def make_task(**fields: Any) -> Task:
    """Store a task of the robot named or given, or of a new one. It is stored as it is, and no doorbell rings."""
    robot = fields.pop("robot", None) or make_robot()
    name = robot if isinstance(robot, str) else robot.name
    fields = {"handler": "wait", "params": {"seconds": 0}, "timeout": 30.0, "requested_by": "test"} | fields
    return Task.objects.create(robot=name, **fields)


def make_finished(
    at: dt.datetime, status: str = "SUCCESS", *, waited: float = 5, took: float = 60, **fields: Any
) -> Task:
    """Store a task that finished then, with the history of one attempt: `waited` seconds in the queue, then `took`."""
    started = at - dt.timedelta(seconds=took)
    queued = started - dt.timedelta(seconds=waited)
    steps = [(queued, "QUEUED", 0), (started, "STARTED", 1), (at, str(status), 1)]
    history = [{"at": moment, "status": name, "attempt": attempt, "note": ""} for moment, name, attempt in steps]
    fields = {"robot": "R2", "attempt": 1, "history": history, "started_at": started} | fields
    return make_task(
        **{"id": uuid.UUID(int=id_at(queued).int | secrets.randbits(60))} | fields, status=status, finished_at=at
    )


def make_user(role: str = Role.VIEWER, **fields: Any) -> User:
    """Store a user whose password is PASSWORD unless `password` says another."""
    fields = {"username": f"user-{next(_numbers)}", "password": PASSWORD} | fields
    return User.objects.create_user(role=role, **fields)


def make_session(user: User) -> str:
    """Store a session of the user and return its key. Django's own `force_login` takes several round trips."""
    values = {
        auth.SESSION_KEY: str(user.pk),
        auth.BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[0],
        auth.HASH_SESSION_KEY: user.get_session_auth_hash(),
    }
    key, expires = get_random_string(32, "abcdefghijklmnopqrstuvwxyz0123456789"), timezone.now() + dt.timedelta(days=14)
    Session.objects.create(session_key=key, session_data=SessionStore().encode(values), expire_date=expires)
    return key


def make_token(user: str | User = Role.VIEWER, **options: Any) -> ApiToken:
    """Store an API token, with its secret as `.text`, of the user or of a new one with that role, or of a `robot`."""
    if robot := options.pop("robot", None):
        token = api_tokens.build_for_robot(str(robot), **options)
        api_tokens.store(token, by="test")
        return token
    user = user if isinstance(user, User) else make_user(user, password=None)
    token = api_tokens.build(user, **{"name": f"Token {next(_numbers)}"} | options)
    api_tokens.store(token, by="test")
    return token


def make_process(name: str, *, ago: float = 0, **fields: Any) -> WorkerProcess:
    """Store a worker process that was last seen `ago` seconds ago."""
    seen = server_now() - dt.timedelta(seconds=ago)
    fields = {"node": "work@host", "queues": ["work"], "started_at": seen, "seen_at": seen} | fields
    return WorkerProcess.objects.create(name=name, **fields)
