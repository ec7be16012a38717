"""Beat and the maintenance worker in simulated time: the commands and messages of each periodic step.

A step is a generator: it yields while it waits for MongoDB or the broker, and `Work` counts what it does. Its docstring
names the function that it models.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import simpy
from django.conf import settings

from fmv.mongodb.server import RECENT_LIFETIME
from tasks.jobs import EMPTY_RUN_INTERVAL
from tasks.queue import periodic
from tasks.queue.services import DELETE_STEP
from tasks.reports import endings, tallies
from tests.simulation.model import Fleet, Robot, Steps

MINUTE = tallies.MINUTE.total_seconds()
#: the commands with which `django-celery-results` stores that a job has run
RESULT = ("aggregate django_celery_results_taskresult", "insert django_celery_results_taskresult")


@dataclass
class Pass:
    """One run of a job."""

    seconds: float = 0.0
    document_seconds: float = 0.0  # the part of `seconds` that its documents take
    commands: int = 0
    read: int = 0  # documents, or entries of an index
    written: int = 0
    messages: int = 0


class Work:
    """Counts what a job does, and returns the events it waits for."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.costs, self.done = fleet, fleet.costs, Pass()

    def read(self, command: str, documents: int = 0) -> simpy.Event:
        return self._wait(command, self.costs.read, read=documents)

    def write(self, command: str, documents: int = 0) -> simpy.Event:
        return self._wait(command, self.costs.write, written=documents)

    def read_clock(self) -> simpy.Event:
        self.fleet.clock_read_at = self.fleet.env.now
        return self.read("hello")

    def recent_now(self) -> simpy.Event:
        """`fmv.mongodb.server.recent_now`."""
        is_recent = self.fleet.env.now < self.fleet.clock_read_at + RECENT_LIFETIME
        return self.fleet.env.timeout(0) if is_recent else self.read_clock()

    def change(self, command: str, documents: int) -> simpy.Event:
        """Find documents and change or delete them, in one command."""
        return self._wait(command, self.costs.write, read=documents, written=documents)

    def ring(self, robot: Robot) -> simpy.Event:
        self.done.messages += 1
        self.done.seconds += self.costs.message
        self.fleet.ring(robot, may_be_lost=False)
        return self.fleet.env.timeout(self.costs.message)

    def _wait(self, command: str, seconds: float, read: int = 0, written: int = 0) -> simpy.Event:
        self.fleet.commands[f"maintenance: {command}"] += 1
        self.done.commands += 1
        self.done.read += read
        self.done.written += written
        documents = read * self.costs.read_document + written * self.costs.write_document
        self.done.document_seconds += documents
        self.done.seconds += seconds + documents
        return self.fleet.env.timeout(seconds + documents)


# --- The jobs --------------------------------------------------------------------------------------------------------


def promote_due(work: Work) -> Steps:
    """`tasks.queue.periodic.promote_due`. No task is scheduled here, so only recovered tasks are promoted."""
    yield work.recent_now()
    yield work.read("aggregate tasks_task")


def recover_lost(work: Work) -> Steps:
    """`tasks.queue.periodic.recover_lost`, which ends with `promote_due`."""
    fleet = work.fleet
    yield work.read("aggregate tasks_task", sum(robot.running for robot in fleet.robots.values()))
    lost = [pair for pair in fleet.orphans if pair[0] < fleet.env.now][: periodic.STEP_SIZE]
    if lost:
        yield work.read("aggregate tasks_task", len(lost))
    for orphan in lost:
        fleet.orphans.remove(orphan)
        yield work.change("update tasks_task", 1)
        fleet.leave_lane(orphan[1].robot)
        yield work.write("findAndModify fmv_counter")
        yield work.ring(orphan[1].robot)
    if lost:
        yield from promote(work, [task for _, task in lost])


def promote(work: Work, tasks: list) -> Steps:
    yield work.read_clock()
    yield work.read("aggregate tasks_task", len(tasks))
    yield work.change("update tasks_task", len(tasks))
    yield work.read("aggregate robots_robot", len(tasks))
    if work.fleet.plan.lanes == 1:
        yield work.read("aggregate tasks_task")  # are older ones queued?
        yield work.read("aggregate tasks_task")  # or run?
    for task in tasks:
        task.queued_at = work.fleet.env.now
        work.fleet.queue(task, first=True)
        yield work.ring(task.robot)
    yield work.read_clock()
    yield work.read("aggregate tasks_task")


def ring_waiting(work: Work) -> Steps:
    """`tasks.queue.periodic.ring_waiting`."""
    fleet = work.fleet
    yield work.read("aggregate tasks_task", fleet.queued.value)  # documents: entries of the index task_next
    now = fleet.env.now
    first = periodic.Wait(now, periodic.PATIENCE)
    fleet.seen_waiting = waits = {robot: fleet.seen_waiting.get(robot, first) for robot in fleet.waiting}
    due = [robot for robot, wait in waits.items() if now - wait.since >= wait.patience]
    chosen = fleet.chance.sample(due, min(periodic.MAX_ROBOTS_RUNG, len(due)))
    if not chosen:
        return
    yield work.read("aggregate tasks_task", sum(robot.running for robot in chosen))
    yield work.read("aggregate robots_robot", len(chosen))
    wake_ups = []
    for robot in chosen:
        free = 0 if robot.held else fleet.plan.lanes - robot.running
        if free > 1:
            yield work.read("aggregate tasks_task", min(free, len(robot.queue)))
        longer = first._replace(patience=min(2 * waits[robot].patience, periodic.LONGEST_PATIENCE))
        waits[robot] = longer if free else first
        wake_ups += [robot] * min(free, len(robot.queue))
    if wake_ups:
        yield work.read("aggregate robots_robotstate", len({id(robot) for robot in wake_ups}))
    for robot in wake_ups:
        yield work.ring(robot)


def expire(work: Work) -> Steps:
    """`tasks.queue.periodic.expire`: one write for scheduled tasks, one for queued ones."""
    yield work.read_clock()
    yield work.write("update tasks_task")
    yield work.write("update tasks_task")


def work_on_bulks(work: Work) -> Steps:
    """`tasks.queue.bulk.work_on_bulks` without a bulk run."""
    yield work.read("aggregate tasks_bulk")


def finish_submissions(work: Work) -> Steps:
    """`tasks.queue.submissions.requeue_unfinished` when no request was cut off."""
    yield work.recent_now()
    yield work.read("aggregate tasks_submission")


def count_finished(work: Work) -> Steps:
    """`tasks.reports.tallies.roll_up`: adds up the past minute, and each robot's last outcome.

    Another process that runs before the result is stored does the same work.
    """
    fleet = work.fleet
    yield work.read_clock()
    yield work.read("aggregate tasks_tally")
    yield work.read("aggregate tasks_task", 1)
    before, settled = fleet.rolled_up_until, fleet.env.now - tallies.ROLLUP_DELAY.total_seconds()
    if settled >= before + MINUTE and fleet.ended:
        ended = Counter(fleet.ended)
        yield work.read("aggregate tasks_task", ended.total())  # the sums
        yield work.read("aggregate tasks_task", ended.total())  # the last outcome of each robot
        yield work.write("update tasks_lastoutcomes", len(ended))
        yield work.write("insert tasks_tally", 1)
        if fleet.rolled_up_until == before:
            fleet.rolled_up_until, fleet.ended = settled // MINUTE * MINUTE, fleet.ended - ended
        yield work.read("aggregate tasks_tally")
        yield work.read("aggregate tasks_task", 1)
        yield work.read("aggregate tasks_spantally")  # once an hour, the tasks that finished in it besides
        yield work.read("aggregate tasks_task", 1)
    yield work.read("aggregate tasks_tally")


def note_endings(work: Work) -> Steps:
    """`tasks.reports.endings.note`: of the tasks that were submitted since its last run, in bulks."""
    yield work.recent_now()
    yield work.read("aggregate tasks_endingsuntil", 1)
    new = round(work.fleet.plan.rate * settings.CELERY_BEAT_SCHEDULE["note_endings"]["schedule"].seconds)
    yield work.read("find tasks_task", new)
    for begun in range(0, new, endings.BATCH):
        yield work.write("update tasks_taskending", min(endings.BATCH, new - begun))
    if new:
        yield work.write("update tasks_endingsuntil", 1)


def purge(work: Work) -> Steps:
    """`tasks.queue.periodic.delete_old` of a fleet older than its retention: as many tasks are deleted as finish."""
    yield work.read_clock()
    left = round(work.fleet.plan.rate * settings.CELERY_BEAT_SCHEDULE["purge"]["schedule"].seconds)
    while True:
        step = min(DELETE_STEP, left)
        yield work.read("aggregate tasks_task", step)
        if not step:
            return
        yield work.change("delete tasks_logline", 0)
        yield work.change("delete tasks_taskending", step)
        yield work.change("delete tasks_task", step)
        left -= step


def forget_runs(work: Work) -> Steps:
    """`tasks.queue.periodic.forget_runs`: it deletes the runs that each idle job has stored since its last run."""
    beat = settings.CELERY_BEAT_SCHEDULE
    periods = [max(job["schedule"].seconds, EMPTY_RUN_INTERVAL) for job in beat.values()]
    runs = sum(beat["forget_runs"]["schedule"].seconds / period for period in periods)
    yield work.change("delete django_celery_results_taskresult", round(runs))
    yield work.change("delete django_celery_results_groupresult", 0)
    yield work.read_clock()
    yield work.change("delete tasks_workerprocess", 0)
    yield work.change("delete fmv_throttlewindow", 0)
    yield work.change("delete fmv_session", 0)
    yield work.change("delete tasks_submission", 0)
    yield work.read("aggregate fmv_auditentry")
    yield work.change("delete tasks_bulk", 0)
    yield work.change("delete robots_robotsamples", 0)
    yield work.change("delete robots_absence", 0)
    yield work.change("delete robots_importdraft", 0)
    yield work.read("aggregate tasks_spantally")
    yield work.read("aggregate tasks_task", 1)


def notice_silent(work: Work) -> Steps:
    """`robots.agents.notice_silent` of a fleet without agents."""
    yield work.read_clock()
    yield work.change("update robots_robotstate", 0)


def sample_robots(work: Work) -> Steps:
    """`robots.absences.note` and `robots.samples.take` of a fleet without agents, with all robots in service."""
    for name in ("robot", "robotstate", "absence"):
        yield work.read(f"aggregate robots_{name}")
    yield work.read("find robots_robotstate")


JOBS: dict[str, Callable[[Work], Steps]] = {
    job.__name__: job
    for job in (
        promote_due, recover_lost, work_on_bulks, ring_waiting, expire, finish_submissions, count_finished, purge,
        note_endings, forget_runs, notice_silent, sample_robots,
    )
}  # fmt: skip


# --- Beat and the worker ---------------------------------------------------------------------------------------------


@dataclass
class Maintenance:
    """Beat, the queue `maintenance` and the maintenance worker's processes."""

    fleet: Fleet
    passes: dict[str, list[Pass]] = field(default_factory=lambda: defaultdict(list))
    skipped: int = 0  # messages that expired in the queue

    def __post_init__(self) -> None:
        self._queue = simpy.Store(self.fleet.env)
        for name, job in settings.CELERY_BEAT_SCHEDULE.items():
            self.fleet.env.process(self._beat(name, job["schedule"].seconds, job["options"]["expiration"]))
        for _ in range(self.fleet.plan.maintenance):
            self.fleet.env.process(self._process())

    def _beat(self, name: str, period: float, expires: float) -> Steps:
        while True:
            yield self.fleet.env.timeout(period)
            self.fleet.messages += 1
            self._queue.put((name, self.fleet.env.now + expires))

    def _process(self) -> Steps:
        while True:
            name, expires = yield self._queue.get()
            if self.fleet.env.now > expires:
                self.skipped += 1
            else:
                yield from self.run(name)

    def run(self, name: str) -> Steps:
        work = Work(self.fleet)
        yield self.fleet.env.timeout(self.fleet.costs.message)
        yield from run_and_store(name, work)
        self.passes[name].append(work.done)

    def passes_of(self, name: str) -> list[Pass]:
        """Return the job's passes. For a job whose period is longer than the span, simulate one."""
        if name not in self.passes:
            work = Work(self.fleet)
            for _ in run_and_store(name, work):
                pass
            self.passes[name].append(work.done)
        return self.passes[name]


def run_and_store(name: str, work: Work) -> Steps:
    """Run the job, and store its result as `tasks.jobs.Step` and Celery do."""
    yield from JOBS[name](work)
    stored_at, now = work.fleet.run_stored_at, work.fleet.env.now
    if work.done.written or work.done.messages or now >= stored_at.get(name, float("-inf")) + EMPTY_RUN_INTERVAL:
        stored_at[name] = now
        yield work.read(RESULT[0])
        yield work.write(RESULT[1])
