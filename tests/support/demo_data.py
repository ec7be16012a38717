"""Documents of a fleet that has worked for a day and a night, so that pages are full."""

import datetime as dt
import random
import uuid

from django.utils import timezone

from fmv.mongodb.uuid7 import id_at
from robots.models import Robot
from tasks.models import LogLine, Status, Task
from tasks.models.error_document import error_document
from tasks.reports import tallies

ROBOTS = {
    "Bender": ("Earth", "Please insert girder", ["bending"]),
    "C-3PO": ("Tatooine", "Human-cyborg relations", ["talking"]),
    "Crow T. Robot": ("Satellite of Love", "You know you want me baby", ["film"]),
    "Data": ("Enterprise", "Fully functional", ["lab"]),
    "Dot Matrix": ("Spaceball One", "Not in here, mister", []),
    "Gort": ("Washington", "Klaatu barada nikto", ["guard"]),
    "Marvin": ("Heart of Gold", "Brain the size of a planet", ["doors", "lab"]),
    "R2-D2": ("Tatooine", "Beep", ["repair", "lab"]),
    "Robby": ("Altair IV", "At your service", ["kitchen"]),
    "Rosie": ("Orbit City", "Housekeeping", ["kitchen"]),
    "TARS": ("Endurance", "Humour at 75 percent", ["pilot"]),
    "Wall-E": ("Earth", "Waste Allocation Load Lifter: Earth-class", ["cleaning"]),
}
OUT_OF_SERVICE = "Dot Matrix"
TROUBLED, TROUBLE = "Marvin", "The robot answered 503"
HANDLERS = {"primes": 4.0, "wait": 20.0, "http": 1.5}  # and the seconds they usually take
TRACEBACK = """Traceback (most recent call last):
  File "tasks/worker/attempt.py", line 189, in _call
    result = storable(handler.run(self))
  File "tasks/handlers.py", line 114, in http
    return _read(answer)
  File "tasks/handlers.py", line 148, in _read
    raise OSError(f"The robot answered {answer.status_code}")
OSError: The robot answered 503
"""


def store_demo_data(tasks: int = 900, seed: int = 1) -> None:
    """Store the robots, that many tasks which ended in the last 24 hours, and some that wait."""
    chance, now = random.Random(seed), timezone.now()
    for name, (location, description, labels) in ROBOTS.items():
        Robot.objects.create(
            name=name,
            is_great=name == "Bender",
            location=location,
            description=description,
            labels=labels,
            enabled=name != OUT_OF_SERVICE,
            lanes=2 if name == "Wall-E" else 1,
            endpoint="http://127.0.0.1:9/" if name == TROUBLED else None,
        )
    ended = [_ended(chance, now - dt.timedelta(hours=24 * (1 - chance.random() ** 0.8))) for _ in range(tasks)]
    Task.objects.bulk_create(sorted(ended, key=lambda task: task.pk), batch_size=300)
    Task.objects.bulk_create([_waiting(chance, now, "Dot Matrix", "wait") for _ in range(6)])
    Task.objects.bulk_create([_scheduled(chance, now) for _ in range(4)])
    tallies.roll_up()


def _id(chance: random.Random, moment: dt.datetime) -> uuid.UUID:
    return uuid.UUID(int=id_at(moment).int | chance.getrandbits(60))


def _ended(chance: random.Random, made: dt.datetime) -> Task:
    handler = chance.choice(list(HANDLERS))
    robot = chance.choice([name for name in ROBOTS if name != OUT_OF_SERVICE])
    in_trouble = 2 <= made.hour < 4 and chance.random() < 0.4
    robot = TROUBLED if in_trouble else robot
    failed = in_trouble or chance.random() < 0.01
    handler = "http" if failed else handler
    status = Status.FAILURE if failed else Status.REVOKED if chance.random() < 0.04 else Status.SUCCESS
    started = made + dt.timedelta(seconds=chance.uniform(0.02, 3))
    finished = min(started + dt.timedelta(seconds=HANDLERS[handler] * chance.uniform(0.5, 2)), timezone.now())
    task = _task(chance, made, robot, handler, status)
    task.attempt = 3 if failed else 1
    task.started_at, task.finished_at, task.worker = started, finished, f"worker-{chance.randint(1, 3)}/4711"
    task.error = error_document("OSError", TROUBLE, TRACEBACK) if failed else None
    task.result = {"waited": 20.0} if status == Status.SUCCESS else None
    task.progress = 100 if status == Status.SUCCESS else None
    task.history += _history(task)
    return task


def _history(task: Task) -> list[dict]:
    last = {"at": task.finished_at, "status": task.status, "attempt": task.attempt, "note": ""}
    if task.status == Status.FAILURE:
        last["note"] = f"OSError: {TROUBLE}"
    return [
        {"at": task.started_at, "status": "STARTED", "attempt": task.attempt, "note": f"by {task.worker}"},
        last,
    ]


def _waiting(chance: random.Random, now: dt.datetime, robot: str, handler: str) -> Task:
    made = now - dt.timedelta(minutes=chance.uniform(5, 300))
    return _task(chance, made, robot, handler, Status.QUEUED)


def _scheduled(chance: random.Random, now: dt.datetime) -> Task:
    task = _task(chance, now - dt.timedelta(hours=1), "Robby", "wait", Status.SCHEDULED)
    task.run_at = now + dt.timedelta(hours=chance.uniform(1, 9))
    return task


def _task(chance: random.Random, made: dt.datetime, robot: str, handler: str, status: Status) -> Task:
    by = chance.choice(["leela", "fry", "night-shift"])
    return Task(
        id=_id(chance, made),
        robot=robot,
        handler=handler,
        params={"path": "status"} if handler == "http" else {"seconds": 20.0, "steps": 10} if handler == "wait" else {},
        status=status,
        labels=["night"] if made.hour < 6 else [],
        timeout=60.0,
        max_attempts=3,
        requested_by=by,
        stored_at=made,
        changed_at=made,
        history=[{"at": made, "status": "QUEUED", "attempt": 0, "note": f"by {by}"}],
    )


def explain_the_trouble() -> Task:
    """Return the last task that failed in the troubled night, its log with it."""
    task = Task.objects.of_robot(TROUBLED).failed().first()
    for attempt in range(1, task.attempt + 1):
        LogLine.objects.create(task=task.pk, attempt=attempt, text="POST http://marvin.example/status: 503")
    return task
