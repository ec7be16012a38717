"""How pytest-xdist's processes share the tests.

Those that run real servers, workers and browsers for long run one at a time, all in the xdist process that begins with
them: two of them on two cores keep each other waiting, and how long they wait is what they judge. Meanwhile the other
process takes the rest test by test, and in the end both do. (Marks of `xdist_group` have no effect with pytest 9.2:
https://github.com/pytest-dev/pytest-xdist/issues/1386)
"""

from xdist.scheduler import LoadScopeScheduling

#: files whose tests stay together, and those on RabbitMQ with them: its queues are for one at a time
TOGETHER = frozenset(
    f"tests/{name}.py"
    for name in (
        "chaos/test_chaos",
        "commands/test_large_commands",  # their rows are stored once for all of them
        "journeys/test_operators_day",
        "worker/test_presence",
        "devstack/test_stack",
        "worker/test_clocks",
        "worker/test_worker",
    )
)


class ProcessGroupScheduling(LoadScopeScheduling):
    """Schedule the tests of real processes as one piece and first, because it is the largest; the others one by one."""

    def _split_scope(self, nodeid: str) -> str:
        return "processes" if nodeid.partition("::")[0] in TOGETHER or "[rabbitmq" in nodeid else nodeid
