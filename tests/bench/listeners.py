"""Listeners: how much open event streams slow other requests down."""

from contextlib import ExitStack

from fmv.devstack import stack
from tests.bench.figures import Figure, Size, figure, say
from tests.bench.requests import prepare
from tests.bench.stage import Stage
from tests.support.sse import Sse

STREAMS = (1, 50, 200)


def measure(stage: Stage, size: Size) -> list[Figure]:
    """Measure a request's median latency with open event streams ÷ without any."""
    task = prepare()
    url = f"{stage.serve('fmv', *stack.WEB)}/api/v1"
    stage.call(f"{url}/task/{task}", 1)
    found = []
    for streams in STREAMS:
        ratios = []
        for _ in range(size.pairs):
            alone = stage.call(f"{url}/task/{task}", size.seconds).median
            with ExitStack() as listening:
                for _ in range(streams):
                    listening.enter_context(Sse(f"{url}/events"))
                ratios.append(stage.call(f"{url}/task/{task}", size.seconds).median / alone)
            say(f"  {streams} streams: {ratios[-1]:.2f}")
        found.append(figure(f"a task's median latency, {streams} event streams ÷ none", stage.engine, "", ratios))
    return found
