"""`make image`: build the image of the Dockerfile, run compose.yaml's services from it, and use them.

The image's files are read-only, its user has no rights, and only /tmp and /dev/shm can be written. So this finds files
and libraries that the image lacks, and writes elsewhere. The services run in a network of their own, with an embedded
MongoDB server and a RabbitMQ from outside the image. Exit status: 0 all is well, 1 something failed, 2 this machine
lacks something.
"""

import ctypes
import fcntl
import json
import re
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from fmv.devstack.embedded_mongodb import StackError, embedded_mongodb
from tests.image.build import build, what_is_missing
from tests.image.containers import Containers
from tests.support.rabbitmq import rabbitmq

URL = "http://localhost:8000"
SERVICES = ("web", "worker", "beat")
COMMANDS = ("stats", "list_tasks", "export_robots /tmp/robots.csv", "backup /tmp/backup.json.gz", "check --deploy")
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
IMPORT_ALL = """
import importlib, os, pkgutil
import django
os.environ["DJANGO_SETTINGS_MODULE"] = "fmv.settings"
django.setup()
for room in ("fmv", "robots", "tasks"):
    for module in pkgutil.walk_packages(importlib.import_module(room).__path__, room + "."):
        importlib.import_module(module.name)
"""
LIBRARIES = "find /venv -name '*.so*' -type f -exec ldd {} + | grep -B20 'not found' || [ $? -eq 1 ]"


def main() -> int:
    if missing := what_is_missing():
        print(f"fmv: {missing}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="fmv-image-") as name:
        directory = Path(name)
        try:
            begun = time.monotonic()
            image = build(directory)
            done("built", f"{time.monotonic() - begun:.0f} s")
            leave_network()
            (directory / "rabbitmq").mkdir()
            with embedded_mongodb(directory / "mongodb") as mongodb, rabbitmq(directory / "rabbitmq") as broker:
                environment = {
                    "MONGODB_URI": f"{mongodb}fmv",
                    "FMV_BROKER_URL": broker.url,
                    "FMV_SECRET_KEY": "image" * 10,
                    "FMV_HTTPS": "0",
                    "FMV_WORKER_PROCESSES": "2",
                }
                use(Containers(image, directory, environment))
        except StackError as error:
            print(f"fmv: {error}", file=sys.stderr)
            return 1
    return 0


def done(what: str, detail: object = "") -> None:
    print(f"{what:24}{detail}", flush=True)


def leave_network() -> None:
    """Move this process into a network that has nothing but loopback."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise StackError(f"This machine allows no network of its own: error {ctypes.get_errno()}.")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def use(containers: Containers) -> None:
    """Run the services and use each of them."""
    try:
        done("libraries", containers.run("web", "sh", "-c", LIBRARIES) or "none is missing")
        done("migrate", containers.run("migrate", *containers.command("migrate")).splitlines()[-1].strip())
        for name in SERVICES:
            containers.start(name)
        wait("the health check", lambda: containers.healthy("web"))
        done("health check", "passes")
        containers.run("web", "python", "-c", IMPORT_ALL)
        done("modules", "all can be imported")
        manage(containers, "sample_robots")
        password = manage(containers, "ensure_admin").split()[-1]
        check_api(containers)
        check_admin(password)
        check_commands(containers)
        for name in SERVICES:
            containers.stop(name)
        done("stop", "each service ended with 0")
        check_logs(containers)
    finally:
        containers.kill()


def manage(containers: Containers, *arguments: str) -> str:
    return containers.run("web", "python", "manage.py", *arguments)


def check_api(containers: Containers) -> None:
    token = json.loads(manage(containers, "tokens", "create", "admin", "image", "--json"))["token"]
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        robots = session.get(f"{URL}/api/v1/robot/").json()["robots"]
        done("API", f"{len(robots)} robots")
        created = session.post(f"{URL}/api/v1/robot/Bender/run", json={"handler": "primes", "params": {"count": 10}})
        task: dict[str, Any] = {}

        def ended() -> bool:
            task.update(session.get(f"{URL}/api/v1/task/{created.json()['task_id']}").json())
            return task["status"] not in ("QUEUED", "STARTED")

        wait("the task's end", ended)
        if task["status"] != "SUCCESS":
            raise StackError(f"The task ended as {task}.")
        done("task", f"{task['status']}: {task['result']}")


def check_admin(password: str) -> None:
    with requests.Session() as session:
        session.get(f"{URL}/admin/login/")
        page = session.post(
            f"{URL}/admin/login/?next=/admin/",
            {"username": "admin", "password": password, "csrfmiddlewaretoken": session.cookies["csrftoken"]},
        )
        if page.url != f"{URL}/admin/":
            raise StackError(f"Nobody can sign in to the admin: {page.status_code} at {page.url}.")
        paths = ["/admin/", "/admin/robots/robot/", "/admin/tasks/task/", "/api/v1/docs"]
        files: set[str] = set()
        for path in paths:
            page = session.get(f"{URL}{path}")
            page.raise_for_status()
            files |= set(re.findall(r'"(/static/[^"#?]+)', page.text))
        kinds = [fetch(session, path) for path in sorted(files)]
        done("admin", f"{len(paths)} pages, {kinds.count('text/css')} styles, {kinds.count('text/javascript')} scripts")


def fetch(session: requests.Session, path: str) -> str:
    """Fetch a static file, and return its type."""
    answer = session.get(f"{URL}{path}")
    answer.raise_for_status()
    return answer.headers["Content-Type"].partition(";")[0]


def check_commands(containers: Containers) -> None:
    found = json.loads(containers.run("web", "sh", "-c", "python manage.py doctor --json || [ $? -eq 1 ]"))
    done("doctor", f"{len(found)} checks, no error")
    for check in found:
        if not check["ok"]:
            print(f"    {check['severity']}: {check['message']}")
    for command in COMMANDS:
        manage(containers, *command.split())
    done("commands", f"{len(COMMANDS)} ran")


def check_logs(containers: Containers) -> None:
    for name in SERVICES:
        for line in containers.log(name).read_text().splitlines():
            if not line.startswith("{") or json.loads(line)["level"] in ("ERROR", "CRITICAL"):
                raise StackError(f"{name} logged: {line}")
    done("logs", "no error, and nothing but JSON")


def wait(name: str, condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(f"{name} did not come within {seconds:g} s.")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
