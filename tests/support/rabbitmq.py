"""A RabbitMQ of a test's own, on free ports of loopback, whose alarms the test may raise."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmv.devstack import stack
from fmv.devstack.embedded_mongodb import StackError, free_port, tied

PROGRAMS = Path("/usr/lib/rabbitmq/bin")  # not /usr/sbin, whose wrappers change user and directory


def missing() -> str:
    """Return why no RabbitMQ can be started here, "" if one can."""
    return "" if (PROGRAMS / "rabbitmq-server").exists() else f"rabbitmq-server is not in {PROGRAMS}."


class RabbitMQ:
    """A running server, with a node name, a data directory and an epmd of its own."""

    def __init__(self, directory: Path) -> None:
        port, dist_port, epmd_port = (free_port(None) for _ in range(3))
        (directory / "rabbitmq.conf").touch()
        (directory / "plugins").write_text("[].")
        self.url = f"amqp://guest:guest@127.0.0.1:{port}//"
        self._environment = os.environ | {
            "HOME": str(directory),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
            "RABBITMQ_NODENAME": f"fmv-test-{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        }
        with (directory / "output").open("wb") as output:
            self.process = subprocess.Popen(
                tied(signal.SIGKILL, str(PROGRAMS / "rabbitmq-server")),
                env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def control(self, *arguments: str) -> None:
        """Run rabbitmqctl on this server."""
        command = [str(PROGRAMS / "rabbitmqctl"), "--quiet", *arguments]
        subprocess.run(command, env=self._environment, check=True, capture_output=True, timeout=60)

    def wait_for_start(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                return stack.check_broker(self.url)
            except StackError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def suspend(self) -> None:
        """Stop all of its processes, as a machine that hangs."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def end(self) -> None:
        self.resume()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for _ in range(50):  # epmd refuses to end while it takes the killed server for a living one
            ended = subprocess.run(["epmd", "-kill"], env=self._environment, check=False, capture_output=True)
            if b"living nodes" not in ended.stdout + ended.stderr:
                break
            time.sleep(0.1)


@contextmanager
def rabbitmq(directory: Path) -> Iterator[RabbitMQ]:
    server = RabbitMQ(directory)
    try:
        server.wait_for_start()
        yield server
    finally:
        server.end()
