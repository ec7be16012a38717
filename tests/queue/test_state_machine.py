"""Generated sequences of all events in the life of tasks, compared with a small model."""

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from fmv.mongodb.server import server_now
from robots.models import Robot
from tasks.models import FINISHED, WAITING, Status, Task
from tasks.models.error_document import error_document
from tasks.queue import periodic, services
from tasks.queue.errors import AlreadyFinished
from tasks.worker.lease import LEASE_GRACE
from tests.support.factories import make_robot, make_task
from tests.support.probes import FUTURE, LEASE, PAST, recorded_bells, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]

ERROR = error_document("ValueError", "broken")
LANES = 2
YEARS = dt.timedelta(days=365 * 200)


@dataclass
class Model:
    """What a task should be."""

    status: Status
    priority: int
    max_attempts: int
    expired: bool = False
    due: bool = False
    attempt: int = 0
    uncounted: int = 0
    cancelling: bool = False
    #: the lease of this attempt has run out
    lost: bool = False
    history: list[str] = field(default_factory=list)

    def enter(self, status: Status) -> None:
        self.status = status
        self.history.append(status.value)

    @property
    def attempts_left(self) -> bool:
        return self.max_attempts > self.attempt - self.uncounted


picks = st.integers(0, 7)


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        Task.objects.all().delete()
        Robot.objects.all().delete()
        self.robot = make_robot(name="R", lanes=LANES)
        self.models: dict[Any, Model] = {}
        #: each attempt that was ever started, as its worker remembers it
        self.attempts: list[Task] = []

    def model(self, task: Task) -> Model:
        return self.models[task.pk]

    def in_status(self, *statuses: Status) -> list[Any]:
        return [pk for pk, model in self.models.items() if model.status in statuses]

    def owner(self, pick: int) -> tuple[Task, Model, bool]:
        """Some attempt, an old one too; its task's model, and whether the attempt still owns the task."""
        task = self.attempts[-1 - pick % len(self.attempts)]
        model = self.model(task)
        return task, model, model.status == Status.STARTED and model.attempt == task.attempt

    # What happens.

    @rule(
        priority=st.integers(0, 2),
        max_attempts=st.integers(1, 3),
        later=st.sampled_from([None, None, "due", "far"]),
        expired=st.sampled_from([False, False, False, True]),
    )
    def submit(self, priority: int, max_attempts: int, later: str | None, expired: bool) -> None:
        status = Status.SCHEDULED if later else Status.QUEUED
        task = make_task(
            robot=self.robot,
            status=status,
            priority=priority,
            max_attempts=max_attempts,
            run_at={None: None, "due": PAST, "far": FUTURE}[later],
            expires_at=PAST if expired else FUTURE,
        )
        self.models[task.pk] = Model(status, priority, max_attempts, expired, later == "due")

    @rule()
    def claim(self) -> None:
        task = take(self.robot)
        free = len(self.in_status(Status.STARTED)) < self.robot.lanes and self.robot.enabled
        queued = sorted(self.in_status(Status.QUEUED), key=lambda pk: (-self.models[pk].priority, pk))
        late = [self.models[pk].expired and not self.models[pk].attempt for pk in queued]
        if self.robot.enabled:  # those that are too late are revoked on the way to the next
            for pk in queued[: (*late, False).index(False)]:
                self.models[pk].enter(Status.REVOKED)
        if not (free and False in late):
            assert task is None
            return
        assert task is not None
        assert task.pk == queued[late.index(False)]
        model = self.model(task)
        model.attempt += 1
        model.cancelling = model.lost = False
        model.enter(Status.STARTED)
        assert (task.attempt, task.attempts_left > 0) == (model.attempt, model.attempts_left)
        self.attempts.append(task)

    @precondition(lambda self: self.attempts)
    @rule(pick=picks)
    def renew(self, pick: int) -> None:
        task, model, owns = self.owner(pick)
        renewed = task.renew(lease=LEASE, grace=LEASE_GRACE, progress=1.0)
        assert renewed is (owns and not model.cancelling)
        if renewed:
            model.lost = False

    @precondition(lambda self: self.attempts)
    @rule(pick=picks)
    def succeed(self, pick: int) -> None:
        task, model, owns = self.owner(pick)
        assert task.succeed(None, "") is owns
        if owns:
            model.enter(Status.SUCCESS)

    @precondition(lambda self: self.attempts)
    @rule(pick=picks)
    def fail(self, pick: int) -> None:
        task, model, owns = self.owner(pick)
        assert task.fail(ERROR) is owns
        if owns:
            model.enter(Status.FAILURE)

    @precondition(lambda self: self.attempts)
    @rule(pick=picks, due=st.booleans())
    def retry(self, pick: int, due: bool) -> None:
        task, model, owns = self.owner(pick)
        done = task.retry(ERROR, delay=0 if due else YEARS.total_seconds() / 2)
        assert done is (owns and not model.cancelling)
        if done:
            model.due = due
            model.enter(Status.RETRY)

    @precondition(lambda self: self.attempts)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        task, model, owns = self.owner(pick)
        done = task.release("worker stops")
        assert done is (owns and not model.cancelling)
        if done:
            model.uncounted += 1
            model.due = True
            model.enter(Status.RETRY)

    @precondition(lambda self: self.attempts)
    @rule(pick=picks)
    def stop(self, pick: int) -> None:
        task, model, owns = self.owner(pick)
        if owns and not model.cancelling:
            return  # a task is stopped only after its cancel was requested
        assert task.stop("stopped") is owns
        if owns:
            model.enter(Status.REVOKED)

    @precondition(lambda self: self.models)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        pk = list(self.models)[-1 - pick % len(self.models)]
        model, task = self.models[pk], Task.objects.get(pk=pk)
        if model.status in FINISHED:
            with pytest.raises(AlreadyFinished):
                services.cancel(task, by="test")
            return
        services.cancel(task, by="test")
        if model.status in WAITING:
            model.enter(Status.REVOKED)
        elif not model.cancelling:
            model.enter(Status.STARTED)
        model.cancelling = True

    @rule()
    def expire(self) -> None:
        periodic.expire()
        for pk in self.in_status(Status.SCHEDULED, Status.QUEUED):
            model = self.models[pk]
            if model.expired and not model.attempt:
                model.enter(Status.REVOKED)

    @rule()
    def promote(self) -> None:
        periodic.promote_due()
        self.promoted()

    @rule()
    def much_later(self) -> None:
        Task.objects.promote(server_now() + YEARS)
        for pk in self.in_status(Status.SCHEDULED, Status.RETRY):
            self.models[pk].due = True
        self.promoted()

    def promoted(self) -> None:
        for pk in self.in_status(Status.SCHEDULED, Status.RETRY):
            if self.models[pk].due:
                self.models[pk].enter(Status.QUEUED)

    @precondition(lambda self: self.in_status(Status.STARTED))
    @rule(pick=picks)
    def let_a_lease_run_out(self, pick: int) -> None:
        running = self.in_status(Status.STARTED)
        pk = running[pick % len(running)]
        periodic._look_at_leases()
        periodic._sights[pk] = periodic._sights[pk]._replace(lease_since=float("-inf"))
        self.models[pk].lost = True

    @rule()
    def recover(self) -> None:
        periodic.recover_lost()
        retried = False
        for pk in self.in_status(Status.STARTED):
            model = self.models[pk]
            if not model.lost:
                continue
            if model.cancelling:
                model.enter(Status.REVOKED)
            elif model.attempts_left:
                model.due = retried = True
                model.enter(Status.RETRY)
            else:
                model.enter(Status.FAILURE)
        if retried:
            self.promoted()

    @rule(enabled=st.booleans(), lanes=st.integers(1, LANES))
    def change_robot(self, enabled: bool, lanes: int) -> None:
        self.robot = services.change_robot("R", by="test", enabled=enabled, lanes=lanes)

    # What always holds.

    @invariant()
    def the_documents_are_as_the_model_says(self) -> None:
        stored = {task.pk: task for task in Task.objects.all()}
        assert stored.keys() == self.models.keys()
        for pk, model in self.models.items():
            task = stored[pk]
            assert task.status == model.status
            assert [entry["status"] for entry in task.history] == model.history
            assert (task.attempt, task.uncounted) == (model.attempt, model.uncounted)
            assert task.is_finished is (task.finished_at is not None)
            assert (task.lane is not None) is (task.status == Status.STARTED)
            assert (task.lease_expires_at is not None) is (task.status == Status.STARTED)
            times = [entry["at"] for entry in task.history]
            assert times == sorted(times)

    @invariant()
    def lanes_are_held_once(self) -> None:
        lanes = [task.lane for task in Task.objects.started()]
        assert len(lanes) == len(set(lanes)) <= LANES


@pytest.fixture
def no_bells():
    with recorded_bells() as taken:
        yield taken


@pytest.mark.slow
def test_no_sequence_breaks_the_rules(no_bells):
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=100,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
