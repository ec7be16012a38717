"""Robots, wake-up messages and workers in simulated time: the steps of `tasks.worker`, in the same order."""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import simpy
from django.conf import settings

from tasks.queue import periodic
from tasks.worker import claim as claiming

Steps = Generator[simpy.Event, Any, Any]

#: name -> function of (random numbers, mean seconds) that returns the seconds of a task
DISTRIBUTIONS: dict[str, Callable[[random.Random, float], float]] = {
    "exponential": lambda chance, mean: chance.expovariate(1 / mean),
    "constant": lambda chance, mean: mean,
    "lognormal": lambda chance, mean: mean * chance.lognormvariate(-0.5, 1),  # a few take ten times as long
}


@dataclass(frozen=True)
class Costs:
    """Costs in seconds. The defaults were measured once (README.md, "Costs"); the command's options replace them."""

    read: float = field(default=0.0003, metadata={"help": "a read of MongoDB, round trip"})
    write: float = field(default=0.001, metadata={"help": "a journaled write, round trip"})
    read_document: float = field(default=0.00002, metadata={"help": "each document that a periodic step reads"})
    write_document: float = field(
        default=0.0002, metadata={"help": "each document that a periodic step writes or deletes"}
    )
    message: float = field(
        default=0.001, metadata={"help": "the confirmation of a message, and as long again its arrival"}
    )
    start: float = field(default=0.002, metadata={"help": "FMV's own work around a handler"})
    read_cpu: float = field(default=0.0001, metadata={"help": "CPU time of MongoDB for a read"})
    write_cpu: float = field(default=0.0007, metadata={"help": "CPU time of MongoDB for a write"})

    @property
    def of_a_task(self) -> float:
        """Seconds that a task occupies a process beside its handler: two reads, two writes and FMV's own work."""
        return 2 * self.read + 2 * self.write + self.start


@dataclass(frozen=True)
class Plan:
    """A fleet, its load and its faults."""

    robots: int
    load: float  # share of the worker processes' time that its tasks need
    processes: int
    machines: int = 1
    seconds: float = 1.0  # mean time of a handler
    distribution: str = "exponential"
    lanes: int = 1
    lost: float = 0.0  # share of wake-up messages that are lost, except those of `ring_waiting`
    deaths: float = 0.0  # of each machine in an hour
    maintenance: int = 1  # processes of the maintenance worker
    costs: Costs = Costs()
    seed: int = 1

    @property
    def rate(self) -> float:
        """Submitted tasks a second."""
        return self.load * self.processes / (self.seconds + self.costs.of_a_task)


class Level:
    """A number that changes over time, and its mean."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env, self.value = env, 0
        self.reset()

    def reset(self) -> None:
        self._area, self._since = 0.0, self._env.now
        self._changed = self._since

    def add(self, difference: int) -> None:
        self._area += self.value * (self._env.now - self._changed)
        self._changed = self._env.now
        self.value += difference

    @property
    def mean(self) -> float:
        self.add(0)
        return self._area / (self._env.now - self._since)


@dataclass(slots=True, eq=False)
class Task:
    robot: Robot
    seconds: float
    queued_at: float
    started_at: float = 0.0
    died_at: float | None = None  # when its machine died


@dataclass(slots=True, eq=False)
class Robot:
    queue: deque[Task] = field(default_factory=deque)
    running: int = 0
    free_since: float = 0.0  # when a lane last became free
    missed_since: float | None = None  # when a message for it was lost, until its next start
    held: bool = False  # somebody holds its queue


@dataclass(slots=True, eq=False)
class Turn:
    """A process's turn at one robot."""

    robot: Robot
    has_lane: bool  # it knows on which lane it may start a task
    pace: float | None  # seconds that the last task of the process took
    found: list[Task] = field(default_factory=list)
    held: bool = False  # the queue, as the last look has seen it
    looked: float = float("-inf")


class Machine:
    """Some worker processes, and the messages that their main process has reserved for them."""

    def __init__(self, env: simpy.Environment, size: int) -> None:
        self.size = size
        self.processes: list[simpy.Process] = []
        self.begin(env)

    def begin(self, env: simpy.Environment) -> None:
        self.messages = simpy.Store(env)
        self.may_take = settings.CELERY_WORKER_PREFETCH_MULTIPLIER * self.size


class Broker:
    """The queue `work`: delivers in order, to the machines in turn, up to each machine's prefetch."""

    def __init__(self, machines: list[Machine]) -> None:
        self.messages: deque[Robot] = deque()
        self._ready = deque(machines)

    def put(self, robot: Robot) -> None:
        self.messages.append(robot)
        self._deliver()

    def acknowledge(self, machine: Machine) -> None:
        machine.may_take += 1
        if machine.may_take == 1:
            self._ready.append(machine)
        self._deliver()

    def forget(self, machine: Machine) -> None:
        """Treat a machine that has lost its connection as a new one, to which nothing is delivered yet."""
        if not machine.may_take:
            self._ready.append(machine)

    def _deliver(self) -> None:
        while self.messages and self._ready:
            machine = self._ready.popleft()
            machine.may_take -= 1
            machine.messages.put(self.messages.popleft())
            if machine.may_take:
                self._ready.append(machine)


class Fleet:
    """Robots, workers and broker. The robots hold MongoDB's data; `commands` counts the commands to MongoDB."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.costs, self.env = plan, plan.costs, simpy.Environment()
        self.chance = random.Random(plan.seed)
        self.robots: dict[int, Robot] = defaultdict(Robot)
        self.waiting: dict[Robot, None] = {}  # robots with queued tasks, in order: a dict, because a set has no order
        self.orphans: list[tuple[float, Task]] = []  # (end of the lease, task) of started tasks whose process died
        self.busy, self.queued = Level(self.env), Level(self.env)
        sizes = [plan.processes // plan.machines + (n < plan.processes % plan.machines) for n in range(plan.machines)]
        self.machines = [Machine(self.env, size) for size in sizes]
        self.broker = Broker(self.machines)
        self.broker_is_up = True
        self.missed = 0  # robots whose message was lost and that have not started a task since
        self.submitted = self.finished = 0
        self.ended: Counter[Robot] = Counter()  # finished tasks by robot since the last rollup
        self.seen_waiting: dict[Robot, periodic.Wait] = {}  # what the sweeper remembers
        self.rolled_up_until = 0.0  # the end of the last rollup
        self.clock_read_at = float("-inf")  # the maintenance worker's last reading of MongoDB's clock
        self.run_stored_at: dict[str, float] = {}  # when a run of each periodic step was stored last
        self.measure()
        for machine in self.machines:
            self.start(machine)
        if plan.load:
            self.env.process(self.submits())
        if plan.deaths:
            self.env.process(self.deaths())

    def measure(self) -> None:
        """Reset all counts: what happened while the fleet settled does not count."""
        self.begun = self.env.now
        self.commands: Counter[str] = Counter()
        self.messages = 0
        self.waits: list[
            tuple[float, float]
        ] = []  # for each start: seconds since the task was queued, and since it could start
        self.repairs: list[float] = []  # seconds from a lost message to the robot's next start
        self.restarts: list[float] = []  # seconds from a machine's death to the next start of its task
        self.busy.reset()
        self.queued.reset()

    # Clients.

    def submits(self) -> Steps:
        while True:
            yield self.env.timeout(self.chance.expovariate(self.plan.rate))
            self.submit(self.robots[self.chance.randrange(self.plan.robots)])

    def submit(self, robot: Robot) -> None:
        """Do what `tasks.queue.services.submit` does. The time of the request itself is not simulated."""
        self.commands.update(("find robots_robot", "insert tasks_task"))
        seconds = DISTRIBUTIONS[self.plan.distribution](self.chance, self.plan.seconds)
        self.submitted += 1
        self.queue(Task(robot, seconds, self.env.now))
        if not robot.held:
            self.ring(robot)

    def queue(self, task: Task, *, first: bool = False) -> None:
        """Queue the task; `first`: before the others, because a task that runs again is the oldest."""
        (task.robot.queue.appendleft if first else task.robot.queue.append)(task)
        self.waiting[task.robot] = None
        self.queued.add(1)

    def ring(self, robot: Robot, *, may_be_lost: bool = True) -> None:
        """Do what `tasks.queue.doorbell.ring` does. The caller simulates the wait for the broker's confirmation."""
        self.messages += 1
        if not self.broker_is_up or (may_be_lost and self.chance.random() < self.plan.lost):
            self.miss(robot)
            return
        arrival = self.env.timeout(self.costs.message)
        arrival.callbacks.append(lambda _: self.broker.put(robot))

    def miss(self, robot: Robot) -> None:
        if robot.missed_since is None:
            robot.missed_since = self.env.now
            self.missed += 1

    # Operators.

    def release(self, robot: Robot) -> None:
        """Do what `tasks.queue.services.release_queue` does. To hold it is to set `held`."""
        robot.held = False
        if robot.queue:
            for _ in range(self.plan.lanes):
                self.ring(robot)

    def put_first(self, task: Task) -> None:
        """Do what `tasks.queue.place.put_first` does: what a process has seen before stays as it was seen."""
        task.robot.queue.remove(task)
        task.robot.queue.appendleft(task)

    # Workers.

    def start(self, machine: Machine) -> None:
        machine.processes = [self.env.process(self.process(machine)) for _ in range(machine.size)]

    def process(self, machine: Machine) -> Steps:
        pace = None
        with suppress(simpy.Interrupt):  # the machine died
            while True:
                robot = yield machine.messages.get()
                self.broker.acknowledge(machine)
                self.busy.add(1)
                try:
                    pace = yield from self.run_next(robot, pace)
                finally:
                    self.busy.add(-1)

    def run_next(self, robot: Robot, pace: float | None) -> Steps:
        """Do what `tasks.worker.claim.run_next` does; return the new pace of the process."""
        turn = Turn(robot, self.plan.lanes == 1, pace)
        over = self.env.now + claiming.TIME_SLICE
        while True:
            begun = self.env.now
            task = yield from self.claim(turn)
            if task is None:
                return turn.pace
            yield from self.attempt(task)
            turn.pace = self.env.now - begun
            if self.env.now >= over:
                break
        if not turn.found:
            yield from self.look(turn)
        if turn.found and not turn.held:
            self.ring(robot)
            yield self.env.timeout(self.costs.message)
        return turn.pace

    def look(self, turn: Turn) -> Steps:
        """Do what `tasks.worker.claim.Turn._look` does."""
        turn.looked = self.env.now
        ahead = int(claiming.LOOK_LIFETIME / turn.pace) if turn.pace and self.plan.lanes == 1 else 0
        yield self.read("aggregate tasks_task")
        turn.held = turn.robot.held
        turn.found = list(islice(turn.robot.queue, 1 + min(ahead, claiming.MAX_AHEAD - 1)))

    def claim(self, turn: Turn) -> Steps:
        """Do what `tasks.worker.claim.Turn.claim` does: start and return the robot's next task, or return None."""
        robot = turn.robot
        while True:
            if not turn.found or self.env.now - turn.looked >= claiming.LOOK_LIFETIME:
                yield from self.look(turn)
            if not turn.found or turn.held:
                return None
            task = turn.found.pop(0)
            if not turn.has_lane:
                yield self.read("aggregate tasks_task")
                if robot.running == self.plan.lanes:
                    return None
            yield self.write("update tasks_task")
            if task in robot.queue:  # otherwise another process was faster, and there may be more tasks
                turn.has_lane = True
                return self.enter_lane(task) if robot.running < self.plan.lanes else None
            turn.found.clear()

    def enter_lane(self, task: Task) -> Task:
        robot, now = task.robot, self.env.now
        robot.queue.remove(task)
        if not robot.queue:
            del self.waiting[robot]
        self.queued.add(-1)
        robot.running += 1
        task.started_at = now
        self.waits.append((now - task.queued_at, now - max(task.queued_at, robot.free_since)))
        if robot.missed_since is not None:
            self.repairs.append(now - robot.missed_since)
            robot.missed_since = None
            self.missed -= 1
        if task.died_at is not None:
            self.restarts.append(now - task.died_at)
            task.died_at = None
        return task

    def attempt(self, task: Task) -> Steps:
        """Run the handler and write the outcome. Lease renewals are counted but take no time."""
        try:
            yield self.env.timeout(self.costs.start + task.seconds)
            if renewals := int(task.seconds // settings.ENVIRONMENT.renew_seconds):
                self.commands["renew: update tasks_task"] += renewals
            yield self.write("update tasks_task")
        except simpy.Interrupt:
            task.died_at = self.env.now
            self.orphans.append((self.lease_end(task), task))
            raise
        self.finished += 1
        self.ended[task.robot] += 1
        self.leave_lane(task.robot)

    def leave_lane(self, robot: Robot) -> None:
        if robot.running == self.plan.lanes:
            robot.free_since = self.env.now
        robot.running -= 1

    def lease_end(self, task: Task) -> float:
        """Return when the task's lease ends if its process dies now."""
        age = self.env.now - task.started_at
        renewed = task.started_at + age // settings.ENVIRONMENT.renew_seconds * settings.ENVIRONMENT.renew_seconds
        return renewed + settings.ENVIRONMENT.lease_seconds

    def kill(self, machine: Machine) -> None:
        """Kill a machine with its running tasks and reserved messages; another machine replaces it at once.

        RabbitMQ may take minutes to notice that a machine has vanished, so its reserved messages count as lost.
        """
        for robot in machine.messages.items:
            self.miss(robot)
        self.broker.forget(machine)
        for process in machine.processes:
            process.interrupt()
        machine.begin(self.env)
        self.start(machine)

    def deaths(self) -> Steps:
        while True:
            yield self.env.timeout(self.chance.expovariate(self.plan.deaths * len(self.machines) / 3600))
            self.kill(self.chance.choice(self.machines))

    # MongoDB.

    def read(self, command: str) -> simpy.Event:
        self.commands[command] += 1
        return self.env.timeout(self.costs.read)

    def write(self, command: str) -> simpy.Event:
        self.commands[command] += 1
        return self.env.timeout(self.costs.write)
