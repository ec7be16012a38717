"""Runs the services of compose.yaml from the image, as a container engine would: as the image's user, without any
capability, on files that it cannot change, with /tmp and /dev/shm of its own.
"""

import re
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from fmv.devstack.embedded_mongodb import StackError, tied
from fmv.devstack.stack import ROOT
from tests.image.build import Image

#: Becomes the command given after the root, the user and the working directory, in a mount namespace of its own.
START = """
set -e
root=$1 user=$2 group=$3 directory=$4
shift 4
mount --bind "$root" "$root"
mount -t tmpfs -o nosuid,mode=755 tmpfs "$root/dev"
for device in null zero full random urandom; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm"
mount -t tmpfs -o nosuid,nodev,noexec,mode=1777,size=64m tmpfs "$root/dev/shm"
mount -t tmpfs -o nosuid,nodev,noexec,mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid "$user" --regid "$group" --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all env --chdir "$directory" "$@"
"""
LIKE_THIS = {"read_only": True, "tmpfs": ["/tmp"], "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}


class Containers:
    """The running services, each with a log in `directory`. `environment` overrides what compose.yaml sets."""

    def __init__(self, image: Image, directory: Path, environment: Mapping[str, str]) -> None:
        self.image = image
        self.directory = directory
        self.up: dict[str, subprocess.Popen[bytes]] = {}
        self.services: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
        self._environment = dict(environment)

    def start(self, name: str) -> None:
        """Start a service of compose.yaml."""
        with self.log(name).open("wb") as log:
            self.up[name] = subprocess.Popen(
                tied(signal.SIGKILL, *self._command(name, self.command(name))),
                env=self._variables(name), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def run(self, name: str, *command: str) -> str:
        """Run a command as the service would, and return its output. Raises StackError if it fails."""
        done = subprocess.run(
            self._command(name, command), env=self._variables(name), capture_output=True, text=True, check=False
        )
        if done.returncode:
            output = f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
            raise StackError(f"{' '.join(command)} ended with {done.returncode}:\n{output}")
        return done.stdout

    def healthy(self, name: str) -> bool:
        """Return whether the image's health check, run as the service, passes. Raises StackError if it has ended."""
        if (status := self.up[name].poll()) is not None:
            raise StackError(f"{name} ended with {status}:\n{self.log(name).read_text()[-3000:]}")
        kind, *command = self.image.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        with suppress(StackError):
            self.run(name, *command)
            return True
        return False

    def stop(self, name: str) -> None:
        """Stop a service with SIGTERM. Raises StackError if it does not end well, within compose.yaml's grace."""
        process = self.up.pop(name)
        process.terminate()
        try:
            status = process.wait(timeout=float(self.services[name]["stop_grace_period"].removesuffix("s")))
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if status:
            raise StackError(f"{name} ended with {status} when it was stopped:\n{self.log(name).read_text()[-3000:]}")

    def kill(self) -> None:
        """End everything at once."""
        for process in self.up.values():
            process.kill()
            process.wait()
        self.up.clear()

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def command(self, name: str) -> list[str]:
        command: list[str] = self.services[name].get("command") or self.image.config["Cmd"]
        return [part.replace("$$", "$") for part in command]

    def _command(self, name: str, command: list[str] | tuple[str, ...]) -> list[str]:
        for key, value in LIKE_THIS.items():
            if self.services[name].get(key) != value:
                raise StackError(f"compose.yaml's {name} no longer has {key}: {value}, but is run here as if it had.")
        root, config = self.image.root, self.image.config
        user = config["User"]
        group = re.search(rf"^[^:]*:[^:]*:{user}:(\d+):", (root / "etc/passwd").read_text(), re.MULTILINE)
        if not group:
            raise StackError(f"The image's user {user} is not in its /etc/passwd.")
        prepare = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", START, "start"]
        return [*prepare, str(root), user, group[1], config["WorkingDir"], *command]

    def _variables(self, name: str) -> dict[str, str]:
        """Return the image's variables, the service's and ours, of which each hides those before it."""
        of_image = dict(entry.split("=", 1) for entry in self.image.config["Env"])
        of_service = self.services[name].get("environment", {})
        variables = of_image | of_service | self._environment
        if unset := [name for name, value in variables.items() if "${" in value]:
            raise StackError(f"compose.yaml takes {', '.join(unset)} from .env; give a value.")
        return variables
