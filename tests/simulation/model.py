"""Robots, doorbells and workers in simulated time. It says what `tasks.worker.attempt` says, in the same order."""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import simpy
from django.conf import settings

from tasks.worker import attempt as execution

Steps = Generator[simpy.Event, Any, Any]

#: how long tasks take, by name: (random numbers, mean seconds) -> seconds
DISTRIBUTIONS: dict[str, Callable[[random.Random, float], float]] = {
    "exponential": lambda chance, mean: chance.expovariate(1 / mean),
    "constant": lambda chance, mean: mean,
    "lognormal": lambda chance, mean: mean * chance.lognormvariate(-0.5, 1),  # a few take ten times as long
}


@dataclass(frozen=True)
class Costs:
    """Seconds that things take. Measured once, see "Scale" in the README; options of the command replace them."""

    read: float = field(default=0.0003, metadata={"help": "a read of MongoDB, there and back"})
    write: float = field(default=0.001, metadata={"help": "a write, there and back, journaled"})
    read_document: float = field(default=0.00002, metadata={"help": "each document that a sweeper reads"})
    write_document: float = field(default=0.0002, metadata={"help": "each document that a sweeper writes or deletes"})
    message: float = field(default=0.001, metadata={"help": "a message: to be confirmed, and again to arrive"})
    start: float = field(default=0.002, metadata={"help": "FMV's own work around a handler"})
    read_cpu: float = field(default=0.0001, metadata={"help": "a read takes of a core of MongoDB"})
    write_cpu: float = field(default=0.0007, metadata={"help": "a write takes of a core of MongoDB"})

    @property
    def of_a_task(self) -> float:
        """Seconds that a task keeps a process besides its handler: robot, next task, start, end, and what is next."""
        return 3 * self.read + 2 * self.write + self.start


@dataclass(frozen=True)
class Plan:
    """A fleet, and what is to happen to it."""

    robots: int
    load: float  # share of the worker processes' time that its tasks ask for
    processes: int
    machines: int = 1
    seconds: float = 1.0  # that a handler takes in the mean
    distribution: str = "exponential"
    lanes: int = 1
    lost: float = 0.0  # share of doorbells that are lost, but for the sweeper's
    deaths: float = 0.0  # of each machine, an hour
    maintenance: int = 1  # processes of the maintenance worker
    costs: Costs = Costs()
    seed: int = 1

    @property
    def rate(self) -> float:
        """Tasks submitted a second."""
        return self.load * self.processes / (self.seconds + self.costs.of_a_task)


class Level:
    """A number that changes in time, and its mean."""

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
    died_at: float | None = None  # when the machine died that ran it


@dataclass(slots=True, eq=False)
class Robot:
    queue: deque[Task] = field(default_factory=deque)
    running: int = 0
    free_since: float = 0.0  # when a lane last became free
    missed_since: float | None = None  # when a doorbell was lost that nothing has made good yet


class Machine:
    """Some worker processes, and the messages that their main process holds for them."""

    def __init__(self, env: simpy.Environment, size: int) -> None:
        self.size = size
        self.processes: list[simpy.Process] = []
        self.begin(env)

    def begin(self, env: simpy.Environment) -> None:
        self.bells = simpy.Store(env)
        self.may_take = settings.CELERY_WORKER_PREFETCH_MULTIPLIER * self.size


class Broker:
    """The queue `work`: in order, to the machines in turn, while they may take more before they acknowledge."""

    def __init__(self, machines: list[Machine]) -> None:
        self.messages: deque[Robot] = deque()
        self._ready = deque(machines)

    def put(self, bell: Robot) -> None:
        self.messages.append(bell)
        self._hand_out()

    def acknowledge(self, machine: Machine) -> None:
        machine.may_take += 1
        if machine.may_take == 1:
            self._ready.append(machine)
        self._hand_out()

    def forget(self, machine: Machine) -> None:
        """Take a machine whose connection is gone for a new one, that may take as much as any."""
        if not machine.may_take:
            self._ready.append(machine)

    def _hand_out(self) -> None:
        while self.messages and self._ready:
            machine = self._ready.popleft()
            machine.may_take -= 1
            machine.bells.put(self.messages.popleft())
            if machine.may_take:
                self._ready.append(machine)


class Fleet:
    """All of it. What MongoDB knows is in the robots; `commands` counts what it is asked for."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.costs, self.env = plan, plan.costs, simpy.Environment()
        self.chance = random.Random(plan.seed)
        self.robots: dict[int, Robot] = defaultdict(Robot)
        self.waiting: dict[Robot, None] = {}  # those with queued tasks; a set that keeps its order
        self.orphans: list[tuple[float, Task]] = []  # started, their process gone: when the lease ends, and which
        self.busy, self.queued = Level(self.env), Level(self.env)
        sizes = [plan.processes // plan.machines + (n < plan.processes % plan.machines) for n in range(plan.machines)]
        self.machines = [Machine(self.env, size) for size in sizes]
        self.broker = Broker(self.machines)
        self.broker_is_up = True
        self.missed = 0  # robots whose doorbell was lost, that have not started a task since
        self.submitted = self.finished = 0
        self.ended: Counter[Robot] = Counter()  # tasks that finished, by robot, since the last tally
        self.tallied = 0.0  # up to when `count_finished` has added up
        self.measure()
        for machine in self.machines:
            self.start(machine)
        if plan.load:
            self.env.process(self.submits())
        if plan.deaths:
            self.env.process(self.deaths())

    def measure(self) -> None:
        """Forget what was counted so far, as of the time before the fleet had settled."""
        self.begun = self.env.now
        self.commands: Counter[str] = Counter()
        self.messages = 0
        self.waits: list[tuple[float, float]] = []  # of each start: seconds since queued, and since it could start
        self.repairs: list[float] = []  # seconds from a lost doorbell to the robot's next start
        self.restarts: list[float] = []  # seconds from a machine's death to its task's next start
        self.busy.reset()
        self.queued.reset()

    # Clients.

    def submits(self) -> Steps:
        while True:
            yield self.env.timeout(self.chance.expovariate(self.plan.rate))
            self.submit(self.robots[self.chance.randrange(self.plan.robots)])

    def submit(self, robot: Robot) -> None:
        """As `tasks.queue.services.submit`; of a request's own time nothing is told."""
        self.commands.update(("find robots_robot", "insert tasks_task"))
        seconds = DISTRIBUTIONS[self.plan.distribution](self.chance, self.plan.seconds)
        self.submitted += 1
        self.queue(Task(robot, seconds, self.env.now))
        self.ring(robot)

    def queue(self, task: Task, *, first: bool = False) -> None:
        """`first`: one that runs again, as it is the oldest."""
        (task.robot.queue.appendleft if first else task.robot.queue.append)(task)
        self.waiting[task.robot] = None
        self.queued.add(1)

    def ring(self, robot: Robot, *, may_be_lost: bool = True) -> None:
        """As `tasks.queue.doorbell.ring`; whoever rings waits for the broker besides."""
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

    # Workers.

    def start(self, machine: Machine) -> None:
        machine.processes = [self.env.process(self.process(machine)) for _ in range(machine.size)]

    def process(self, machine: Machine) -> Steps:
        with suppress(simpy.Interrupt):  # the machine died
            while True:
                robot = yield machine.bells.get()
                self.broker.acknowledge(machine)
                self.busy.add(1)
                try:
                    yield from self.run_next(robot)
                finally:
                    self.busy.add(-1)

    def run_next(self, robot: Robot) -> Steps:
        """As `tasks.worker.attempt.run_next`."""
        yield self.read("find robots_robot")
        over = self.env.now + execution.TURN
        while True:
            task = yield from self.claim(robot)
            if task is None:
                return
            yield from self.attempt(task)
            if self.env.now >= over:
                break
        yield self.read("find tasks_task")
        if robot.queue:
            self.ring(robot)
            yield self.env.timeout(self.costs.message)

    def claim(self, robot: Robot) -> Steps:
        """As `tasks.worker.attempt.claim`: the robot's next task, started; None without one or a free lane."""
        while True:
            yield self.read("find tasks_task")
            if not robot.queue:
                return None
            task = robot.queue[0]
            if self.plan.lanes > 1:
                yield self.read("aggregate tasks_task")
                if robot.running == self.plan.lanes:
                    return None
            yield self.write("update tasks_task")
            if task in robot.queue:  # else another process was faster, and there may be more
                return self.enter_lane(task) if robot.running < self.plan.lanes else None

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
        """Run the handler and write the outcome. Renewals of the lease are counted; nothing waits for them."""
        try:
            yield self.env.timeout(self.costs.start + task.seconds)
            if renewals := int(task.seconds // settings.FMV_RENEW_SECONDS):
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
        """When the lease ends that its process, which dies now, has last renewed."""
        age = self.env.now - task.started_at
        renewed = task.started_at + age // settings.FMV_RENEW_SECONDS * settings.FMV_RENEW_SECONDS
        return renewed + settings.FMV_LEASE_SECONDS

    def kill(self, machine: Machine) -> None:
        """End a machine with all it ran and held; another takes its place at once.

        RabbitMQ may take minutes to notice a machine that vanished, so the messages it held count as lost.
        """
        for robot in machine.bells.items:
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
