"""A wrong environment variable stops the start, with one line that names it."""

import os
import subprocess
import sys

import pytest

from fmv.devstack import stack
from fmv.environment import Environment, unknown_variables

LONG_KEY = "k" * 50


def start(FMV_SECRET_KEY=LONG_KEY, **environment):  # noqa: N803
    """Read the settings in a process of its own; return its status and its lines on stderr."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FMV_", "MONGODB_", "DJANGO_"))}
    key = {"FMV_SECRET_KEY": FMV_SECRET_KEY} if FMV_SECRET_KEY else {}
    process = subprocess.run(
        [sys.executable, "-c", "from fmv.environment import read_environment; print(read_environment().port)"],
        env=kept | key | {"PYTHONPATH": str(stack.ROOT)} | environment,
        cwd="/",  # where no .env is
        capture_output=True,
        text=True,
        check=False,
    )
    return process.returncode, process.stderr.splitlines()


WRONG = {
    "MONGODB_URI": [
        "http://127.0.0.1/fmv",
        "mongodb://127.0.0.1:27017",
        "mongodb://127.0.0.1/",
        "mongodb://127.0.0.1?tls=true",
        "mongodb://127.0.0.1/?tlsCAFile=/etc/ca.pem",
        "localhost",
        "",
    ],
    "FMV_BROKER_URL": ["redis://localhost", "mongodb://localhost/fmv_broker", "localhost:5672", ""],
    "FMV_SECRET_KEY": ["short", "k" * 49, ""],
    "FMV_DEBUG": ["maybe", "2", ""],
    "FMV_APPS": ["no_such_app", "fmv,no.such.app", "../x"],
    "FMV_ANONYMOUS": ["admin", "Viewer", "superuser", ""],
    "FMV_CORS_ORIGINS": ["fleet.example.org", "https://x/path", "*", "https://a, b", "null", "https://", "ftp://x"],
    "FMV_HTTPS": ["maybe"],
    "FMV_PORT": ["0", "65536", "-1", "http", "80.5", ""],
    "FMV_WEB_PROCESSES": ["0", "257", "two"],
    "FMV_WEB_THREADS": ["0", "257"],
    "FMV_WORKER_PROCESSES": ["0", "1025"],
    "FMV_QUEUE_TYPE": ["stream", "Quorum"],
    "FMV_LEASE_SECONDS": ["2", "3601", "nan", "inf", "long"],
    "FMV_RENEW_SECONDS": ["0.1", "11", "nan", "1201"],
    "FMV_STOP_GRACE": ["-1", "nan", "inf"],
    "FMV_RETENTION_DAYS": ["-1", "36501", "nan"],
    "FMV_LOG_LEVEL": ["debug", "LOUD"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_named(name, value, monkeypatch, capsys):
    from fmv.environment import read_environment

    for variable in os.environ:
        if variable.startswith(("FMV_", "MONGODB_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("FMV_SECRET_KEY", LONG_KEY)
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        read_environment()
    assert stopped.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fmv: {name} ")


def test_what_is_wrong_stops_a_process_with_status_1_and_a_line_each():
    status, lines = start(FMV_PORT="http", FMV_ANONYMOUS="admin")
    assert status == 1
    assert [line.split()[:2] for line in lines] == [["fmv:", "FMV_ANONYMOUS"], ["fmv:", "FMV_PORT"]]


def test_a_key_is_needed_unless_debug_is_on():
    status, lines = start(FMV_SECRET_KEY=None)
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith("fmv: FMV_SECRET_KEY ")
    assert start(FMV_SECRET_KEY=None, FMV_DEBUG="1") == (0, [])


def test_the_defaults_will_do():
    assert start() == (0, [])


@pytest.mark.parametrize(
    "command",
    [[sys.executable, str(stack.ROOT / "manage.py"), "check"], [*stack.WEB], [*stack.MAINTENANCE]],
    ids=["manage.py", "web", "maintenance"],
)
def test_every_program_stops_the_same_way(command):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FMV_")}
    environment = kept | {"FMV_SECRET_KEY": LONG_KEY, "FMV_LEASE_SECONDS": "no", "PYTHONPATH": str(stack.ROOT)}
    process = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 1, process.stderr
    [line] = process.stderr.splitlines()
    assert line.startswith("fmv: FMV_LEASE_SECONDS ")


def test_every_variable_that_is_tried_here_exists():
    assert set(WRONG) <= {field.alias for field in Environment.model_fields.values()}


def test_an_unknown_variable_of_ours_stops_the_start_and_the_nearest_is_named(tmp_path):
    status, lines = start(FMV_RETENTION_DAY="7", FMV_ZZZ="1", fmv_debgu="1")
    assert status == 1
    assert lines == [
        "fmv: FMV_DEBGU is unknown. Did you mean FMV_DEBUG?",
        "fmv: FMV_RETENTION_DAY is unknown. Did you mean FMV_RETENTION_DAYS?",
        "fmv: FMV_ZZZ is unknown.",
    ]


def test_an_unknown_variable_in_the_env_file_stops_the_start_too(tmp_path, monkeypatch):
    monkeypatch.setitem(Environment.model_config, "env_file", str(tmp_path / ".env"))
    (tmp_path / ".env").write_text("FMV_RETENTION_DAYS=7\nRABBITMQ_PASSWORD=x\n")
    assert unknown_variables() == []
    (tmp_path / ".env").write_text("FMV_RETENTION_DAY=7\nRABBITMQ_PASSWORD=x\n")
    assert unknown_variables() == ["FMV_RETENTION_DAY is unknown. Did you mean FMV_RETENTION_DAYS?"]


def test_variables_of_other_programs_do_not_matter():
    kubernetes = {
        "FMV_WEB_SERVICE_HOST": "10.0.0.1",
        "FMV_WEB_SERVICE_PORT_HTTP": "80",
        "FMV_WEB_PORT": "tcp://10.0.0.1:80",
        "FMV_WEB_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert start(FMV_TEST_DIRECTORY="/x", FMVX="1", GUNICORN_CMD_ARGS="", **kubernetes) == (0, [])
