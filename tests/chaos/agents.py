"""The agents of a chaos run: real processes of the file that robots get, behind a proxy that breaks their network."""

import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fmv.devstack import stack
from tests.chaos.judge import NEVER, Freeze, Kill, Record, Run
from tests.chaos.world import World
from tests.support.fault_proxy import CUT, DELAY, DROP_ANSWER, DUPLICATE, LATE_DUPLICATE, LOSE, FaultProxy

ROBOT = stack.ROOT / "tests" / "support" / "marking_robot.py"
CHANCES = {LOSE: 0.03, DROP_ANSWER: 0.04, CUT: 0.02, DELAY: 0.02, DUPLICATE: 0.05, LATE_DUPLICATE: 0.03}
SHORT, LONG = (0.5, 3.0), (7.0, 13.0)  # seconds that an agent is frozen: within each lease, and longer than some
IN_A_LIFT = (4.0, 9.0)  # seconds
ANSWERS = {200, 204, 404, 409, 503}  # that an agent may get
DELIVERY_LIMIT = 60.0  # seconds from the end of all tasks until no agent has anything to send


class Driver(Protocol):
    """What the agents need of the run that they are part of."""

    stopping: dict[str, float]

    @property
    def now(self) -> float: ...
    def at(self, seconds: float, function: Callable[..., None], *args: Any) -> None: ...
    def say(self, text: str) -> None: ...
    def violation(self, text: str) -> None: ...
    def runs(self) -> list[Run]: ...
    def start(self, name: str) -> None: ...
    def stop_worker(self, name: str) -> None: ...


class Agents:
    """The agents of these robots, each with as many lanes as its robot."""

    def __init__(self, world: World, record: Record, lanes: Mapping[str, int], driver: Driver) -> None:
        self.world, self.record, self.driver = world, record, driver
        self.proxy = FaultProxy(world.url, seed=record.seed)
        self.lanes = {f"agent of {robot}": (robot, number) for robot, number in lanes.items()}

    def __enter__(self) -> None:
        self.proxy.__enter__()
        robots = [robot for robot, _ in self.lanes.values()]
        for token, (name, (_, lanes)) in zip(self.world.make_tokens(robots), self.lanes.items(), strict=True):
            home = self.world.directory / name
            home.mkdir(mode=0o700)
            (home / "token").touch(0o600)
            (home / "token").write_text(token)
            options = ("--home", str(home), "--lanes", str(lanes), "--stop-seconds", "3", "--verbose")
            self.world.agents[name] = (sys.executable, str(ROBOT), self.proxy.url, *options)
            self.driver.start(name)
        self.proxy.chances = CHANCES

    def __exit__(self, *_: object) -> None:
        self.proxy.__exit__()

    def started(self, name: str) -> None:
        if name in self.lanes:
            self.record.agents[self.world.up[name].pid] = self.lanes[name][0]

    # What happens to them.

    def plan(self, chance: random.Random, window: float, kills: int) -> None:
        names, at = list(self.lanes), self.driver.at
        for number in range(max(4, kills // 2)):
            seconds = chance.uniform(*(LONG if number % 2 else SHORT))
            at(chance.uniform(0.05, 0.9) * window, self.freeze, random.Random(chance.random()), seconds)
        for name in chance.sample(names, 2):
            at(chance.uniform(0.05, 0.95) * window, self.driver.stop_worker, name)
        for share in (0.28, 0.8):
            at(window * share, self.set_down, True)
            at(window * share + chance.uniform(*IN_A_LIFT), self.set_down, False)

    def set_down(self, is_down: bool) -> None:
        self.driver.say("No agent has a network" if is_down else "  the agents have a network again")
        self.proxy.is_down = is_down

    def choose(self, chance: random.Random) -> str | None:
        """Choose an agent that runs; one that runs a task, if there is any."""
        running = {run.pid for run in self.driver.runs() if run.end == NEVER}
        up = {name: self.world.up[name].pid for name in self.lanes if name in self.world.up}
        names = [name for name, pid in up.items() if not self.is_frozen(pid) and name not in self.driver.stopping]
        busy = [name for name in names if up[name] in running]
        return chance.choice(busy or names) if names else None

    def kill(self, chance: random.Random) -> None:
        name = self.choose(chance)
        if name is None:
            self.driver.at(self.driver.now + 0.2, self.kill, chance)
            return
        self.record.killed += 1
        pid = self.world.up[name].pid
        at, _ = self.world.kill(name)
        self.record.kills.append(Kill(at, pid, "its agent"))
        self.driver.say(f"kill -9 of the {name}")
        self.driver.at(self.driver.now + chance.uniform(0.5, 3), self.driver.start, name)

    def freeze(self, chance: random.Random, seconds: float) -> None:
        name = self.choose(chance)
        if name is None:
            self.driver.at(self.driver.now + 0.2, self.freeze, chance, seconds)
            return
        process = self.world.up[name]
        freeze = Freeze(process.pid, time.monotonic_ns())
        process.send_signal(signal.SIGSTOP)
        self.record.freezes.append(freeze)
        self.driver.say(f"SIGSTOP to the {name} for {seconds:.1f} s")
        self.driver.at(self.driver.now + seconds, self.thaw, freeze, process)

    def thaw(self, freeze: Freeze, process: Any) -> None:
        process.send_signal(signal.SIGCONT)
        freeze.end = time.monotonic_ns()

    def is_frozen(self, pid: int) -> bool:
        return any(freeze.pid == pid and freeze.end == NEVER for freeze in self.record.freezes)

    # The end.

    def drain(self) -> None:
        """Wait until the agents have sent what they have to, and check what the proxy and their logs have seen."""
        deadline = time.monotonic() + DELIVERY_LIMIT
        while (unsent := self.unsent()) and time.monotonic() < deadline:
            time.sleep(0.2)
        for path in unsent:
            self.driver.violation(f"{path} has not been sent, and not been dropped")
        odd = Counter(
            (call.method, call.path.rpartition("/")[2], call.status)
            for call in self.proxy.calls
            if call.status is not None and call.status not in ANSWERS
        )
        for (method, path, status), count in odd.items():
            self.driver.violation(f"{count} times an agent's {method} …/{path} was answered {status}")
        for name in self.lanes:
            for line in self.world.log(name).read_text().splitlines():
                if "fault of the agent" in line:
                    self.driver.violation(f"{name}: {line}")

    def unsent(self) -> list[str]:
        return [f"{name}/{path.name}" for name in self.lanes for path in self.home_of(name).glob("tasks/*.json")]

    def home_of(self, name: str) -> Any:
        return self.world.directory / name

    def faults(self) -> str:
        counted = ", ".join(f"{fault} {count}" for fault, count in sorted(self.proxy.faults().items()))
        return f"{counted}, of {len(self.proxy.calls)}"
