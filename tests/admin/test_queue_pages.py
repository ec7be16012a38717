"""The pages and buttons with which operators hold, move and reorder queues."""

import pytest

from fmv.accounts.permissions import Role
from robots.models import Robot
from tasks.models import Bulk, Status, Task
from tasks.queue import services
from tests.support.agent_requests import submit as submit_on_robot
from tests.support.api import stored
from tests.support.factories import make_robot, make_task
from tests.support.pages import ROBOTS, admin, messages, robot_url, task_url, text
from tests.support.probes import make_task_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


@pytest.fixture
def operator():
    return admin(Role.OPERATOR, username="leela")


def queue_of(page: str) -> list[str]:
    """The ids of the tasks that the queue on a robot's page shows, in order."""
    rows = page.partition('aria-label="Queue"')[2].partition("</table>")[0].split('data-key="')[1:]
    return [row.partition('"')[0] for row in rows]


def test_a_viewer_sees_no_button_and_may_not_press_one():
    make_robot(name="R2")
    tasks = [make_task(robot="R2") for _ in range(2)]
    viewer, before = admin(Role.VIEWER), stored()
    shown = text(viewer.get(robot_url("R2"))) + text(viewer.get(task_url(tasks[0])))
    for words in ("To the front", "Change…", "Hold the queue", "Move the queue", "Place in the queue"):
        assert words not in shown
    urls = [robot_url("R2", page) for page in ("hold", "release", "move", "out", "in")]
    for url in (*urls, task_url(tasks[1], "place"), task_url(tasks[1], "front")):
        assert viewer.post(url, {"to": "R2", "priority": "9", "queue": "keep"}).status_code == 403
        assert viewer.get(url).status_code == 403
    assert stored() == before


def test_the_queue_shows_the_order_in_which_tasks_start(operator):
    robot = make_robot(name="R2")
    tasks = [make_task(robot=robot, priority=priority) for priority in (1, 9, 4, 4)]
    assert queue_of(text(operator.get(robot_url("R2")))) == [str(tasks[place].pk) for place in (1, 2, 3, 0)]
    answer = operator.post(f"{task_url(tasks[0], 'front')}?back=robot", follow=True)
    assert messages(answer) == [f"wait …{str(tasks[0].pk)[-8:]} is first in the queue of R2."]
    assert queue_of(text(answer)) == [str(tasks[place].pk) for place in (0, 1, 2, 3)]
    claimed = Task.look("R2", 4)[1]
    assert [str(task.pk) for task in claimed] == queue_of(text(answer))


def test_without_the_robot_s_page_the_button_leads_to_the_task(operator):
    task = make_task(robot=make_robot())
    assert operator.post(task_url(task, "front")).headers["Location"] == task_url(task)
    assert operator.get(task_url(task, "front")).status_code == 405


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (Status.SCHEDULED, "waits for its time"),
        (Status.STARTED, "runs or is over"),
        (Status.SUCCESS, "runs or is over"),
    ],
)
def test_what_is_not_queued_has_no_place(operator, status, says):
    make_robot(name="R2")
    task = make_task_in(status, robot="R2")
    shown = text(operator.get(task_url(task, "place")))
    assert says in shown
    assert "Put it in front" not in shown
    assert ("Change the priority" in shown) is (status == Status.SCHEDULED)
    before = stored()
    answer = operator.post(task_url(task, "front"), follow=True)
    assert messages(answer) == ["The task is not queued: only one that is can be put in front of the others."]
    assert stored() == before


def test_a_priority_is_changed(operator):
    task = make_task(robot=make_robot(name="R2"))
    assert 'value="4" selected' in text(operator.get(task_url(task, "place")))
    answer = operator.post(task_url(task, "place"), {"priority": "0"}, follow=True)
    assert messages(answer) == ["The priority is 0."]
    assert "priority 4 → 0 by leela" in text(answer)


@pytest.mark.parametrize("priority", ["10", "-1", "x", ""])
def test_another_priority_is_none(operator, priority):
    task = make_task(robot=make_robot())
    before = stored()
    answer = operator.post(task_url(task, "place"), {"priority": priority})
    text(answer)
    assert answer.context["priority_form"].errors["priority"]
    assert stored() == before


def test_a_task_that_has_started_meanwhile_keeps_its_priority(operator):
    task = make_task_in(Status.STARTED, robot=make_robot().name)
    answer = operator.post(task_url(task, "place"), {"priority": "9"})
    assert "only one that waits" in " ".join(answer.context["priority_form"].non_field_errors())


@pytest.mark.parametrize(
    ("where", "field", "says"),
    [
        ({}, "to", "Name a robot or a label."),
        ({"to": "Good", "label": "a"}, "to", "not both"),
        ({"to": "nobody"}, "to", "no robot nobody"),
        ({"to": "Out"}, "to", "out of service"),
        ({"label": "b"}, "label", "No other robot with the label b starts tasks"),
    ],
)
def test_where_nothing_can_move_to_is_said_beside_the_field(operator, where, field, says):
    make_robot(name="R2", labels=["b"]), make_robot(name="Good", labels=["a"]), make_robot(name="Out", enabled=False)
    task = make_task(robot="R2")
    before = stored()
    for url, more in ((robot_url("R2", "move"), {}), (task_url(task, "place"), {"move": "yes"})):
        answer = operator.post(url, where | more)
        text(answer)
        assert says in " ".join(answer.context["form"].errors[field])
    assert stored() == before


def test_a_task_that_cannot_run_there_is_refused_by_name(operator):
    task = submit_on_robot(make_robot(name="R2"))
    make_robot(name="Wall-E")
    answer = operator.post(task_url(task, "place"), {"move": "yes", "to": "Wall-E"})
    assert "Wall-E cannot run turn" in " ".join(answer.context["form"].errors["to"])
    answer = operator.post(robot_url("R2", "move"), {"to": "Wall-E"}, follow=True)
    assert "Wall-E cannot run turn: its agent is not signed in, or does not know it." in text(answer)
    assert (Bulk.objects.get().done, Bulk.objects.get().skipped) == (0, 1)


def test_names_and_labels_are_offered(operator):
    make_robot(name="R2", labels=["own"]), make_robot(name="Wall <E>", labels=["fork & lift"])
    make_robot(name="Out", enabled=False)
    for page in ("move", "out"):
        shown = text(operator.get(robot_url("R2", page)))
        assert '<option value="Wall &lt;E&gt;">' in shown
        assert '<option value="fork &amp; lift">' in shown
        assert '<option value="Out">' not in shown


def test_a_queue_goes_to_the_robots_with_a_label_when_its_robot_goes_out_of_service(operator):
    make_robot(name="R2"), make_robot(name="Wall-E", labels=["a"])
    task = make_task(robot="R2")
    answer = operator.post(robot_url("R2", "out"), {"queue": "spread", "label": "a"})
    assert answer.headers["Location"] == f"/admin/tasks/bulk/{Bulk.objects.get().pk}/change/"
    assert Task.objects.get(pk=task.pk).robot == "Wall-E"
    assert not Robot.objects.get(pk="R2").enabled


@pytest.mark.parametrize(("label", "says"), [("", "Name the label"), ("b", "No other robot with the label b")])
def test_where_it_cannot_go_it_stays_in_service(operator, label, says):
    make_robot(name="R2", labels=["b"])
    make_task(robot="R2")
    before = stored()
    answer = operator.post(robot_url("R2", "out"), {"queue": "spread", "label": label})
    text(answer)
    assert says in " ".join(answer.context["form"].errors["label"])
    assert stored() == before


def test_a_run_form_says_that_the_queue_is_held(operator):
    make_robot(name="R2")
    services.hold_queue("R2", by="fry")
    url = f"{robot_url('R2', 'run')}?handler=noop"
    assert "Its queue is held: the task would wait" in text(operator.get(url))
    answer = operator.post(url, {}, follow=True)
    assert messages(answer) == ["Submitted. The task waits until the queue of its robot is released."]


def test_what_is_gone_leads_to_the_list(operator):
    for page in ("hold", "move", "release"):
        answer = operator.post(robot_url("Gone", page), {"to": "x"}, follow=True)
        assert messages(answer) == ["There is no robot Gone."]
        assert answer.request["PATH_INFO"] == ROBOTS
