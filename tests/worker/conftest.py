from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def handle(monkeypatch) -> Callable[..., Any]:
    """Run a function as a handler to its end and return the task: `handle(run, max_attempts=2)`."""
    from tasks import registry
    from tasks.models import Task
    from tasks.worker.claim import run_next
    from tests.support.factories import make_task

    def run(function: Callable[[Any], Any], *, policy: registry.RetryPolicy | None = None, **fields: Any) -> Task:
        handler = registry.Handler("try", function, registry.Params, 30, policy or registry.RetryPolicy(first=60))
        monkeypatch.setitem(registry._handlers, "try", handler)
        task = make_task(**{"handler": "try", "params": {}} | fields)
        run_next(task.robot, "message")
        return Task.objects.get(pk=task.pk)

    return run
