"""The development stack: everything FMV needs, started by one command and stopped by Ctrl-C.

`python -m fmv.devstack.stack run` checks ports and servers, starts an embedded MongoDB and an embedded Valkey server
unless the environment names MongoDB and a broker, prepares the database, and runs the web server, both workers and the
agents of two sample robots. State is under `var/`.
"""

import ipaddress
import multiprocessing
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn
from urllib.error import URLError
from urllib.request import Request, urlopen

import honcho.compat
import honcho.manager
import honcho.printer

from fmv.devstack.embedded_mongodb import StackError, check_port, embedded_mongodb, end_with_parent, tied
from fmv.devstack.embedded_valkey import embedded_valkey
from fmv.environment import Environment, read_environment
from fmv.escaping import visible_lines

ROOT = Path(__file__).resolve().parents[2]
VAR = ROOT / "var"
MONGODB_PORT = 27018  # any free port if this one is taken
TIMEOUT = 3.0  # seconds for an answer of a server that the environment names

CELERY = (sys.executable, "-m", "celery", "--quiet", "-A", "fmv", "worker")
WEB = (sys.executable, "-m", "gunicorn", "-c", "python:fmv.server.gunicorn", "fmv.wsgi")
MAINTENANCE = (*CELERY, "-Q", "maintenance", "-n", "maintenance@%h", "-c", "1", "-B")
SAMPLE_ROBOT = ROOT / "robots" / "agent" / "sample_robot.py"
AGENT = "agent"  # how the names of their processes begin
AGENTS_GRACE = 5.0  # seconds in which they stop before the web server does
AGENTS = VAR / "agents"  # a directory for each, with its token
WITH_AGENTS = ("Bender", "Wall-E")


def worker_command(processes: int) -> tuple[str, ...]:
    return (*CELERY, "-Q", "work", "-n", "work@%h", "-c", str(processes))


def main() -> int:
    steps = {
        "run": run,
        "prepare": prepare,
        "announce": announce,
        "sample_agent": sample_agent,
        "with_database": with_database,
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.chdir(ROOT)
    try:
        return steps[sys.argv[1]]()
    except StackError as error:
        print(f"fmv: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # of files: a socket's or a server's is a StackError by now
        if error.filename is None:
            raise
        print(f"fmv: cannot use {error.filename} ({error.strerror}); FMV keeps its state in {VAR}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def run() -> int:
    os.environ.setdefault("FMV_DEBUG", "1")
    environment = read_environment()
    given = environment.model_fields_set  # by the environment or .env
    check_port(environment.host, environment.port)
    if "mongodb_uri" in given:
        check_mongodb(environment.mongodb_uri)
    if "broker_url" in given:
        check_broker(environment.broker_url)
    VAR.mkdir(exist_ok=True)
    with ExitStack() as parts:
        defaults = development_defaults(environment.host)
        if "mongodb_uri" not in given:
            mongodb = embedded_mongodb(VAR / "mongodb", MONGODB_PORT, needed=True)
            defaults["mongodb_uri"] = parts.enter_context(mongodb) + "fmv"
        if "broker_url" not in given:
            defaults["broker_url"] = parts.enter_context(embedded_valkey(VAR / "valkey", needed=True))
        os.environ.update({_variable(name): value for name, value in defaults.items() if name not in given})
        keep_environment(VAR / "environment")
        prepared = subprocess.run(
            [sys.executable, "-m", "fmv.devstack.stack", "prepare"], stdout=subprocess.PIPE, text=True, check=False
        )
        if prepared.returncode:
            raise StackError("the database could not be prepared; see the lines above.")
        login, *agents = prepared.stdout.splitlines()
        return run_processes(read_environment(), login, agents)


def development_defaults(host: str) -> dict[str, str]:
    """Return values for the fields of Environment that are not set, except the addresses of the servers."""
    return {
        "secret_key": secret_key(VAR / "secret-key"),
        "anonymous": "manager" if is_loopback(host) else "none",
        "allowed_hosts": f"localhost,127.0.0.1,[::1],{host}",
        "stop_grace": "3",
    }


def keep_environment(path: Path) -> None:
    """Write the variables with which a command finds this stack (`make manage`); only the owner can read them."""
    names = [_variable(field) for field in Environment.model_fields]
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(f"export {name}={shlex.quote(os.environ[name])}\n" for name in names if name in os.environ)


def _variable(field: str) -> str:
    return str(Environment.model_fields[field].alias)


def secret_key(path: Path) -> str:
    """Return the key stored in `path`, and store a new one the first time."""
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(48))
    return path.read_text()


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- Checks ----------------------------------------------------------------------------------------------------------


def check_mongodb(uri: str) -> None:
    """Raise StackError unless the MongoDB at `uri` answers and accepts its user."""
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    milliseconds = int(TIMEOUT * 1000)
    try:
        with MongoClient[dict[str, Any]](
            uri, serverSelectionTimeoutMS=milliseconds, connectTimeoutMS=milliseconds, socketTimeoutMS=milliseconds
        ) as client:
            client.get_default_database("fmv").command("listCollections", nameOnly=True, authorizedCollections=True)
    except PyMongoError as error:
        reason = str(error).partition(" (configured timeouts")[0].partition(", Timeout:")[0]
        raise StackError(f"no usable MongoDB answers at MONGODB_URI={without_password(uri)} ({reason}).") from None


def check_broker(url: str) -> None:
    """Raise StackError unless the broker at `url` answers and accepts its user."""
    import kombu

    timeouts = {"read_timeout": TIMEOUT, "write_timeout": TIMEOUT, "socket_timeout": TIMEOUT}
    connection = kombu.Connection(url, connect_timeout=TIMEOUT, transport_options=timeouts)
    try:
        connection.transport.close_connection(connection.transport.establish_connection())
    except connection.connection_errors + connection.channel_errors as error:
        raise StackError(f"no usable broker answers at FMV_BROKER_URL={without_password(url)} ({error}).") from None


def without_password(url: str) -> str:
    """Return the URL without the user's password and without options, of which some are passwords too."""
    scheme, _, rest = url.partition("://")
    user, at, where = rest.rpartition("@")  # the last one, because a wrong URI may have more in its password
    return f"{scheme}://{re.split('[:/?]', user)[0]}{at}{where.partition('?')[0]}"


def with_database() -> int:
    """Run the command given as arguments, with an empty embedded server of its own as MONGODB_URI."""
    with TemporaryDirectory() as directory, embedded_mongodb(Path(directory) / "mongodb") as server:
        return subprocess.run(sys.argv[2:], env=os.environ | {"MONGODB_URI": f"{server}fmv"}, check=False).returncode


# --- Preparing the database ------------------------------------------------------------------------------------------


def prepare() -> int:
    """Migrate; the first time, add the sample robots and the administrator.

    Print how to sign in, then the names of the robots whose sample agents can run, one a line.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fmv.settings")
    import django
    from django.core.management import call_command
    from django.db import connection
    from django.db.migrations.recorder import MigrationRecorder

    django.setup()
    is_new = not any(app == "robots" for app, _ in MigrationRecorder(connection).applied_migrations())
    call_command("migrate", interactive=False, verbosity=0)
    if is_new:  # only once, so that deleted robots do not come back
        call_command("sample_robots", stdout=sys.stderr)
        make_tokens()
    call_command(
        "ensure_admin", password_file=VAR / "admin-password", stdout=StringIO()
    )  # the banner prints the password
    print(sign_in(VAR / "admin-password"), *robots_with_tokens(), sep="\n")
    return 0


def make_tokens() -> None:
    """Store a token for each sample agent, and keep its text where the agent finds it."""
    from fmv.accounts import api_tokens

    shutil.rmtree(AGENTS, ignore_errors=True)  # of another database
    for robot in WITH_AGENTS:
        token = api_tokens.build_for_robot(robot)
        api_tokens.store(token, by="command")
        (AGENTS / robot).mkdir(mode=0o700, parents=True)
        with os.fdopen(os.open(AGENTS / robot / "token", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(token.text)


def robots_with_tokens() -> list[str]:
    """Return the robots whose sample agents have a token that is still usable: of deleted robots it is not."""
    from fmv.accounts import api_tokens
    from fmv.accounts.models import ApiToken

    kept = {robot: AGENTS / robot / "token" for robot in WITH_AGENTS}
    digests = {robot: api_tokens.digest_of(path.read_text()) for robot, path in kept.items() if path.exists()}
    usable = {token.pk for token in ApiToken.objects.filter(pk__in=[*digests.values()]).usable()}
    return [robot for robot, digest in digests.items() if digest in usable]


def sign_in(password_file: Path) -> str:
    from fmv.accounts.models import User

    admin = User.objects.filter(username="admin").first()
    password = password_file.read_text().strip() if password_file.exists() else ""
    if admin and password and admin.check_password(password):
        return f"admin, password {password}"
    return "as the administrator of this database"


# --- Running ---------------------------------------------------------------------------------------------------------


def run_processes(environment: Environment, login: str, agents: list[str]) -> int:
    """Run the web server, the workers and the sample agents of these robots.

    When one of them ends, or at SIGINT or SIGTERM, stop them all.
    """
    honcho.manager.KILL_WAIT = environment.stop_grace + 10
    multiprocessing.set_start_method("fork")
    # honcho runs a process of its own for each command
    os.register_at_fork(after_in_child=partial(end_with_parent, os.getpid()))
    printer = Printer()
    manager = AgentsFirst(printer)
    manager._procmgr = MainProcesses()
    own = {**os.environ, "PYTHONUNBUFFERED": "1"}
    step = (sys.executable, "-m", "fmv.devstack.stack")
    for name, command, also in (
        ("web", WEB, {}),
        ("worker", worker_command(environment.worker_processes), {}),
        ("maintenance", MAINTENANCE, {}),
        ("fmv", (*step, "announce"), {"STACK_LOGIN": login}),
        *(
            (f"{AGENT}{number}", (*step, "sample_agent", robot), {})
            for number, robot in enumerate(agents[: environment.sample_agents], 1)
        ),
    ):
        line = shlex.join(tied(signal.SIGKILL, *command, parent="PARENT")).replace(" PARENT ", " $PPID ")
        manager.add_process(name, f"exec {line}", env=own | also)
    manager.loop()
    if manager.returncode in (130, 143):  # stopped by SIGINT or SIGTERM
        return 0
    raise StackError(f"the process {printer.first_to_stop} ended by itself, so everything was stopped.")


class AgentsFirst(honcho.manager.Manager):
    """Stops the agents before all others: they give their tasks back through the web server, and say goodbye."""

    def _killall(self, force: bool = False) -> None:
        running = {name: process["pid"] for name, process in self._processes.items() if "returncode" not in process}
        agents = [] if force else [pid for name, pid in running.items() if name.startswith(AGENT)]
        for pid in agents:
            self._procmgr.terminate(pid)
        deadline = time.monotonic() + AGENTS_GRACE
        while any(map(is_there, agents)) and time.monotonic() < deadline:
            time.sleep(0.05)
        super()._killall(force)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class MainProcesses(honcho.compat.ProcessManager):
    """Stops only the main process of each command, which lets its other processes finish their work."""

    def terminate(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


class Printer(honcho.printer.Printer):
    """Prints the prefixed lines with hidden characters escaped, and records which process was the first to stop."""

    first_to_stop = ""

    def write(self, message: honcho.printer.Message) -> None:
        name, _, event = str(message.data).partition(" ")
        if message.name == honcho.manager.SYSTEM_PRINTER_NAME and event.startswith("stopped"):
            self.first_to_stop = self.first_to_stop or f"{name} {event.strip().removeprefix('stopped ')}"
        text = message.data.decode("utf-8", "replace") if isinstance(message.data, bytes) else str(message.data)
        super().write(message._replace(data=visible_lines(text)))


BANNER = """
FMV is up.

  API      {url}/api/v1/robot/
  docs     {url}/api/v1/docs
  admin    {url}/admin/  (sign in as {login})

{anonymous}
Ctrl-C stops everything.
"""


def announce() -> NoReturn:
    """Print the addresses once the web server answers, then wait for the end."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    environment = read_environment()
    url = url_of_web_server(environment)
    anonymous = f"Callers who have not signed in have the role {environment.anonymous}"
    if environment.anonymous == "none":
        anonymous = "Callers must sign in: FMV_ANONYMOUS is none."
    elif is_loopback(environment.host):
        anonymous += ", because only this machine can reach it."
    else:
        anonymous += ", although other machines can reach it: FMV_ANONYMOUS is set so."
    print(BANNER.format(url=url, login=os.environ["STACK_LOGIN"], anonymous=anonymous), flush=True)
    while True:
        signal.pause()


def url_of_web_server(environment: Environment) -> str:
    """Return the web server's URL once it answers."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(environment.host, environment.host)
    url = f"http://[{host}]:{environment.port}" if ":" in host else f"http://{host}:{environment.port}"
    while not answers(f"{url}/api/v1/health", environment.allowed_hosts[0]):
        time.sleep(0.2)
    return url


def sample_agent() -> NoReturn:
    """Run the agent of the sample robot that the argument names, once the web server answers, until SIGTERM.

    If it ends by itself, start it again, as a robot would.
    """
    agent: subprocess.Popen[bytes] | None = None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    url = url_of_web_server(read_environment())
    command = (sys.executable, str(SAMPLE_ROBOT), url, "--home", str(AGENTS / sys.argv[2]), "--stop-seconds", "2")
    try:
        while True:
            agent = subprocess.Popen(tied(signal.SIGKILL, *command))
            print(f"The agent ended by itself (rc={agent.wait()}). It is started again in 5 s.", flush=True)
            time.sleep(5)
    finally:
        if agent:
            agent.terminate()
            agent.wait()


def answers(url: str, host: str) -> bool:
    """Return whether `url` answers 200 to a client that sends `host` as its Host header."""
    try:
        with urlopen(Request(url, headers={"Host": host}), timeout=2) as response:  # nosec B310
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(main())
