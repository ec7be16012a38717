"""The real servers of the bench, all on loopback: MongoDB, broker, web servers, workers; and wrk, which calls them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import kombu
from pymongo import MongoClient

from fmv.devstack import embedded_mongodb, embedded_valkey, stack
from tests.chaos.world import RABBITMQ, World, descendants
from tests.support.uris import with_suffix

CONNECTIONS = 16
FLOOR = (sys.executable, "-m", "gunicorn", "-c", "python:fmv.server.gunicorn", "tests.bench.floor:application")
SERVERS = {"rabbitmq", "epmd"}
OTHERS = ("bare", "bare-prefork", "bare-threads", "bare-solo", "first")  # queues of workers that are not FMV's
SCRIPT = Path(__file__).with_name("wrk.lua")


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that these processes have used; nothing for those that have ended."""
    ticks = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """What wrk measured."""

    requests: int
    rate: float  # requests a second
    median: float  # seconds of one request
    p99: float


class Stage(World):
    """A World that can use a given MongoDB and broker. It creates its own databases there and drops them at the end."""

    def __init__(self, directory: Path, **variables: str) -> None:
        super().__init__(directory, (), **{"FMV_WEB_PROCESSES": "2"} | variables)
        given = os.environ.get("MONGODB_URI")
        self.own_mongodb = given is None
        uri = with_suffix(given or self.environment["MONGODB_URI"], "_bench")
        broker = os.environ.get("FMV_BROKER_URL")
        self.own_rabbitmq = broker is None and RABBITMQ is not None and shutil.which("epmd") is not None
        self.own_valkey = broker is None and not self.own_rabbitmq
        self.broker_url = broker or self.broker_url
        self.environment |= {"MONGODB_URI": uri, "FMV_BROKER_URL": self.broker_url}
        self._runs = count()

    def __enter__(self) -> "Stage":
        with ExitStack() as parts:
            parts.callback(self.close)
            self.watch.start()
            if self.own_rabbitmq:
                self.start_rabbitmq()
            if self.own_valkey:
                self._valkey = embedded_valkey.embedded_valkey(self.directory / "valkey")
                self.broker_url = self.environment["FMV_BROKER_URL"] = self._valkey.__enter__()
            if self.own_mongodb:
                self.start_mongodb()
            self.client: MongoClient[Any] = MongoClient(self.environment["MONGODB_URI"], serverSelectionTimeoutMS=5000)
            self.database = self.client.get_default_database()
            self.wait_until(self.broker_answers, "the broker", 180)
            os.environ.update(self.environment)
            import django

            django.setup()
            self.engine = f"{self._mongodb_name()}, {self._broker_name()}"
            parts.pop_all()
        return self

    def clear(self) -> None:
        """Remove what the last part has left: processes, documents, messages."""
        for name in self.up.keys() - SERVERS:
            self.stop(name)
        self.drop_databases()
        with kombu.Connection(self.broker_url) as broker:
            for queue in ("work", "maintenance"):
                with suppress(*broker.channel_errors):  # the queue does not exist
                    broker.channel().queue_purge(queue)
            for queue in OTHERS:
                broker.channel().queue_delete(queue)
        self._run("migrate", sys.executable, str(stack.ROOT / "manage.py"), "migrate", "--verbosity", "0")

    def close(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # so that a second Ctrl-C leaves no process or database behind
        for name in self.up.keys() - SERVERS:
            self.stop(name)
        if not self.own_mongodb and hasattr(self, "client"):
            self.drop_databases()
        if hasattr(self, "_valkey"):
            self._valkey.__exit__(None, None, None)
        super().close()

    def drop_databases(self) -> None:
        for name in self.client.list_database_names():
            if name.startswith(self.database.name):
                self.client.drop_database(name)

    def _mongodb_name(self) -> str:
        about = self.client.admin.command("buildInfo")
        name = f"SecantusDB {about['secantusVersion']}" if "secantusVersion" in about else f"MongoDB {about['version']}"
        return f"{name} (embedded)" if self.own_mongodb else name

    def _broker_name(self) -> str:
        return "RabbitMQ" if self.broker_url.startswith("amqp") else "Valkey"

    # Processes.

    def serve(self, name: str, *command: str, **environment: str) -> str:
        """Start a web server and return its address when it answers. `{port}` in the command stands for its port."""
        port = str(embedded_mongodb.free_port(None))
        self.spawn(name, *(part.replace("{port}", port) for part in command), FMV_PORT=port, **environment)
        url = f"http://127.0.0.1:{port}"
        self.wait_until(lambda: self._has_ended(name) or stack.answers(f"{url}/api/v1/health", "127.0.0.1"), name)
        return url

    def _has_ended(self, name: str) -> bool:
        if self.up[name].poll() is not None:
            raise embedded_mongodb.StackError(f"{name} ended by itself: {self.log(name).read_text()[-2000:]}")
        return False

    def stop(self, name: str) -> None:
        """Stop the process with SIGTERM, after 20 s with SIGKILL."""
        process = self.up.pop(name)
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.watch.kill(process.pid)
            process.wait()

    def cpu(self, name: str) -> float:
        """Return the seconds of CPU time that the process and its descendants have used."""
        pid = self.up[name].pid
        return cpu_seconds((pid, *descendants(pid)))

    def call(self, url: str, seconds: int, *, method: str = "GET", body: str = "") -> Load:
        """Call the URL over 16 connections for this many seconds. `#` in the body becomes a new number each time.

        Raises StackError when a response is no success.
        """
        body = body.replace("#", f"{next(self._runs)}-#")
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "20s", "-s", str(SCRIPT), url]
        done = subprocess.run(
            [*command, "--", method, body], capture_output=True, text=True, check=False, timeout=seconds + 60
        )
        if done.returncode:
            raise embedded_mongodb.StackError(f"wrk failed: {done.stderr or done.stdout}")
        answer = json.loads(done.stdout.splitlines()[-1])
        if answer["errors"] or not answer["requests"]:
            raise embedded_mongodb.StackError(
                f"{answer['errors']} of {answer['requests']} calls of {method} {url} failed."
            )
        return Load(answer["requests"], answer["requests"] / answer["seconds"], answer["median"], answer["p99"])


def what_is_missing(parts: Sequence[str]) -> str:
    """Return a sentence that names what these parts need and this machine lacks; "" when it lacks nothing."""
    if sys.platform != "linux":
        return "the bench watches processes through /proc and pidfds, which only Linux has."
    if RABBITMQ is None and "FMV_BROKER_URL" not in os.environ and {"backlog", "backlog-make-run"} & set(parts):
        return (
            "the parts backlog and backlog-make-run run the first backend on RabbitMQ, and rabbitmq-server is not "
            "installed (apt-get install rabbitmq-server)."
        )
    if shutil.which("wrk") is None and {"requests", "requests-first", "servers", "memory", "listeners"} & set(parts):
        return (
            "the parts requests, requests-first, servers, memory and listeners call the web server with wrk, which is "
            "not installed (apt-get install wrk). The others do not need it."
        )
    return ""
