"""Clients that others generate from the OpenAPI document: made from a running server's, checked, and used on it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fmv.accounts import api_tokens
from fmv.accounts.permissions import Role
from fmv.devstack import stack
from tests.support.factories import make_user

CLIENTS = Path(__file__).parents[1] / "clients"
MODULES = stack.VAR / "clients" / "typescript"  # what npm has installed, kept from run to run


@pytest.fixture
def server(web, worker) -> str:
    broker = os.environ["FMV_BROKER_URL"]
    worker(broker)
    return f"{web(broker)}/api/v1"


@pytest.fixture
def token(transactional_db) -> str:
    token = api_tokens.build(make_user(Role.MANAGER), "client")
    api_tokens.store(token, by="test")
    return token.text


@pytest.mark.slow
@pytest.mark.node
def test_a_typescript_client_is_generated_compiled_and_works(server, token, tmp_path):
    source = CLIENTS / "typescript"
    install(source)
    for name in ("package.json", "tsconfig.json", "main.ts"):
        shutil.copy(source / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES / "node_modules")
    run(tmp_path, "npx", "--no-install", "openapi-typescript", f"{server}/openapi.json", "-o", "schema.d.ts")
    run(tmp_path, "npx", "--no-install", "tsc")
    assert run(tmp_path, "node", "out/main.js", server, token) == "All as expected\n"


def install(source: Path) -> None:
    """Let npm install exactly what the lock file names, unless that is what is there."""
    lock, installed = source / "package-lock.json", MODULES / "installed.json"
    if installed.exists() and installed.read_bytes() == lock.read_bytes():
        return
    MODULES.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "package.json", MODULES)
    shutil.copy(lock, MODULES)
    run(MODULES, "npm", "ci", "--no-audit", "--no-fund")
    shutil.copy(lock, installed)


def test_a_python_client_is_generated_and_works(server, token, tmp_path):
    generator = str(Path(sys.executable).with_name("openapi-python-client"))
    where = ["--url", f"{server}/openapi.json", "--output-path", str(tmp_path / "fmv_client")]
    run(tmp_path, generator, "generate", *where, "--meta", "none", "--fail-on-warning")
    program = CLIENTS / "python" / "main.py"
    assert run(tmp_path, sys.executable, "-W", "error", str(program), server, token) == "All as expected\n"


@pytest.mark.slow
@pytest.mark.go
def test_a_go_client_is_generated_compiled_and_works(server, token, tmp_path):
    for file in (CLIENTS / "go").iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "fmv").mkdir()
    generate = ["oapi-codegen", "-generate", "types,client", "-package", "fmv", "-o", "fmv/fmv.go"]
    run(tmp_path, "go", "tool", *generate, f"{server}/openapi.json")
    assert run(tmp_path, "go", "run", ".", server, token) == "All as expected\n"


def run(directory: Path, *command: str) -> str:
    """Return what the command prints; it must succeed."""
    beside_python = Path(sys.executable).parent  # where the generator finds ruff, in a virtual environment or not
    ended = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(directory), "PATH": f"{beside_python}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout}{ended.stderr}"
    return ended.stdout
