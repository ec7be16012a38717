"""What all tests stand on: real servers, and processes that are started and stopped again.

MongoDB is an embedded server, one for each pytest-xdist process, unless MONGODB_URI names another; then each has a
database of its own in it. An embedded Valkey server carries the messages, for each process in a database of its own.
RabbitMQ is used too when one answers at FMV_BROKER_URL or on localhost, node, npm, go, Chromium and a C compiler when
they are installed; without one its tests are left out, and the last lines of the run say so. Under CI=true that ends
the run instead.
"""

import atexit
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import django
import psutil
import pytest

from fmv.devstack import embedded_mongodb, embedded_valkey, stack
from fmv.environment import Environment
from tests.support import clocks
from tests.support.uris import with_database

pytest_plugins = ["tests.support.browser"]
RABBITMQ = "amqp://guest:guest@localhost:5672//"

# The environment must be complete before Django reads its settings, which is why this runs at import. Processes that
# pytest-xdist starts inherit it.


def _find_rabbitmq() -> None:
    """Set FMV_TEST_RABBITMQ to the URL of a RabbitMQ that answers, or to "" and say why in FMV_TEST_NO_RABBITMQ."""
    given = os.environ.get("FMV_BROKER_URL", "")
    url = given if given.startswith("amqp") else RABBITMQ
    reason = ""
    try:
        stack.check_broker(url)
    except embedded_mongodb.StackError as error:
        reason = str(error)
    needed = url == given or os.environ.get("CI") == "true"
    os.environ["FMV_TEST_RABBITMQ"] = "" if reason else url
    os.environ["FMV_TEST_NO_RABBITMQ"] = reason
    os.environ["FMV_TEST_NEEDS_RABBITMQ"] = "yes" if needed else ""


def _find_rabbitmq_server() -> None:
    """Say in FMV_TEST_NO_RABBITMQ_SERVER why tests cannot start a RabbitMQ of their own, "" when they can."""
    from tests.support import rabbitmq

    os.environ["FMV_TEST_NO_RABBITMQ_SERVER"] = rabbitmq.missing()
    os.environ["FMV_TEST_NEEDS_RABBITMQ_SERVER"] = "yes" if os.environ.get("CI") == "true" else ""


def _find_node() -> None:
    """Say in FMV_TEST_NO_NODE why tests cannot run node and npm, "" when they can."""
    missing = [name for name in ("node", "npm") if not shutil.which(name)]
    os.environ["FMV_TEST_NO_NODE"] = f"{' and '.join(missing)} cannot be found." if missing else ""
    os.environ["FMV_TEST_NEEDS_NODE"] = "yes" if os.environ.get("CI") == "true" else ""


def _find_go() -> None:
    """Say in FMV_TEST_NO_GO why tests cannot run go, "" when they can."""
    reason = "" if shutil.which("go") else "go cannot be found."
    if not reason:
        version = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout.strip()
        if version.startswith(("go1.1", "go1.20")):
            reason = f"{version} is too old: only from Go 1.21 on it fetches the version that a go.mod names."
    os.environ["FMV_TEST_NO_GO"] = reason
    os.environ["FMV_TEST_NEEDS_GO"] = "yes" if os.environ.get("CI") == "true" and "too old" not in reason else ""


def _find_browser() -> None:
    """Say in FMV_TEST_NO_BROWSER why tests cannot run a browser, "" when they can."""
    os.environ["FMV_TEST_NO_BROWSER"] = "" if shutil.which("chromium") else "chromium cannot be found."
    os.environ["FMV_TEST_NEEDS_BROWSER"] = "yes" if os.environ.get("CI") == "true" else ""


def _find_compiler() -> None:
    """Compile the library that shifts clocks, or say in FMV_TEST_NO_CLOCKS why tests cannot shift any.

    FMV_TEST_NO_MONGODB_CLOCK says why they cannot shift MongoDB's.
    """
    reason = "" if shutil.which("cc") else "cc cannot be found."
    if not sys.platform.startswith("linux"):
        reason = "this is not Linux."
    os.environ["FMV_TEST_NO_CLOCKS"] = reason
    other = "MONGODB_URI names a server whose clock is not ours." if "MONGODB_URI" in os.environ else ""
    os.environ["FMV_TEST_NO_MONGODB_CLOCK"] = reason or other
    for marker in ("CLOCKS", "MONGODB_CLOCK"):
        os.environ[f"FMV_TEST_NEEDS_{marker}"] = "yes" if os.environ.get("CI") == "true" else ""
    if not reason:
        os.environ["FMV_TEST_CLOCK_LIBRARY"] = clocks.compile_library(Path(os.environ["FMV_TEST_DIRECTORY"]))


def _find_python38() -> None:
    """Set FMV_TEST_PYTHON38 to a Python 3.8, the oldest for robots, or say in FMV_TEST_NO_PYTHON38 that none is."""
    found = ["python3.8", *map(str, (Path.home() / ".pyenv" / "versions").glob("3.8.*/bin/python3.8"))]
    for command in found:
        with suppress(OSError):
            if subprocess.run([command, "--version"], capture_output=True, check=False).returncode == 0:
                os.environ["FMV_TEST_PYTHON38"] = command
                break
    os.environ["FMV_TEST_NO_PYTHON38"] = "" if "FMV_TEST_PYTHON38" in os.environ else "python3.8 cannot be found."
    os.environ["FMV_TEST_NEEDS_PYTHON38"] = ""


def _find_failpoints() -> None:
    """Say in FMV_TEST_NO_FAILPOINTS why tests cannot let the MongoDB of MONGODB_URI fail, "" when they can."""
    from pymongo import MongoClient
    from pymongo.errors import OperationFailure

    reason = ""
    with MongoClient[dict[str, Any]](os.environ["MONGODB_URI"]) as client:
        try:
            client.admin.command("configureFailPoint", "failCommand", mode="off")
        except OperationFailure as error:
            reason = f"the server of MONGODB_URI has no failpoints ({error.details['errmsg']})."
    os.environ["FMV_TEST_NO_FAILPOINTS"] = reason
    os.environ["FMV_TEST_NEEDS_FAILPOINTS"] = "yes" if os.environ.get("CI") == "true" else ""


def _start_mongodb(name: str) -> str:
    parts = ExitStack()
    atexit.register(parts.close)
    path = Path(os.environ["FMV_TEST_DIRECTORY"]) / name
    with nullcontext() if os.environ["FMV_TEST_NO_CLOCKS"] else clocks.mongodb_clock(name).preloaded():
        server = embedded_mongodb.embedded_mongodb(path, None, "--enable-test-commands")
        return parts.enter_context(server) + "fmv"


def _start_valkey() -> str:
    parts = ExitStack()
    atexit.register(parts.close)
    path = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="fmv-tests-valkey-"))) / "valkey"
    return parts.enter_context(embedded_valkey.embedded_valkey(path))


def _complete_environment() -> None:
    _find_rabbitmq()
    _find_rabbitmq_server()
    _find_node()
    _find_go()
    _find_browser()
    _find_python38()
    for variable in [name for name in os.environ if name.startswith("FMV_") and not name.startswith("FMV_TEST_")]:
        del os.environ[variable]
    os.environ["FMV_TEST_DIRECTORY"] = directory = tempfile.mkdtemp(prefix="fmv-tests-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    _find_compiler()
    if "MONGODB_URI" not in os.environ:
        os.environ["FMV_TEST_MONGODB"] = "mongodb"
        os.environ["MONGODB_URI"] = _start_mongodb("mongodb")
    _find_failpoints()
    os.environ["FMV_BROKER_URL"] = _start_valkey()
    os.environ["FMV_SECRET_KEY"] = secrets.token_urlsafe(48)
    os.environ["FMV_HTTPS"] = "0"
    os.environ["FMV_APPS"] = "tests.support.test_handlers"
    os.environ["DJANGO_SETTINGS_MODULE"] = "fmv.settings"


Environment.model_config["env_file"] = None  # a developer's .env is not the tests' business
if "PYTEST_XDIST_WORKER" not in os.environ:
    _complete_environment()
else:  # or workers of this process's tests would take the messages of another's
    database = 1 + int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    os.environ["FMV_BROKER_URL"] += f"?virtual_host={database}"


# --- What is left out ------------------------------------------------------------------------------------------------

#: markers of tests that need what a machine may lack; the variables FMV_TEST_NO_… say why
NEEDS = {
    "rabbitmq": "RabbitMQ",
    "rabbitmq_server": "a RabbitMQ of their own",
    "node": "node",
    "go": "Go",
    "browser": "a browser",
    "python38": "Python 3.8",
    "clocks": "clocks that can be shifted",
    "mongodb_clock": "a MongoDB whose clock can be shifted",
    "failpoints": "a MongoDB that can be made to fail",
}
#: fixture -> the marker of each test that uses it
MARKING = {"mongodb_clock": "mongodb_clock", "fail_command": "failpoints"}
left_out = pytest.StashKey[set[tuple[str, str]]]()
database_made = pytest.StashKey[bool]()


def lack(marker: str) -> str:
    """Return why tests with this marker cannot run, "" when they can."""
    return os.environ[f"FMV_TEST_NO_{marker.upper()}"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Give each process an embedded server of its own: a hundred thousand rows of one hold up no other's leases."""
    if "FMV_TEST_MONGODB" in os.environ:
        for number, spec in enumerate(specs):
            spec.env["MONGODB_URI"] = _start_mongodb(f"mongodb{number}")
            spec.env["FMV_TEST_MONGODB"] = f"mongodb{number}"


def pytest_configure(config: pytest.Config) -> None:
    django.setup()  # pytest-django looked for settings before this file named them
    from django.conf import settings
    from django.contrib.auth.hashers import PBKDF2PasswordHasher

    from fmv.celery import app

    settings.STORAGES["staticfiles"]["BACKEND"] = (
        "django.contrib.staticfiles.storage.StaticFilesStorage"  # as collected
    )
    settings.SILENCED_SYSTEM_CHECKS = [
        *settings.SILENCED_SYSTEM_CHECKS,
        "async.E001",
    ]  # what tests/support/browser.py sets
    PBKDF2PasswordHasher.iterations = 1000  # or each password takes a third of a second
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background, and our processes inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    app.conf.broker_url = os.environ["FMV_BROKER_URL"]  # under pytest-xdist it read them before, with another's broker
    config.addinivalue_line("markers", "rabbitmq: runs on a real RabbitMQ, and nowhere else")
    config.addinivalue_line("markers", "rabbitmq_server: starts a RabbitMQ of its own, see tests/support/rabbitmq.py")
    config.addinivalue_line("markers", "node: runs node and npm")
    config.addinivalue_line("markers", "go: runs go")
    config.addinivalue_line("markers", "browser: drives Chromium, see tests/support/browser.py")
    config.addinivalue_line("markers", "python38: runs what robots get with Python 3.8")
    config.addinivalue_line("markers", "clocks: shifts clocks, see tests/support/clocks.py")
    config.addinivalue_line("markers", "mongodb_clock: shifts MongoDB's clock, as all tests with that fixture do")
    config.addinivalue_line("markers", "failpoints: lets MongoDB fail, as all tests with `fail_command` do")
    config.addinivalue_line("markers", "slow: takes long, and only `make test-all` and .ci/run run it")
    config.stash[left_out] = set()
    for marker in NEEDS:
        if lack(marker) and os.environ[f"FMV_TEST_NEEDS_{marker.upper()}"]:
            raise pytest.UsageError(f"Nothing may be left out, but {lack(marker)}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    from tests.support.xdist_scheduler import ProcessGroupScheduling

    return ProcessGroupScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for fixture, marker in MARKING.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
    for marker in filter(lack, NEEDS):
        without = [item for item in items if item.get_closest_marker(marker)]
        items[:] = [item for item in items if not item.get_closest_marker(marker)]
        config.hook.pytest_deselected(items=without)
        config.stash[left_out].update((marker, item.nodeid) for item in without)


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item) -> bool | None:
    """Set no timer for tests that may have to make the database first: with some servers this takes minutes."""
    return None if item.config.stash.get(database_made, "FMV_TEST_MONGODB" in os.environ) else True


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        if item.config.option.markexpr == "not slow" and item.get_closest_marker("slow"):
            item.config.stash[left_out].add(("slow", item.nodeid))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = [*session.config.stash[left_out]]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    names: list[tuple[str, str]] = getattr(node, "workeroutput", {}).get("left_out", [])
    node.config.stash[left_out].update(names)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.stash[left_out]:
        terminalreporter.section("left out")
    for marker, title in NEEDS.items():
        if names := sorted(name for needs, name in config.stash[left_out] if needs == marker):
            terminalreporter.line(f"{len(names)} tests on {title}, for {lack(marker)}")
        for name in names:
            terminalreporter.line(f"  {name}")
    if slow := [name for needs, name in config.stash[left_out] if needs == "slow"]:
        terminalreporter.line(f"{len(slow)} slow tests, which `make test-all` runs")


# --- The database ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker, pytestconfig) -> Iterator[None]:
    from tests.support import db_reset

    pytestconfig.stash[database_made] = True
    with django_db_blocker.unblock():
        kept = db_reset.stored()
    with db_reset.putting_back(kept):
        yield


@pytest.fixture
def fail_command(db) -> Iterator[Callable[..., None]]:
    """Let MongoDB fail the next command of a name: `fail_command("update", errorCode=133)`, or `times` of them."""
    from django.db import connection

    admin = connection.database.client.admin

    def fail(name: str, *, times: int = 1, **failure: Any) -> None:
        admin.command(
            "configureFailPoint", "failCommand", mode={"times": times}, data={"failCommands": [name]} | failure
        )

    yield fail
    admin.command("configureFailPoint", "failCommand", mode="off")


# --- Brokers and processes -------------------------------------------------------------------------------------------


@pytest.fixture
def settings(settings):
    """Django's settings as the test may change them, the fields of `settings.ENVIRONMENT` included."""
    settings.ENVIRONMENT = SimpleNamespace(**dict(settings.ENVIRONMENT))
    return settings


@pytest.fixture(params=["valkey", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def broker_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a real broker without messages; the test runs once on each kind."""
    if request.param == "rabbitmq":
        with rabbitmq_alone() as url:
            yield url
    else:
        url = os.environ["FMV_BROKER_URL"]
        empty_valkey(url)
        yield url
        empty_valkey(url)


@pytest.fixture(autouse=True)
def _the_database_is_migrated(monkeypatch) -> None:
    """Let this process not look: the database of a test is migrated, and a test without one must not find another."""
    from fmv.mongodb import migration_state

    monkeypatch.setattr(migration_state, "_look_again", float("inf"))
    monkeypatch.setattr(migration_state, "_problem_seen", "")


@pytest.fixture(autouse=True)
def _this_process_goes_on(monkeypatch) -> None:
    """Forget that a task which ran in this process was to be its last."""
    from tasks.worker import process_end

    monkeypatch.setattr(process_end, "_why", "")


@pytest.fixture
def bells() -> Iterator[Callable[[], list[tuple[str, str, int]]]]:
    """Send messages to a broker in this process. Returns a function that takes them: (task, argument, priority) each.

    A module all of whose tests send messages asks for it with `usefixtures`.
    """
    from tests.support.probes import recorded_bells

    with recorded_bells() as taken:
        yield taken


def empty_valkey(url: str) -> None:
    import kombu

    with kombu.Connection(url) as connection:
        connection.default_channel.client.flushdb()


@contextmanager
def rabbitmq_alone() -> Iterator[str]:
    """Yield the URL of RabbitMQ. Its queues are for one test at a time, of whichever tests run on this machine."""
    url = os.environ["FMV_TEST_RABBITMQ"]
    with (Path(tempfile.gettempdir()) / "fmv-tests-rabbitmq.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        empty_rabbitmq(url)
        yield url
        empty_rabbitmq(url)


def empty_rabbitmq(url: str) -> None:
    import kombu

    with kombu.Connection(url) as connection:
        channel: Any = connection.default_channel
        for queue in ("work", "maintenance"):
            channel.queue_delete(queue)


@pytest.fixture
def clock(tmp_path: Path) -> clocks.ShiftedClock:
    """A clock that can be shifted, for processes that get its `environment`."""
    return clocks.ShiftedClock(tmp_path / "clock")


@pytest.fixture
def trusted_clock(db, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has seen MongoDB's clock run evenly for long."""
    from fmv.mongodb import server

    server.clock.read()
    monkeypatch.setattr(server.clock, "_even_since", float("-inf"))


@pytest.fixture
def mongodb_clock() -> Iterator[clocks.ShiftedClock]:
    """MongoDB's clock, which can be shifted."""
    from fmv.mongodb import server

    clock = clocks.mongodb_clock(os.environ["FMV_TEST_MONGODB"])
    yield clock
    clock.shift()
    server.clock.read()
    server.clock.take_jumps()


@pytest.fixture
def run_process(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a command beside the test, in the test's database: `run_process("name", *command, FMV_PORT="8001")`.

    What it prints goes to `tmp_path / "<name>.log"`, shown when the test fails. After the test it gets SIGTERM, and
    SIGKILL after 20 s.
    """
    running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                embedded_mongodb.tied(signal.SIGKILL, *command),
                env=os.environ | {"MONGODB_URI": _test_mongodb_uri(), "PYTHONPATH": str(stack.ROOT)} | environment,
                cwd=tmp_path,  # where no .env is
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        running.append((name, process))
        return process

    yield start
    for _, process in running:
        process.terminate()
    for name, process in running:
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        end_session(process.pid)
        print(f"--- {name}.log\n{(tmp_path / f'{name}.log').read_text(errors='replace')}")
    empty_valkey(os.environ["FMV_BROKER_URL"])


def end_session(leader: int) -> None:
    """Kill the processes that are left of a session, and return when they are gone.

    A process of a worker's pool, which is in a group of its own, may outlive its worker and hold the worker's
    connection to the broker, which then gives it the next message.
    """
    for process in of_session(leader):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until(lambda: not of_session(leader))


def of_session(leader: int) -> list[psutil.Process]:
    """Return the processes of a session that are no zombies."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _test_mongodb_uri() -> str:
    from django.db import connection

    return with_database(os.environ["MONGODB_URI"], connection.settings_dict["NAME"])


@pytest.fixture
def worker(transactional_db, run_process) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a Celery worker: `worker(broker_url)`, with `processes`, a `name` of its own and variables as keywords."""

    def start(
        broker_url: str, *, name: str = "worker", processes: int = 1, **environment: str
    ) -> subprocess.Popen[bytes]:
        command = [*stack.CELERY, "-Q", "work", "-n", f"{name}@%h", "-c", str(processes)]
        environment = {"FMV_BROKER_URL": broker_url, "FMV_STOP_GRACE": "1"} | environment
        return run_process(name, *command, **environment)

    return start


@pytest.fixture
def maintenance(transactional_db, run_process) -> Callable[..., subprocess.Popen[bytes]]:
    """Start the maintenance worker with beat: `maintenance(broker_url)`."""

    def start(broker_url: str, **environment: str) -> subprocess.Popen[bytes]:
        environment = {"FMV_BROKER_URL": broker_url, "FMV_STOP_GRACE": "1"} | environment
        return run_process("maintenance", *stack.MAINTENANCE, **environment)

    return start


@pytest.fixture
def web(transactional_db, run_process) -> Callable[..., str]:
    """Start the web server and return its address once it answers: `web(broker_url, FMV_ANONYMOUS="manager")`."""

    def start(broker_url: str, **environment: str) -> str:
        port = str(embedded_mongodb.free_port(None))
        environment = {"FMV_BROKER_URL": broker_url, "FMV_PORT": port, "FMV_STOP_GRACE": "1"} | environment
        process = run_process(f"web-{port}", *stack.WEB, **environment)
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or stack.answers(f"{url}/api/v1/health", "localhost"))
        assert process.poll() is None, "the web server ended by itself"
        return url

    return start


def wait_until(condition: Callable[[], object], seconds: float = 30, message: str = "waited in vain") -> None:
    """Return once `condition` holds; fail the test when that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.05)
