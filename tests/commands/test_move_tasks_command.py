"""`manage.py move_tasks`: what matches and waits, to another robot's queue."""

import pytest

from tasks.models import Status, Task
from tests.support.commands import run
from tests.support.factories import make_robot
from tests.support.probes import make_task_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


@pytest.fixture
def tasks():
    make_robot(name="R2")
    make_robot(name="C3")
    return {status: make_task_in(status, robot="R2") for status in Status}


def test_it_moves_what_waits(tasks, bells):
    outcome = run("move_tasks", "--robot", "R2", "--to", "C3", "--yes")
    assert (outcome.status, outcome.out) == (0, "3 moved.\n")
    moved = set(Task.objects.of_robot("C3").values_list("pk", flat=True))
    assert moved == {tasks[status].pk for status in ("SCHEDULED", "QUEUED", "RETRY")}
    task = Task.objects.get(pk=tasks[Status.QUEUED].pk)
    assert task.status == "QUEUED"
    assert task.history[-1]["note"].startswith("moved from R2 to C3 by command")
    assert "C3" in {robot for _, robot, _ in bells()}


def test_repeated_it_finds_nothing_more(tasks):
    run("move_tasks", "--robot", "R2", "--to", "C3", "--yes")
    assert run("move_tasks", "--robot", "R2", "--to", "C3", "--yes").out == "No task matches.\n"


def test_a_dry_run_does_nothing(tasks):
    assert run("move_tasks", "--robot", "R2", "--to", "C3", "--dry-run").out.startswith("3 tasks would be moved.\n")
    assert not Task.objects.of_robot("C3").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["--robot", "R2", "--to", "nobody", "--yes"], 1, "There is no robot named 'nobody'."),
        (["--robot", "R2", "--yes"], 1, "one of the arguments --to --to-label is required"),
        (["--to", "C3", "--yes"], 2, "use --all"),
        (["--robot", "R2", "--to", "C3"], 2, "use --yes"),
    ],
)
def test_what_is_refused_moves_nothing(tasks, arguments, status, reason):
    outcome = run("move_tasks", *arguments)
    assert outcome.status == status
    assert reason in outcome.err
    assert Task.objects.of_robot("R2").count() == len(Status)
