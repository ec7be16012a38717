"""The place of a task in the queue of its robot, changed by hand: its priority, or the front.

A robot takes its tasks by priority, then by age. So there is no order beside these: who puts a task in front gives it a
priority, the least that is enough.
"""

from fmv import audit
from tasks.models import Status, Task
from tasks.queue import services
from tasks.queue.doorbell import ring_for_next
from tasks.queue.errors import NotQueued, NotWaiting

MAX_BEFORE = 1000  # tasks that `before` counts


def prioritize(task: Task, priority: int, *, by: str) -> Task:
    """Give a waiting task this priority, 0 to MAX_PRIORITY; return the task as it is then. Raises NotWaiting."""
    while task.is_waiting:
        if task.priority == priority:
            return task
        task, done = _change(task, priority, f"priority {task.priority} → {priority} by {by}", by)
        if done:
            return task
    raise NotWaiting


def put_first(task: Task, *, by: str) -> Task:
    """Put a queued task in front of all others that are queued for its robot now; return the task as it is then.

    Its priority becomes one more than that of the first; so it may exceed MAX_PRIORITY. Raises NotQueued.
    """
    while task.status == Status.QUEUED:
        first = Task.objects.queued().of_robot(task.robot).next_first().values("pk", "priority").first()
        if first is None or first["pk"] == task.pk:
            return task
        priority = first["priority"] + (first["pk"] < task.pk)  # of the same priority the older is first
        note = f"put in front by {by}, priority {task.priority} → {priority}"
        task, done = _change(task, priority, note, by)
        if done:
            return task
    raise NotQueued


def _change(task: Task, priority: int, note: str, by: str) -> tuple[Task, bool]:
    """Change the priority of a task that is as it was found; return it as it is then, and whether it was changed."""
    before, done = task.priority, task.prioritize(priority, note)
    task = services.get(task.pk)
    if done:
        audit.record("task.priority", by=by, kind="task", key=task.pk, text=f"{before} → {priority}")
        if task.status == Status.QUEUED:
            ring_for_next(task.robot)  # the task that was first before may be one that nobody can run
    return task, done


def before(task: Task) -> int | None:
    """Return how many tasks are queued before this one, at most MAX_BEFORE of both kinds; None if it is not queued."""
    if task.status != Status.QUEUED:
        return None
    queue = Task.objects.queued().of_robot(task.robot)
    more_urgent = queue.filter(priority__gt=task.priority).up_to(MAX_BEFORE)
    return int(more_urgent + queue.filter(priority=task.priority, pk__lt=task.pk).up_to(MAX_BEFORE))
