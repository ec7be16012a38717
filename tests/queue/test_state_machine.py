"""Generated sequences of all events in the life of tasks, compared with a small model.

Some tasks run in a worker, and some on the robot, by its agent.
"""

import datetime as dt
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from fmv.mongodb.server import server_now
from robots.agents import Session
from robots.errors import QueueHeld, SessionReplaced
from robots.models import Robot, RobotState
from tasks.agents import services as agent_services
from tasks.agents.answers import Held
from tasks.agents.errors import AlreadyReported, AttemptLost
from tasks.models import FINISHED, WAITING, Status, Task
from tasks.models.error_document import error_document
from tasks.models.robot_attempt import RobotAttempt
from tasks.queue import periodic, place, robots_lost, services
from tasks.queue.errors import AlreadyFinished, NotWaiting
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
    #: it runs on the robot
    own: bool = False
    #: the robot has renewed the lease of this attempt
    confirmed: bool = False
    out_of_contact: bool = False
    #: its cancel is not confirmed in time
    overdue: bool = False
    #: its timeout is over; then FMV itself asks the robot to stop it
    late: bool = False
    #: the last attempt does not count, and counts again if its robot is heard
    handed_back: bool = False
    lane: str | None = None
    reported: tuple[int, str] | None = None
    history: list[str] = field(default_factory=list)

    def enter(self, status: Status, *, keeps_lane: bool = False) -> None:
        self.status = status
        self.history.append(status.value)
        if status != Status.STARTED:
            self.out_of_contact = False
            self.lane = self.lane if keeps_lane else None

    def begin(self, lane: str | None) -> None:
        self.attempt += 1
        self.cancelling = self.lost = self.confirmed = self.overdue = self.late = self.handed_back = False
        self.lane = lane
        self.enter(Status.STARTED)

    def heard(self) -> None:
        self.lost, self.confirmed = False, True
        if self.out_of_contact:
            self.out_of_contact = False
            self.enter(Status.STARTED)

    def count_again(self) -> None:
        if self.handed_back:
            self.uncounted -= 1
            self.handed_back = False

    def release(self) -> None:
        self.uncounted += 1
        self.handed_back = self.due = True
        self.enter(Status.RETRY)

    @property
    def cancelled(self) -> Status:
        """How it ends if it is cancelled while it runs."""
        return Status.FAILURE if self.late else Status.REVOKED

    @property
    def attempts_left(self) -> bool:
        return self.max_attempts > self.attempt - self.uncounted


picks = st.integers(0, 7)


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        Task.objects.all().delete()
        Robot.objects.all().delete()
        RobotState.objects.all().delete()
        self.robot = make_robot(name="R", lanes=LANES)
        self.models: dict[Any, Model] = {}
        #: each attempt that was ever started, as its worker remembers it
        self.attempts: list[Task] = []
        #: each that the agent was given
        self.on_robot: list[RobotAttempt] = []
        self.session = self.sign_in()

    def sign_in(self) -> str:
        """As after a start of the agent."""
        self.boot_id = str(uuid.uuid4())
        session, held = self.open_session()
        assert held == []
        return session.id

    def open_session(self) -> tuple[Session, list[Held]]:
        return agent_services.open_session("R", handlers=["carry"], agent="test", version="1", boot_id=self.boot_id)

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
        own=st.booleans(),
    )
    def submit(self, priority: int, max_attempts: int, later: str | None, expired: bool, own: bool) -> None:
        status = Status.SCHEDULED if later else Status.QUEUED
        task = make_task(
            robot=self.robot,
            status=status,
            priority=priority,
            max_attempts=max_attempts,
            run_at={None: None, "due": PAST, "far": FUTURE}[later],
            expires_at=PAST if expired else FUTURE,
            **({"handler": "carry", "runs_on": "robot"} if own else {}),
        )
        self.models[task.pk] = Model(status, priority, max_attempts, expired, later == "due", own=own)

    def free_lanes(self) -> list[str]:
        """The lanes on which nothing runs. Some may be blocked."""
        taken = {model.lane for model in self.models.values() if model.status == Status.STARTED}
        free = [lane for number in range(self.robot.lanes) if (lane := f"R/{number}") not in taken]
        return free[: max(0, self.robot.lanes - len(taken))]

    def blocked(self) -> dict[str | None, Model]:
        return {model.lane: model for model in self.models.values() if model.lane and model.status in FINISHED}

    def blocks(self, model: Model) -> bool:
        return model.lane is not None and model.status in FINISHED

    def head(self) -> Any:
        """The next task of the robot in service, None without one; those before it that are too late are revoked."""
        queued = sorted(self.in_status(Status.QUEUED), key=lambda pk: (-self.models[pk].priority, pk))
        for pk in queued if self.robot.starts_tasks else ():
            model = self.models[pk]
            if not model.expired or model.attempt:
                return pk
            model.enter(Status.REVOKED)
        return None

    @rule()
    def claim(self) -> None:
        task = take(self.robot)
        head, free = self.head(), [lane for lane in self.free_lanes() if lane not in self.blocked()]
        if head is None or self.models[head].own or not free:
            assert task is None
            return
        assert task is not None
        assert task.pk == head
        model = self.model(task)
        model.begin(task.lane)
        assert task.lane in free
        assert (task.attempt, task.attempts_left > 0) == (model.attempt, model.attempts_left)
        self.attempts.append(task)

    @rule()
    def claim_on_robot(self) -> None:
        held = agent_services.claim("R", self.session, uuid.uuid4())
        head, free = self.head(), [lane for lane in self.free_lanes() if lane not in self.blocked()]
        if head is None or not self.models[head].own or not free:
            assert held is None
            return
        assert held is not None
        assert held.task.pk == head
        model = self.model(held.task)
        model.begin(held.task.lane)
        assert held.task.lane in free
        assert held.task.attempt == model.attempt
        self.on_robot.append(RobotAttempt("R", head, model.attempt, self.session))

    @rule()
    def send_off(self) -> None:
        """Let a task run on the robot: most events of this kind need one."""
        self.submit(priority=2, max_attempts=3, later=None, expired=False, own=True)
        self.claim_on_robot()
        self.the_documents_are_as_the_model_says()

    def attempt_on_robot(self, pick: int) -> tuple[RobotAttempt, Model, bool]:
        """Some attempt of the agent, an old one too; its task's model, and whether it is the task's last, not over."""
        mine = self.on_robot[-1 - pick % len(self.on_robot)]
        model = self.models[mine.task]
        return mine, model, model.attempt == mine.attempt and model.status not in FINISHED

    @precondition(lambda self: self.on_robot)
    @rule(pick=picks)
    def renew_on_robot(self, pick: int) -> None:
        mine, model, last = self.attempt_on_robot(pick)
        is_ours = last and (model.status == Status.STARTED or (model.reported or (0,))[0] != mine.attempt)
        try:
            _, cancel = agent_services.renew("R", mine.task, mine.session, mine.attempt, {"progress": 1.0})
        except SessionReplaced:
            assert mine.session != self.session
            return
        except AttemptLost:
            free = set(self.free_lanes()) - self.blocked().keys()
            assert not (is_ours and (model.status == Status.STARTED or free))
            assert not (self.blocks(model) and model.attempt == mine.attempt)
            return
        assert mine.session == self.session
        if self.blocks(model):
            assert cancel is not None
            assert model.attempt == mine.attempt
            return
        assert is_ours
        if model.status != Status.STARTED:
            [model.lane] = Task.objects.filter(pk=mine.task).values_list("lane", flat=True)
            assert model.lane in self.free_lanes()
            model.count_again()
            model.enter(Status.STARTED)
        model.heard()
        assert (cancel is not None) is model.cancelling

    @precondition(lambda self: self.on_robot)
    @rule(pick=picks, outcome=st.sampled_from(["succeeded", "failed", "cancelled", "released"]))
    def finish_on_robot(self, pick: int, outcome: str) -> None:
        mine, model, last = self.attempt_on_robot(pick)
        known = model.reported if model.reported and model.reported[0] == mine.attempt else None
        takes = last and (outcome != "released" or model.status == Status.STARTED or model.handed_back)
        confirms = self.blocks(model) and model.attempt == mine.attempt and outcome in ("cancelled", "released")
        try:
            if outcome == "released":
                agent_services.release("R", mine.task, mine.session, mine.attempt, "no", 0)
            else:
                agent_services.finish("R", mine.task, mine.session, mine.attempt, outcome)
        except AlreadyReported:
            assert known not in (None, (mine.attempt, outcome))
            return
        except AttemptLost:
            assert known is None
            assert not takes
            assert not confirms
            if self.blocks(model) and model.attempt == mine.attempt:
                model.enter(model.status)
            return
        except SessionReplaced:
            assert known is None
            assert not takes
            return
        if known:
            assert known == (mine.attempt, outcome)
            return
        assert takes or confirms
        model.reported = mine.attempt, outcome
        if confirms:
            model.enter(model.status)
            return
        if outcome == "released" and model.handed_back:
            model.history.append(model.status.value)
            return
        model.count_again()
        if outcome == "succeeded":
            model.enter(Status.SUCCESS)
        elif model.cancelling and (outcome != "failed" or model.attempts_left):
            model.enter(model.cancelled)
        elif outcome == "released":
            model.release()
            model.enter(Status.QUEUED)
        elif model.attempts_left:
            model.due = True
            model.enter(Status.RETRY)
        else:
            model.enter(Status.FAILURE)

    @rule()
    def restart_agent(self) -> None:
        self.session = self.sign_in()
        for model in self.blocked().values():
            model.enter(model.status)
        for pk in self.in_status(Status.STARTED):
            model = self.models[pk]
            if model.own and model.cancelling:
                model.enter(model.cancelled)
            elif model.own and not model.confirmed:
                model.release()
                model.enter(Status.QUEUED)
            elif model.own and model.attempts_left:
                model.due = True
                model.enter(Status.RETRY)
            elif model.own:
                model.enter(Status.FAILURE)

    @rule()
    def sign_in_again(self) -> None:
        """As when the answer to the agent's sign-in was lost, or a network delivers its request twice."""
        session, held = self.open_session()
        running = [pk for pk in self.in_status(Status.STARTED) if self.models[pk].own]
        assert session.id == self.session
        assert sorted(each.task.pk for each in held) == sorted(running)

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
            model.release()

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
        pk = self.running(pick)
        periodic._sights[pk] = periodic._sights[pk]._replace(lease_since=float("-inf"))
        self.models[pk].lost = True

    @precondition(lambda self: any(self.models[pk].own for pk in self.in_status(Status.STARTED)))
    @rule()
    def let_a_robot_ignore_a_cancel(self) -> None:
        pk = next(pk for pk in self.in_status(Status.STARTED) if self.models[pk].own)
        model = self.models[pk]
        if not model.cancelling:
            services.cancel(Task.objects.get(pk=pk), by="test")
            model.enter(Status.STARTED)
            model.cancelling = True
        periodic._look_at_leases()
        periodic._sights[pk] = periodic._sights[pk]._replace(cancel_since=float("-inf"))
        model.overdue = True
        self.recover()

    def on_time(self) -> list[Any]:
        models = ((pk, self.models[pk]) for pk in self.in_status(Status.STARTED))
        return [pk for pk, it in models if it.own and it.confirmed and not (it.lost or it.cancelling)]

    @precondition(lambda self: self.on_time())
    @rule()
    def let_a_timeout_pass(self) -> None:
        pk = self.on_time()[0]
        periodic._look_at_leases()
        periodic._sights[pk] = periodic._sights[pk]._replace(attempt_since=float("-inf"))
        self.models[pk].late = True
        self.recover()

    def running(self, pick: int) -> Any:
        periodic._look_at_leases()
        running = self.in_status(Status.STARTED)
        return running[pick % len(running)]

    @rule()
    def recover(self) -> None:
        periodic.recover_lost()
        retried = False
        for pk in self.in_status(Status.STARTED):
            model = self.models[pk]
            if model.own:
                retried |= self.recover_on_robot(model)
            elif model.lost and model.cancelling:
                model.enter(Status.REVOKED)
            elif model.lost:
                retried |= self.try_again(model)
        if retried:
            self.promoted()

    def try_again(self, model: Model) -> bool:
        if model.attempts_left:
            model.due = True
            model.enter(Status.RETRY)
            return True
        model.enter(Status.FAILURE)
        return False

    def recover_on_robot(self, model: Model) -> bool:
        if model.cancelling and (model.overdue or (model.lost and not model.confirmed)):
            model.enter(model.cancelled, keeps_lane=model.confirmed)
        elif model.lost and not model.confirmed:
            model.release()
            model.enter(Status.QUEUED)
            return True
        elif model.lost and not model.out_of_contact:
            model.out_of_contact = True
            model.enter(Status.STARTED)
        elif model.lost and not model.cancelling:
            return self.try_again(model)
        elif model.late and not model.cancelling:
            model.cancelling = True
            model.enter(Status.STARTED)
        return False

    @precondition(lambda self: self.blocked())
    @rule()
    def free_a_lane(self) -> None:
        lane, model = next(iter(self.blocked().items()))
        [task] = Task.objects.filter(lane=lane)
        robots_lost.free_lane(task, by="test")
        model.enter(model.status)

    @rule(enabled=st.booleans(), lanes=st.integers(1, LANES))
    def change_robot(self, enabled: bool, lanes: int) -> None:
        self.robot = services.change_robot("R", by="test", enabled=enabled, lanes=lanes)

    @rule(by=st.sampled_from(["amy", "bob"]))
    def hold_queue(self, by: str) -> None:
        held_by = self.robot.held_by
        try:
            self.robot = services.hold_queue("R", by=by)
        except QueueHeld:
            assert held_by not in ("", by)
        else:
            assert held_by in ("", by)
            assert self.robot.held_by == by

    @rule()
    def release_queue(self) -> None:
        self.robot = services.release_queue("R", by="test")
        assert self.robot.held_since is None

    @precondition(lambda self: self.models)
    @rule(pick=picks, priority=st.integers(0, 2))
    def prioritize(self, pick: int, priority: int) -> None:
        pk = list(self.models)[-1 - pick % len(self.models)]
        model, task = self.models[pk], Task.objects.get(pk=pk)
        if model.status not in WAITING:
            with pytest.raises(NotWaiting):
                place.prioritize(task, priority, by="test")
            return
        place.prioritize(task, priority, by="test")
        if model.priority != priority:
            model.priority = priority
            model.enter(model.status)

    @precondition(lambda self: self.in_status(Status.QUEUED))
    @rule(pick=picks)
    def put_first(self, pick: int) -> None:
        queued = sorted(self.in_status(Status.QUEUED), key=lambda pk: (-self.models[pk].priority, pk))
        pk = queued[pick % len(queued)]
        first, model = self.models[queued[0]], self.models[pk]
        place.put_first(Task.objects.get(pk=pk), by="test")
        if pk != queued[0]:
            model.priority = first.priority + (queued[0] < pk)
            model.enter(Status.QUEUED)
        assert Task.objects.queued().next_first().values_list("pk", flat=True)[0] == pk

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
            assert task.lane == model.lane
            assert task.lane is not None or task.status != Status.STARTED
            assert (task.out_of_contact_since is not None) is model.out_of_contact
            assert (task.lease_expires_at is not None) is (task.status == Status.STARTED)
            times = [entry["at"] for entry in task.history]
            assert times == sorted(times)

    @invariant()
    def lanes_are_held_once(self) -> None:
        lanes = [task.lane for task in Task.objects.exclude(lane=None)]
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
