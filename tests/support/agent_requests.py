"""An agent as FMV meets it: requests with the token of a robot."""

import uuid
from typing import Any

from django.http import HttpResponse

from robots.models import Robot
from tasks.models import Task
from tasks.queue import services
from tests.support.api import Api
from tests.support.factories import make_token

#: all robots' handlers that tests have
SKILLS = ("drive", "turn", "grip", "pour", "patrol", "carry")


class Agent:
    """The agent of a robot: `agent.sign_in()`, `agent.claim()`, `agent.renew(progress=5)`, `agent.finish("failed")`.

    Each returns the answer. What it claimed last is in `task_id` and `attempt`.
    """

    def __init__(self, robot: Robot | str, *, boot_id: str = "boot 1", handlers: tuple[str, ...] = SKILLS) -> None:
        self.robot = robot if isinstance(robot, str) else robot.name
        self.api = Api(make_token(robot=self.robot))
        self.boot_id, self.handlers = boot_id, list(handlers)
        self.session = ""
        self.task_id, self.attempt = "", 0

    @classmethod
    def signed_in(cls, robot: Robot | str, **options: Any) -> "Agent":
        agent = cls(robot, **options)
        assert agent.sign_in().status_code == 200
        return agent

    def sign_in(self, **more: Any) -> HttpResponse:
        body = {"agent": "test", "version": "1", "boot_id": self.boot_id, "handlers": self.handlers}
        answer = self.api("POST", "/agent/session", body | more)
        if answer.status_code == 200:
            self.session = answer.json()["session"]
        return answer

    def restarted(self) -> HttpResponse:
        """Sign in as after a restart."""
        self.boot_id = str(uuid.uuid4())
        return self.sign_in()

    def claim(self, claim_id: Any = None, wait: float = 0) -> HttpResponse:
        body = {"session": self.session, "claim_id": str(claim_id or uuid.uuid4()), "wait": wait}
        answer = self.api("POST", "/agent/claim", body)
        if answer.status_code == 200:
            self.task_id, self.attempt = answer.json()["task"]["task_id"], answer.json()["attempt"]
        return answer

    def take(self) -> "Agent":
        """Claim a task and confirm it."""
        assert self.claim().status_code == 200
        assert self.renew().status_code == 200
        return self

    def call(self, verb: str, **body: Any) -> HttpResponse:
        mine = {"session": self.session, "attempt": self.attempt}
        return self.api("POST", f"/agent/task/{self.task_id}/{verb}", mine | body)

    def renew(self, **report: Any) -> HttpResponse:
        return self.call("renew", **report)

    def log(self, first: int, *lines: str) -> HttpResponse:
        return self.call("log", first=first, lines=lines)

    def finish(self, outcome: str = "succeeded", **body: Any) -> HttpResponse:
        return self.call("finish", outcome=outcome, **body)

    def release(self, **body: Any) -> HttpResponse:
        return self.call("release", **body)

    @property
    def task(self) -> Task:
        """The task that it claimed last, as it is stored now."""
        return Task.objects.get(pk=self.task_id)


def submit(robot: Robot | str, handler: str = "turn", **options: Any) -> Task:
    run = {"robot": robot if isinstance(robot, str) else robot.name, "handler": handler, **options}
    return services.submit(run, by="amy")


def code(answer: HttpResponse) -> str:
    """Return what a refusal says to programs."""
    assert answer.status_code == 409, (answer.status_code, answer.content)
    return str(answer.json()["code"])
