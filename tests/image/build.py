"""Builds the Dockerfile's image with buildah. Debian trixie stands in for the image on which the Dockerfile builds.

No registry of images is needed, and buildah reads the Dockerfile and .dockerignore themselves, so nothing here can
differ from them. Debian's Python 3.13 lies in /usr/bin, that of the real image in /usr/local/bin; the Dockerfile names
neither.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmv.devstack.embedded_mongodb import StackError
from fmv.devstack.stack import ROOT

TRIXIE = ROOT / "var" / "image" / "trixie.tar"  # kept, because it takes longest
PACKAGES = "python3,python3-venv,ca-certificates,netbase,tzdata"  # the last three as in the real image
AUTHORITIES = Path("etc/ssl/certs/ca-certificates.crt")


def what_is_missing() -> str:
    """Return a sentence that names what this machine lacks; "" when it lacks nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "`make image` needs Linux and root, because it makes file systems and mounts them."
    lacking = [name for name in ("buildah", "debootstrap", "unshare") if shutil.which(name) is None]
    lacking += [] if Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists() else ["rabbitmq-server"]
    if lacking:
        return (
            f"`make image` needs {', '.join(lacking)} (on Debian: apt-get install buildah debootstrap rabbitmq-server)."
        )
    return ""


@dataclass
class Image:
    root: Path  # its files
    config: dict[str, Any]  # what it says about its processes: Cmd, Env, Healthcheck, User, WorkingDir


def build(directory: Path) -> Image:
    """Build the image in `directory`. Raises StackError with the end of the log if a step fails."""
    if not TRIXIE.exists():
        _make_trixie(directory)

    def buildah(*arguments: str) -> str:
        store = ("--root", str(directory / "store"), "--runroot", str(directory / "run"), "--storage-driver", "vfs")
        return _run("buildah", *store, *arguments)

    name = _base_image()
    base = buildah("from", "scratch")
    buildah("add", "--quiet", base, str(TRIXIE), "/")
    buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", base)
    buildah("commit", "--quiet", "--rm", base, f"docker.io/library/{name}")
    buildah(
        "bud", "--isolation", "chroot", "--network", "host", "--pull-never", "--format", "docker", "--tag", "fmv",
        "--file", str(ROOT / "Dockerfile"), str(ROOT),
    )  # fmt: skip
    config = json.loads(buildah("inspect", "--type", "image", "fmv"))["Docker"]["config"]
    return Image(Path(buildah("mount", buildah("from", "--pull-never", "fmv"))), config)


def _base_image() -> str:
    """Return the one image on which the Dockerfile's stages build, if Debian trixie can stand in for it."""
    text = (ROOT / "Dockerfile").read_text()
    named = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) - set(re.findall(r" AS (\S+)", text))
    if len(named) != 1 or not (name := named.pop()).startswith("python:3.13-"):
        raise StackError("Debian trixie has Python 3.13, and the Dockerfile builds on something else.")
    return name


def _make_trixie(directory: Path) -> None:
    print("Installing Debian trixie", flush=True)
    root = directory / "trixie"
    _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "trixie", str(root))
    (root / "usr/bin/python").symlink_to("python3")
    shutil.copy("/" / AUTHORITIES, root / AUTHORITIES)  # this machine's, with which it reaches the package registry
    for left in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / left)
    TRIXIE.parent.mkdir(parents=True, exist_ok=True)
    unfinished = TRIXIE.with_suffix(".unfinished")
    _run("tar", "-C", str(root), "-cf", str(unfinished), ".")
    unfinished.rename(TRIXIE)
    shutil.rmtree(root)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout.strip()
