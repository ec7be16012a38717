"""Everything that the OpenAPI document says, under schemathesis: real servers, every check and phase, as each role.

This is a short run. `make fuzz` is a long one, with CASES for each role and the SEED it tells.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fmv.accounts import api_tokens
from fmv.accounts.permissions import Role
from fmv.devstack import embedded_mongodb, stack
from robots.models import MAX_LANES
from tasks.queue.services import submit
from tests.support.factories import make_robot, make_token, make_user
from tests.support.fake_oidc import Issuer, running

CASES = int(os.environ.get("FMV_TEST_CASES") or 0)  # at least so many for each role; 0: a short run
SEED = int(os.environ.get("FMV_TEST_SEED") or (time.time() if CASES else 1))
CONFIG = Path(__file__).with_name("schemathesis.toml")
AGENT = "agent"
WAITING = 500  # tasks for the agent
SIGN_IN = """
[auth.openapi]
bearer.bearer = "${FMV_TEST_JWT}"
"""


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running(Issuer(embedded_mongodb.free_port(None))) as issuer:
        yield issuer


@pytest.fixture
def server(web, worker, issuer) -> str:
    broker = os.environ["FMV_BROKER_URL"]
    worker(broker)
    for name in ("Bender", "Wall-E", "Crow T. Robot"):
        make_robot(name=name)
    return web(broker, FMV_OIDC_ISSUER=issuer.url, FMV_OIDC_AUDIENCE="fmv")


@pytest.mark.slow
@pytest.mark.timeout(0 if CASES else 300)
def test_the_server_answers_each_role_as_its_document_says(server, issuer, tmp_path, subtests):
    for role in ("none", *filter(None, Role), AGENT):
        with subtests.test(role=role):
            fuzz(server, role, issuer, tmp_path)


def fuzz(server: str, role: str, issuer: Issuer, directory: Path) -> None:
    environment = sign_in(role, issuer)
    config = directory / f"{role}.toml"
    config.write_text(CONFIG.read_text() + (SIGN_IN if environment else ""))
    seed, cases = SEED, 0
    while cases <= CASES:
        cases += run(server, config, environment, seed)
        print(f"{role}: {cases} cases, the last with seed {seed}", flush=True)
        seed += 1


def sign_in(role: str, issuer: Issuer) -> dict[str, str]:
    """Return the variables that let schemathesis sign in as this role or as a robot's agent, none for nobody's."""
    if role == "none":
        return {}
    if role == AGENT:
        robot = make_robot(lanes=MAX_LANES)  # it has a name that no other role may hit upon, to delete it
        submit([{"robot": robot.name, "handler": "drive", "params": {"x": 1, "y": 2}}] * WAITING, by="test")
        token = make_token(robot=robot.name).text
        return {"FMV_TEST_JWT": token, "FMV_TEST_AGENT": token}
    token = api_tokens.build(make_user(role), "schemathesis")
    api_tokens.store(token, by="test")
    return {"FMV_TEST_TOKEN": token.text, "FMV_TEST_JWT": issuer.token(fmv_role=role, exp=int(time.time()) + 86400)}


def run(server: str, config: Path, environment: dict[str, str], seed: int) -> int:
    """Run schemathesis once, all of it must pass; return how many cases it made."""
    report = config.with_suffix(".json")
    short = ["--phases", "examples,fuzzing,stateful", "--max-examples", "3"]
    ended = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "--no-color", "run"]
        + [f"{server}/api/v1/openapi.json", "--seed", str(seed)]
        + (["--max-examples", "60"] if CASES else short)
        + ["--report", "json", "--report-json-path", str(report)],
        env=os.environ | environment | {"PYTHONPATH": str(stack.ROOT)},
        cwd=config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return int(json.loads(report.read_text())["test_cases"]["generated"])
