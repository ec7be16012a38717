"""The checks of a chaos run, from two sides.

The marks that handlers left in an append-only file, and the times at which processes ended, show what really ran. The
API shows how each task ended. They must agree with each other and with FMV's promises.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

NEVER = 2**63  # later than any time
SECOND = 10**9
DISABLE_MARGIN = 3 * SECOND  # a claim may have begun before its robot was disabled
FINISHED = ("SUCCESS", "FAILURE", "REVOKED")


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

    def __str__(self) -> str:
        return f"attempt {self.attempt} of task {self.task} in process {self.pid}"


class Kill(NamedTuple):
    at: int
    pid: int
    kind: str


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
    kills: list[Kill] = field(default_factory=list)  # of pool processes
    cancels: list[tuple[str, int, int]] = field(default_factory=list)  # task, attempt and HTTP status in the answer
    cancel_attempts: set[str] = field(default_factory=set)  # tasks; the answer may be lost
    disabled: list[tuple[str, int, int]] = field(default_factory=list)  # robot, from, to
    outages: list[tuple[int, int]] = field(default_factory=list)  # of RabbitMQ or MongoDB: from, to
    refused: int = 0  # submits answered with 503
    broken: int = 0  # submits whose connection broke
    killed: int = 0  # SIGKILLs of pool processes and workers
    restarted: int = 0  # workers that ended after a kill of their pool process, and were started again
    seed: int = 0
    violations: list[str] = field(default_factory=list)


def read_runs(lines: Iterable[str], deaths: Mapping[int, int]) -> list[Run]:
    """Return the runs that the marks show. A run without a last mark ended with its process."""
    runs: list[Run] = []
    running: dict[int, Run] = {}
    for at, word, pid, robot, task, attempt in sorted(map(_read_mark, lines)):
        run = running.pop(pid, None)
        if word == "start":
            if run:
                run.end = at
            run = running[pid] = Run(robot, task, attempt, pid, start=at)
            runs.append(run)
        elif run:
            run.end, run.complete = at, word == "end"
    for pid, run in running.items():
        run.end = max(run.start, deaths.get(pid, NEVER))
    return runs


def _read_mark(line: str) -> tuple[int, str, int, str, str, int]:
    at, word, pid, rest = line.split(maxsplit=3)
    robot, task, attempt = rest.rsplit(maxsplit=2)
    return int(at), word, int(pid), robot.strip("'\""), task, int(attempt)


def overlaps(runs: Iterable[Run], lanes: Mapping[str, int]) -> Iterator[str]:
    """Yield a sentence for each run that started without a free lane, or beside another attempt of its task."""
    under_way: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.start):
        others = under_way[run.robot] = [other for other in under_way[run.robot] if other.end > run.start]
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
    steps = [(step["status"], step["attempt"]) for step in task["history"]]
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


def check_orders(record: Record, tasks: Mapping[str, dict[str, Any]], runs: list[Run]) -> Iterator[str]:
    """Check that no attempt follows an accepted cancel, and that disabled robots start no task."""
    for id, attempt, status in record.cancels:
        if status == 200 and tasks[id]["status"] != "REVOKED":
            yield f"the cancel of task {id} was answered with 200, but it is {tasks[id]['status']}"
        if any(run.task == id and run.attempt > attempt for run in runs):
            yield f"task {id} was cancelled in attempt {attempt}, and ran again"
    for robot, start, end in record.disabled:
        for run in runs:
            if run.robot == robot and start + DISABLE_MARGIN < run.start < end:
                yield f"{run} started {(run.start - start) / SECOND:.1f} s after {robot} was disabled"


@dataclass
class Verdict:
    figures: dict[str, Any]
    violations: list[str]
    waits: list[Wait]

    @property
    def failed(self) -> bool:
        return bool(self.violations or any(self.figures[name] for name in ("unfinished", "overlaps", "doubled")))


def judge(record: Record, tasks: list[dict[str, Any]], runs: list[Run], mark_time: Any) -> Verdict:
    """Make all checks. `mark_time` converts a time of the API to the clock of the marks."""
    by_id = {task["task_id"]: task for task in tasks}
    runs_of: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        runs_of[run.task].append(run)
    violations = [*record.violations, *check_answers(record, tasks), *check_orders(record, by_id, runs)]
    for task in tasks:
        violations += [*check_history(task), *check_outcome(record, task, runs_of[task["task_id"]])]
    violations += [f"task {id} ran but does not exist" for id in runs_of if id not in by_id]
    overlapping = list(overlaps(runs, record.lanes))
    doubled = [task for task in tasks if [step["status"] for step in task["history"]].count("SUCCESS") > 1]
    ended = {id: mark_time(task["finished_at"]) for id, task in by_id.items() if task["finished_at"]}
    waits = recoveries(record, runs, ended)
    status = Counter(task["status"] for task in tasks)
    figures = {
        "accepted": len(tasks),
        **{word.lower(): status[word] for word in FINISHED},
        "unfinished": sum(count for word, count in status.items() if word not in FINISHED),
        "overlaps": len(overlapping),
        "doubled": len(doubled),
        "refused": record.refused,
        "kills": record.killed,
        "restarts": record.restarted,
        "recovery_p50_s": percentile([wait.seconds for wait in waits], 0.5),
        "recovery_p99_s": percentile([wait.seconds for wait in waits], 0.99),
        "seed": record.seed,
    }
    return Verdict(figures, violations + overlapping, waits)
