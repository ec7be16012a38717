"""The admin as somebody's browser meets it."""

from typing import Any

from django.contrib.admin.utils import quote
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from fmv.accounts.permissions import Role
from tests.support.factories import make_user

ROBOTS, TASKS, USERS = "/admin/robots/robot/", "/admin/tasks/task/", "/admin/fmv/user/"


def admin(role: str = Role.MANAGER, *, enforce_csrf_checks: bool = False, **fields: Any) -> Client:
    """Return a client signed in as a new user; a fault of the server is an answer like any other."""
    client = Client(raise_request_exception=False, enforce_csrf_checks=enforce_csrf_checks)
    client.force_login(make_user(role, password=None, **fields))
    return client


def robot_url(name: str, page: str = "change") -> str:
    return reverse(f"admin:robots_robot_{page}", args=[quote(name)])


def task_url(task: Any, page: str = "change") -> str:
    return reverse(f"admin:tasks_task_{page}", args=[task.pk])


def text(answer: HttpResponse) -> str:
    """Return the page, which must be one."""
    assert answer.status_code == 200, f"{answer.status_code} {answer.headers.get('Location', '')}"
    return answer.content.decode()


def messages(answer: Any) -> list[str]:
    """Return what the page that the answer leads to says happened: `messages(client.post(…, follow=True))`."""
    return [str(message) for message in answer.context["messages"]]
