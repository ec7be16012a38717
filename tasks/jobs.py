"""The entry points of Celery. Each calls one service and holds no rule of its own."""

from typing import Any

from celery import shared_task

from tasks.queue import bulk, doorbell, periodic, submissions
from tasks.reports import tallies
from tasks.worker import celery_hooks as _worker  # noqa: F401 - connects to the worker's signals
from tasks.worker import claim, process_end


@shared_task(name=doorbell.RUN_NEXT, bind=True, ignore_result=True)
def run_next(self: Any, robot: str, passed_on: int = 0) -> None:
    with process_end.handling_message():
        claim.run_next(robot, self.request.id, passed_on)


run_next.Request = "tasks.worker.celery_hooks:Request"


@shared_task(name=doorbell.PROCESS_DIED, ignore_result=True)
def process_died(worker: str, message_id: str) -> None:
    periodic.recover_from(worker, message_id)


@shared_task(name="tasks.promote_due")
def promote_due() -> int:
    return periodic.promote_due()


@shared_task(name="tasks.recover_lost")
def recover_lost() -> dict[str, int]:
    return periodic.recover_lost()


@shared_task(name="tasks.ring_waiting")
def ring_waiting() -> int:
    return periodic.ring_waiting()


@shared_task(name="tasks.finish_submissions")
def finish_submissions() -> int:
    return submissions.requeue_unfinished()


@shared_task(name="tasks.expire")
def expire() -> int:
    return periodic.expire()


@shared_task(name=doorbell.WORK_ON_BULKS)
def work_on_bulks() -> int:
    return bulk.work_on_bulks()


@shared_task(name="tasks.purge")
def purge() -> int:
    return periodic.delete_old()


@shared_task(name="tasks.count_finished")
def count_finished() -> int:
    return tallies.roll_up()


@shared_task(name="tasks.forget_runs")
def forget_runs() -> None:
    periodic.forget_runs()
