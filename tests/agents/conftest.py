import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.fault_proxy import FaultProxy


@pytest.fixture
def proxy(web) -> Iterator[FaultProxy]:
    """A proxy in front of a web server."""
    with FaultProxy(web(os.environ["FMV_BROKER_URL"], FMV_WEB_PROCESSES="1", FMV_ANONYMOUS="manager")) as proxy:
        yield proxy


@pytest.fixture
def make_agent(proxy, run_process, tmp_path) -> Iterator[Callable[..., Any]]:
    """Make an agent of a new robot behind the proxy: `make_agent(lanes=2).start()`. The test's end kills it."""
    from tests.support.agent_processes import AgentProcess
    from tests.support.factories import make_robot

    made: list[AgentProcess] = []

    def make(**fields: Any) -> AgentProcess:
        made.append(AgentProcess(run_process, tmp_path, make_robot(**fields), proxy.url))
        return made[-1]

    yield make
    for agent in made:
        if agent.process:
            agent.process.kill()
