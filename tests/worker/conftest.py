import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def broker(broker_url) -> Iterator[str]:
    """Each kind of broker, and this process rings there too."""
    from tests.support.probes import using_broker

    with using_broker(broker_url):
        yield broker_url


@pytest.fixture
def any_broker() -> Iterator[str]:
    """The broker of development, where the kind of broker makes no difference."""
    from tests.conftest import empty_valkey
    from tests.support.probes import using_broker

    empty_valkey(os.environ["FMV_BROKER_URL"])
    with using_broker(os.environ["FMV_BROKER_URL"]) as url:
        yield url
    empty_valkey(url)


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
