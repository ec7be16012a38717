"""The entry points of Celery. Each calls one service and holds no rule of its own."""

import time
from typing import Any

from celery import Task, shared_task

from fmv.mongodb.server import recent_now
from robots import absences, agents, samples
from tasks.queue import bulk, doorbell, periodic, submissions
from tasks.reports import endings, tallies
from tasks.worker import celery_hooks as _worker  # noqa: F401 - connects to the worker's signals
from tasks.worker import claim, process_end

EMPTY_RUN_INTERVAL = 60.0  # seconds between two stored runs of a step that had nothing to do


class Step(Task):
    """A periodic step. Its run is stored when it did something or failed. Of the others one a minute is stored, so that
    staff see that the step runs; to store each would cost more than the steps do.
    """

    abstract = True
    _stored_at = float("-inf")  # by time.monotonic()

    def __call__(self, *args: Any, **options: Any) -> Any:
        done, now = self.run(*args, **options), time.monotonic()
        if done or now >= self._stored_at + EMPTY_RUN_INTERVAL:
            self._stored_at = now
        else:
            self.request.ignore_result = True
        return done


@shared_task(name=doorbell.RUN_NEXT, bind=True, ignore_result=True)
def run_next(self: Any, robot: str, passed_on: int = 0) -> None:
    with process_end.handling_message():
        claim.run_next(robot, self.request.id, passed_on)


run_next.Request = "tasks.worker.celery_hooks:Request"


@shared_task(name=doorbell.PROCESS_DIED, ignore_result=True)
def process_died(worker: str, message_id: str) -> None:
    periodic.recover_from(worker, message_id)


@shared_task(name="tasks.promote_due", base=Step)
def promote_due() -> int:
    return periodic.promote_due(by=recent_now)


@shared_task(name="tasks.recover_lost", base=Step)
def recover_lost() -> dict[str, int]:
    return periodic.recover_lost()


@shared_task(name="tasks.ring_waiting", base=Step)
def ring_waiting() -> int:
    return periodic.ring_waiting(periodic.PATIENCE)


@shared_task(name="tasks.finish_submissions", base=Step)
def finish_submissions() -> int:
    return submissions.requeue_unfinished()


@shared_task(name="tasks.expire", base=Step)
def expire() -> int:
    return periodic.expire()


@shared_task(name=doorbell.WORK_ON_BULKS, base=Step)
def work_on_bulks() -> int:
    return bulk.work_on_bulks()


@shared_task(name="tasks.notice_silent", base=Step)
def notice_silent() -> int:
    return agents.notice_silent()


@shared_task(name="tasks.sample_robots", base=Step)
def sample_robots() -> int:
    return absences.note() + samples.take()


@shared_task(name="tasks.purge", base=Step)
def purge() -> int:
    return periodic.delete_old()


@shared_task(name="tasks.note_endings", base=Step)
def note_endings() -> int:
    return endings.note()


@shared_task(name="tasks.count_finished", base=Step)
def count_finished() -> int:
    return tallies.roll_up()


@shared_task(name="tasks.forget_runs", base=Step)
def forget_runs() -> None:
    periodic.forget_runs()
    tallies.roll_up_hours()
