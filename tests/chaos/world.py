"""The real processes of a chaos run: RabbitMQ, an embedded MongoDB server, web server and workers, each with a log."""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

from fmv.devstack import embedded_mongodb, stack

BIN = "/usr/lib/rabbitmq/bin"  # Debian's; not /usr/sbin, whose wrappers change user and directory
RABBITMQ = shutil.which("rabbitmq-server", path=f"{BIN}:{os.environ.get('PATH', os.defpath)}")
MAKE_TOKENS = """
import django, sys
django.setup()
from django.core.management import call_command
for robot in sys.argv[1:]:
    call_command("tokens", "create", "--robot", robot)
"""
PR_SET_CHILD_SUBREAPER = 36
WORKERS = ("work1", "work2", "work3")
MAINTENANCE = ("maintenance1", "maintenance2")


def what_is_missing() -> str:
    """Return a sentence that names what this machine lacks; "" when it lacks nothing."""
    if sys.platform != "linux":
        return "chaos watches processes through /proc and pidfds, which only Linux has."
    if RABBITMQ is None or shutil.which("epmd") is None:
        return "chaos starts its own RabbitMQ, and rabbitmq-server is not installed (apt-get install rabbitmq-server)."
    return ""


class Watch(threading.Thread):
    """Records when each descendant of this process ends. Orphans are adopted by this process, so they are seen too."""

    def __init__(self) -> None:
        super().__init__(name="watch", daemon=True)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.deaths: dict[int, int] = {}
        self._alive: dict[int, int] = {}  # process -> pidfd
        self._epoll = select.epoll()
        self._lock = threading.Lock()

    def run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll(0.05):
                now = time.monotonic_ns()
                with self._lock:
                    pid = next(pid for pid, known in self._alive.items() if known == fd)
                    self.deaths.setdefault(pid, now)  # `kill` may have recorded it already
                    del self._alive[pid]
                    self._epoll.unregister(fd)
                    os.close(fd)
            self.find_new()

    def find_new(self) -> None:
        """Find new processes."""
        for pid in descendants(os.getpid()):
            with self._lock, suppress(ProcessLookupError):
                if pid not in self._alive and pid not in self.deaths:
                    self._alive[pid] = os.pidfd_open(pid)
                    self._epoll.register(self._alive[pid], select.EPOLLIN)

    def kill(self, *pids: int) -> int:
        """Send SIGKILL to the processes that are alive; return the time."""
        for pid in pids:
            with self._lock, suppress(ProcessLookupError):
                if fd := self._alive.get(pid):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
        now = time.monotonic_ns()
        for pid in pids:
            self.deaths.setdefault(pid, now)
        return now

    def kill_all(self) -> None:
        """Kill every descendant of this process."""
        for _ in range(20):
            self.find_new()
            with self._lock:
                left = list(self._alive)
            if not left:
                return
            self.kill(*left)
            time.sleep(0.1)


def children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from descendants(child)


class World:
    """All processes. They are started from the main thread only, because they end with the thread that started them."""

    def __init__(
        self, directory: Path, processes: Sequence[str] = ("web", *WORKERS, *MAINTENANCE), **variables: str
    ) -> None:
        self.directory = directory
        self.processes = processes
        self.marks = directory / "marks"
        self.watch = Watch()
        self.up: dict[str, subprocess.Popen[bytes]] = {}
        self.agents: dict[str, Sequence[str]] = {}  # name of the process -> its command
        self.mongodb_port, self.amqp_port, self.dist_port, self.epmd_port, self.web_port = (
            embedded_mongodb.free_port(None) for _ in range(5)
        )
        self.url = f"http://127.0.0.1:{self.web_port}/api/v1"
        self.broker_url = f"amqp://guest:guest@127.0.0.1:{self.amqp_port}//"
        self._mongodb: AbstractContextManager[str] | None = None
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FMV_")} | {
            "MONGODB_URI": f"mongodb://127.0.0.1:{self.mongodb_port}/fmv",
            "DJANGO_SETTINGS_MODULE": "fmv.settings",
            "PYTHONPATH": str(stack.ROOT),
            "FMV_BROKER_URL": self.broker_url,
            "FMV_QUEUE_TYPE": os.environ.get("FMV_QUEUE_TYPE", "quorum"),
            "FMV_SECRET_KEY": "chaos" * 10,
            "FMV_HTTPS": "0",
            "FMV_PORT": str(self.web_port),
            "FMV_WEB_PROCESSES": "1",
            "FMV_ANONYMOUS": "manager",
            "FMV_APPS": "tests.support.test_handlers",
            **variables,
        }

    def __enter__(self) -> "World":
        with ExitStack() as parts:
            parts.callback(self.close)
            self.watch.start()
            self.start_rabbitmq()
            self.start_mongodb()
            self._run("migrate", sys.executable, str(stack.ROOT / "manage.py"), "migrate", "--verbosity", "0")
            self.wait_until(lambda: self.up["rabbitmq"].poll() is not None or self.broker_answers(), "rabbitmq")
            for name in self.processes:
                self.start(name)
            if "web" in self.processes:
                self.wait_until(lambda: stack.answers(f"{self.url}/health", "127.0.0.1"), "web")
            for name in set(self.processes) - {"web"}:
                self.wait_until(lambda name=name: children(self.up[name].pid), name)
            parts.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(embedded_mongodb.StackError):
            self.stop_mongodb()
        self.watch.kill_all()

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def wait_until(self, condition: Callable[[], object], name: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise embedded_mongodb.StackError(
                    f"{name} did not start within {seconds:g} s; {self.log(name)} may say why."
                )
            time.sleep(0.1)

    def _run(self, name: str, *command: str) -> None:
        with self.log(name).open("ab") as log:
            done = subprocess.run(
                command, env=self.environment, cwd=self.directory, stdout=log, stderr=log, check=False
            )
        if done.returncode:
            raise embedded_mongodb.StackError(f"{name} failed; {self.log(name)} says why.")

    def spawn(self, name: str, *command: str, **environment: str) -> None:
        with self.log(name).open("ab") as log:
            self.up[name] = subprocess.Popen(
                embedded_mongodb.tied(signal.SIGKILL, *command),
                env=self.environment | environment,
                cwd=self.directory,  # which holds no .env
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.watch.find_new()

    # Web server, workers and robots' agents.

    def make_tokens(self, robots: Sequence[str]) -> list[str]:
        """Make a token for the agent of each robot."""
        with self.log("tokens").open("ab") as log:
            command = (sys.executable, "-c", MAKE_TOKENS, *robots)
            done = subprocess.run(
                command, env=self.environment, cwd=self.directory, stdout=subprocess.PIPE, stderr=log, check=True
            )
        return done.stdout.decode().split()

    def start(self, name: str) -> None:
        if name == "web":
            self.spawn(name, *stack.WEB)
        elif name in WORKERS:
            self.spawn(name, *stack.CELERY, "-Q", "work", "-n", f"{name}@%h", "-c", "2")
        elif name in self.agents:
            self.spawn(name, *self.agents[name], PYTHONPATH=str(stack.ROOT / "robots" / "agent"))
        else:
            self.spawn(name, *stack.CELERY, "-Q", "maintenance", "-n", f"{name}@%h", "-c", "1", "-B")

    def kill(self, name: str, *, group: bool = False) -> tuple[int, list[int]]:
        """Kill the main process and, if `group`, its children; return the time and the children."""
        self.watch.find_new()
        process = self.up.pop(name)
        forked = children(process.pid)
        at = self.watch.kill(process.pid, *(forked if group else ()))
        process.wait()
        return at, forked

    # MongoDB.

    def start_mongodb(self) -> None:
        server = embedded_mongodb.embedded_mongodb(self.directory / "mongodb", self.mongodb_port)
        if server.__enter__() != f"mongodb://127.0.0.1:{self.mongodb_port}/":
            raise embedded_mongodb.StackError(f"port {self.mongodb_port} was taken while the MongoDB server was down.")
        self._mongodb = server

    def stop_mongodb(self) -> None:
        """Stop the server with SIGTERM."""
        if server := self._mongodb:
            self._mongodb = None
            server.__exit__(None, None, None)

    # RabbitMQ, started as in .ci/run: the node, its distribution port and epmd on loopback only.

    def start_rabbitmq(self) -> None:
        own = self.directory / "rabbitmq"
        own.mkdir(exist_ok=True)
        (own / "rabbitmq.conf").touch()
        (own / "plugins").write_text("[].")
        variables = {
            "HOME": str(own),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RUNNING_UNDER_SYSTEMD": "1",  # otherwise a shell would be the server's parent
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(own / "rabbitmq"),
            "RABBITMQ_NODENAME": "fmv-chaos@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.amqp_port),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(own / "data"),
            "RABBITMQ_LOG_BASE": str(own / "log"),
            "RABBITMQ_PID_FILE": str(own / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(own / "plugins"),
        }
        if "epmd" not in self.up:  # otherwise the server starts one that outlives it
            self.spawn("epmd", "epmd", **variables)
        assert RABBITMQ is not None
        self.spawn("rabbitmq", RABBITMQ, **variables)

    def broker_answers(self) -> bool:
        try:
            stack.check_broker(self.broker_url)
        except embedded_mongodb.StackError:
            return False
        return True
