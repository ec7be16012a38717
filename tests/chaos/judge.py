"""The checks of a chaos run, from two sides.

The marks that handlers left in an append-only file, and the times at which processes ended, show what really ran. The
API shows how each task ended. They must agree with each other and with FMV's promises.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MarkTime = Callable[[str], int]  # converts a time of the API to the clock of the marks

NEVER = 2**63  # later than any time
SECOND = 10**9
DISABLE_MARGIN = 3 * SECOND  # a claim may have begun before its robot was disabled
FINISHED = ("SUCCESS", "FAILURE", "REVOKED")
MUST_BE_0 = ("unfinished", "overlaps", "doubled", "out_of_order")
LANE_FREED = "the robot was heard: its lane is free"  # after the end of a task that kept its lane
ORDER_MARGIN = 3 * SECOND  # a claim may have looked so long before it starts what it has seen
THAW_MARGIN = 2 * SECOND  # in which a robot that was frozen notices that it has lost a task, and stops
RESUMED = "robot.walk"  # the handler that goes on after a restart of its agent
#: the handlers whose tasks another attempt may take while their robot is frozen, because it is silent for longer
LET_GO = ("robot.careful", RESUMED)
_MARK = re.compile(r"(\d+) (\S+) (\d+) ('.*'|\S+) (\S+) (\d+)(?: (.*))?")


@dataclass
class Run:
    """An attempt as its handler marked it. Times are those of `time.monotonic_ns()`, the same for all processes."""

    robot: str
    task: str
    attempt: int
    pid: int
    start: int
    end: int = NEVER
    complete: bool = False
    steps: list[int] = field(default_factory=list)
    gone: int = NEVER  # since when others may run: since its end, or since its process was frozen and then gave it up

    def __str__(self) -> str:
        return f"attempt {self.attempt} of task {self.task} in process {self.pid}"


class Kill(NamedTuple):
    at: int
    pid: int
    kind: str


@dataclass
class Freeze:
    """A time during which an agent's process was stopped."""

    pid: int
    start: int
    end: int = NEVER


class Wait(NamedTuple):
    """How long a task waited after a SIGKILL until it ran again or had ended."""

    seconds: float
    kill: Kill
    task: str
    during_outage: bool  # the broker or the database was down meanwhile


@dataclass
class Record:
    """What the driver did, and which answers it got."""

    lanes: dict[str, int] = field(default_factory=dict)
    expected: dict[str, str] = field(default_factory=dict)  # label of a submit -> status
    answered: dict[str, str] = field(default_factory=dict)  # label -> id of the task in the answer
    deaths: dict[int, int] = field(default_factory=dict)  # process -> time
    kills: list[Kill] = field(default_factory=list)  # of pool processes and agents
    agents: dict[int, str] = field(default_factory=dict)  # process -> its robot
    freezes: list[Freeze] = field(default_factory=list)  # of agents
    cancels: list[tuple[str, int, int]] = field(default_factory=list)  # task, attempt and HTTP status in the answer
    cancel_attempts: set[str] = field(default_factory=set)  # tasks; the answer may be lost
    disabled: list[tuple[str, int, int]] = field(default_factory=list)  # robot, from, to
    outages: list[tuple[int, int]] = field(default_factory=list)  # of RabbitMQ or MongoDB: from, to
    refused: int = 0  # submits answered with 503
    broken: int = 0  # submits whose connection broke
    killed: int = 0  # SIGKILLs of pool processes, workers and agents
    restarted: int = 0  # workers that ended after a kill of their pool process, and were started again
    seed: int = 0
    violations: list[str] = field(default_factory=list)


def read_runs(lines: Iterable[str], deaths: Mapping[int, int], agents: Collection[int] = ()) -> list[Run]:
    """Return the runs that the marks show. A run without a last mark ended with its process.

    A process of a worker runs one attempt at a time, and one of `agents` as many as its robot has lanes.
    """
    runs: list[Run] = []
    running: dict[Any, Run] = {}
    for at, word, pid, robot, task, attempt, more in sorted(map(_read_mark, lines)):
        whose = (pid, task, attempt) if pid in agents else pid
        if word == "step" and whose in running:
            running[whose].steps.append(int(more))
            continue
        run = running.pop(whose, None)
        if word == "start":
            if run:
                run.end = at
            run = running[whose] = Run(robot, task, attempt, pid, start=at)
            runs.append(run)
        elif run:
            run.end, run.complete = at, word == "end"
    for run in running.values():
        run.end = max(run.start, deaths.get(run.pid, NEVER))
    for run in runs:
        run.gone = run.end
    return runs


def _read_mark(line: str) -> tuple[int, str, int, str, str, int, str]:
    found = _MARK.fullmatch(line)
    assert found, line
    at, word, pid, robot, task, attempt, more = found.groups()
    return int(at), word, int(pid), robot.strip("'\""), task, int(attempt), more or ""


def let_go(runs: Iterable[Run], freezes: Iterable[Freeze]) -> None:
    """Note for these runs if they were frozen and gave up soon after: a frozen robot may lose its task to another."""
    for freeze in freezes:
        for run in runs:
            was_frozen = run.pid == freeze.pid and run.start <= freeze.start < run.end
            if was_frozen and not run.complete and run.end <= freeze.end + THAW_MARGIN:
                run.gone = freeze.start


def overlaps(runs: Iterable[Run], lanes: Mapping[str, int]) -> Iterator[str]:
    """Yield a sentence for each run that started without a free lane, or beside another attempt of its task."""
    under_way: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.start):
        others = under_way[run.robot] = [other for other in under_way[run.robot] if other.gone > run.start]
        same_task = [other for other in others if other.task == run.task]
        if same_task or len(others) >= lanes[run.robot]:
            beside = ", ".join(map(str, same_task or others))
            yield f"overlap: {run} of {run.robot} ({lanes[run.robot]} lanes) started beside {beside}"
        others.append(run)


def recoveries(record: Record, runs: Iterable[Run], ended: Mapping[str, int]) -> list[Wait]:
    """Return a Wait for each run that a SIGKILL ended, longest first."""
    kills = {kill.pid: kill for kill in record.kills}
    starts: dict[str, list[int]] = defaultdict(list)
    for run in runs:
        starts[run.task].append(run.start)
    waits = []
    for run in runs:
        kill = kills.get(run.pid)
        if kill and run.end == max(run.start, kill.at) and not run.complete:
            after = [at for at in (*starts[run.task], ended.get(run.task, NEVER)) if at > kill.at]
            until = min(after, default=NEVER)
            during_outage = any(start < until and end > kill.at for start, end in record.outages)
            waits.append(Wait((until - kill.at) / SECOND, kill, run.task, during_outage))
    return sorted(waits, reverse=True)


def percentile(values: list[float], share: float) -> float | None:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 2) if ordered else None


def check_answers(record: Record, tasks: list[dict[str, Any]]) -> Iterator[str]:
    """Check that each accepted submit made one task."""
    labels = {label: task["task_id"] for task in tasks for label in task["labels"]}
    for label, id in record.answered.items():
        if labels.get(label) != id:
            yield f"lost: submit {label} was answered with task {id}, which does not exist"
    for label, count in Counter(label for task in tasks for label in task["labels"]).items():
        if count > 1 and label in record.expected:
            yield f"submit {label} made {count} tasks"


def check_history(task: dict[str, Any]) -> Iterator[str]:
    """Check that the task reached one final status and kept it, and that its attempts count up by one."""
    steps = [(step["status"], step["attempt"]) for step in task["history"] if step.get("note") != LANE_FREED]
    ends = [status for status, _ in steps if status in FINISHED]
    if ends != ([task["status"]] if task["status"] in FINISHED else []) or (ends and steps[-1][0] not in FINISHED):
        yield f"task {task['task_id']} is {task['status']}, its history says {steps}"
    starts = list(dict.fromkeys(attempt for status, attempt in steps if status == "STARTED"))
    if starts != list(range(1, len(starts) + 1)):
        yield f"task {task['task_id']} skips or repeats attempts: {steps}"


def check_outcome(record: Record, task: dict[str, Any], runs: list[Run]) -> Iterator[str]:
    """Check that the task ended as its parameters or a cancel require, and that marks confirm a success."""
    (label,) = (label for label in task["labels"] if label in record.expected)
    possible = {record.expected[label]} | ({"REVOKED"} if task["task_id"] in record.cancel_attempts else set())
    if task["status"] in FINISHED and task["status"] not in possible:
        yield f"task {task['task_id']} ended as {task['status']}, not {' or '.join(possible)}: {task['error']}"
    if task["status"] == "SUCCESS" and not any(run.complete and run.attempt == task["attempt"] for run in runs):
        yield f"task {task['task_id']} is SUCCESS, but attempt {task['attempt']} left no pair of marks"
    if (last := max((run.attempt for run in runs), default=0)) > task["attempt"]:
        yield f"task {task['task_id']} ran attempt {last}, which its document does not have"


def claims(task: dict[str, Any], mark_time: MarkTime) -> dict[int, int]:
    """Return when each attempt of the task was claimed."""
    starts: dict[int, int] = {}
    for step in task["history"]:
        if step["status"] == "STARTED":
            starts.setdefault(step["attempt"], mark_time(step["at"]))
    return starts


def check_queues(record: Record, tasks: list[dict[str, Any]], mark_time: MarkTime) -> tuple[list[str], int]:
    """Check that each claim took the first task of its robot's queue, of either kind.

    Return a sentence for each that did not, and how many claims left behind a task of the other kind.
    """
    waits: dict[str, list[tuple[int, int, dict[str, Any]]]] = defaultdict(list)
    for task in tasks:
        times = [mark_time(step["at"]) for step in task["history"]] + [NEVER]
        for place, step in enumerate(task["history"]):
            if step["status"] == "QUEUED":
                waits[task["robot"]].append((times[place], times[place + 1], task))
    wrong, mixed = [], 0
    for task in tasks:
        for attempt, at in claims(task, mark_time).items():
            looked = at - ORDER_MARGIN
            if any(start < at and looked < end for start, end in record.outages):
                continue
            waiting = [other for since, until, other in waits[task["robot"]] if since < looked and at < until]
            mixed += any(other["runs_on"] != task["runs_on"] for other in waiting)
            wrong += [
                f"out of order: attempt {attempt} of task {task['task_id']} ({task['handler']}) began at "
                f"{task['robot']} before task {other['task_id']} ({other['handler']})"
                for other in waiting
                if (-other["priority"], other["task_id"]) < (-task["priority"], task["task_id"])
            ]
    return wrong, mixed


def repeated(task: dict[str, Any], runs: list[Run]) -> Iterator[str]:
    """Yield a sentence for each attempt that ran twice. One that goes on after a restart may, in another process."""
    by_attempt: dict[int, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.start):
        by_attempt[run.attempt].append(run)
    for attempt, those in by_attempt.items():
        again = task["handler"] == RESUMED and len({run.pid for run in those}) == len(those)
        if len(those) > 1 and not again:
            yield f"doubled: attempt {attempt} of task {task['task_id']} ({task['handler']}) ran {len(those)} times"
        yield from _check_steps(task, those)


def _check_steps(task: dict[str, Any], runs: list[Run]) -> Iterator[str]:
    """Check that an attempt took each step once. The last one of a process that died may be taken again."""
    due = 0
    for run in runs:
        at_once = [*range(due, due + len(run.steps))]
        again = [*range(due - 1, due - 1 + len(run.steps))]
        if run.steps not in ([at_once, again] if due else [at_once]):
            yield f"{run} took the steps {run.steps} instead of {at_once}"
        due = run.steps[-1] + 1 if run.steps else due
    if task["handler"] == RESUMED and runs[-1].complete and due != task["params"]["steps"]:
        yield f"{runs[-1]} ended after {due} steps, not {task['params']['steps']}"


def check_places(record: Record, task: dict[str, Any], runs: list[Run]) -> Iterator[str]:
    """Check that robots' tasks ran in their agents and no others did."""
    for run in runs:
        place = record.agents.get(run.pid)
        if place != (task["robot"] if task["runs_on"] == "robot" else None) or run.robot != task["robot"]:
            where = f"in the agent of {place}" if place else "in a worker"
            yield f"{run} ({task['handler']} of {task['robot']}) ran {where}"


def check_orders(
    record: Record, tasks: Mapping[str, dict[str, Any]], runs: list[Run], mark_time: MarkTime
) -> Iterator[str]:
    """Check that no attempt follows an accepted cancel, and that disabled robots start no task."""
    for id, attempt, status in record.cancels:
        if status == 200 and tasks[id]["status"] != "REVOKED":
            yield f"the cancel of task {id} was answered with 200, but it is {tasks[id]['status']}"
        if any(run.task == id and run.attempt > attempt for run in runs):
            yield f"task {id} was cancelled in attempt {attempt}, and ran again"
    for robot, start, end in record.disabled:
        for run in runs:
            began = run.start
            if run.pid in record.agents and run.task in tasks:  # its agent may have got the answer to the claim late
                began = claims(tasks[run.task], mark_time).get(run.attempt, began)
            if run.robot == robot and start + DISABLE_MARGIN < began < end:
                yield f"{run} started {(began - start) / SECOND:.1f} s after {robot} was disabled"


@dataclass
class Verdict:
    figures: dict[str, Any]
    violations: list[str]
    waits: list[Wait]

    @property
    def failed(self) -> bool:
        return bool(self.violations or any(self.figures[name] for name in MUST_BE_0))


def judge(record: Record, tasks: list[dict[str, Any]], runs: list[Run], mark_time: MarkTime) -> Verdict:
    """Make all checks. `mark_time` converts a time of the API to the clock of the marks."""
    by_id = {task["task_id"]: task for task in tasks}
    runs_of: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        runs_of[run.task].append(run)
    violations = [*record.violations, *check_answers(record, tasks), *check_orders(record, by_id, runs, mark_time)]
    doubled: list[str] = []
    for task in tasks:
        own = runs_of[task["task_id"]]
        violations += [*check_history(task), *check_outcome(record, task, own), *check_places(record, task, own)]
        if [step["status"] for step in task["history"]].count("SUCCESS") > 1:
            doubled.append(f"doubled: task {task['task_id']} has two successes")
        doubled += repeated(task, own)
        if task["handler"] in LET_GO:
            let_go(own, record.freezes)
    out_of_order, mixed = check_queues(record, tasks, mark_time)
    violations += [f"task {id} ran but does not exist" for id in runs_of if id not in by_id]
    overlapping = list(overlaps(runs, record.lanes))
    ended = {id: mark_time(task["finished_at"]) for id, task in by_id.items() if task["finished_at"]}
    waits = recoveries(record, runs, ended)
    status = Counter(task["status"] for task in tasks)
    figures = {
        "accepted": len(tasks),
        **{word.lower(): status[word] for word in FINISHED},
        "unfinished": sum(count for word, count in status.items() if word not in FINISHED),
        "overlaps": len(overlapping),
        "doubled": len(doubled),
        "out_of_order": len(out_of_order),
        "mixed": mixed,
        "on_robots": sum(run.pid in record.agents for run in runs),
        "freezes": len(record.freezes),
        "refused": record.refused,
        "kills": record.killed,
        "restarts": record.restarted,
        "recovery_p50_s": percentile([wait.seconds for wait in waits], 0.5),
        "recovery_p99_s": percentile([wait.seconds for wait in waits], 0.99),
        "seed": record.seed,
    }
    return Verdict(figures, violations + overlapping + doubled + out_of_order, waits)
