"""Tasks in the admin: the list and what narrows it, a task's page, cancel and retry, one or many."""

import datetime as dt

import pytest
from django.utils import timezone
from uuid_utils.compat import uuid7

from fmv.accounts.permissions import Role
from fmv.audit.models import AuditEntry
from fmv.mongodb.uuid7 import id_at
from robots.models import Robot
from tasks.models import UNFINISHED, Bulk, LogLine, Task
from tasks.models.error_document import error_document
from tasks.queue import bulk, services
from tests.support.api import stored
from tests.support.factories import make_robot, make_task
from tests.support.pages import TASKS, admin, messages, robot_url, task_url, text
from tests.support.probes import listening

pytestmark = pytest.mark.django_db(transaction=True)

NASTY = '<script>alert("1")</script>'
ACTIONS = ("cancel", "retry")


def ago(**span):
    return timezone.now() - dt.timedelta(**span)


def listed(client, query=""):
    answer = client.get(f"{TASKS}?{query}")
    text(answer)
    return [task.pk for task in answer.context["tasks"]]


# --- The list --------------------------------------------------------------------------------------------------------


def test_the_list_shows_the_newest_first_and_how_they_are_doing():
    done = make_task(
        robot="Wall-E", status="SUCCESS", started_at=ago(seconds=75), finished_at=ago(seconds=5), attempt=1
    )
    run = make_task(robot="Bender", status="STARTED", lane="Bender/0", progress=41.5, attempt=2, max_attempts=3)
    client = admin(Role.VIEWER)
    assert listed(client) == [run.pk, done.pk]
    shown = text(client.get(TASKS))
    for part in ('value="41.5"', "2 of 3", "1 min 10 s", "status-STARTED", robot_url("Bender"), "2 tasks"):
        assert part in shown, part


def test_the_list_tells_why_a_task_failed_without_its_traceback():
    make_task(status="FAILURE", error=error_document("OSError", f"answered {NASTY}", "Trace"))
    answer = admin(Role.VIEWER).get(TASKS)
    assert "OSError: answered &lt;script" in text(answer)
    assert [task.error for task in answer.context["tasks"]] == [{"type": "OSError", "message": f"answered {NASTY}"}]


def test_how_many_tasks_match_is_said_in_good_english():
    for said in ("0 tasks match,", "1 task matches,", "2 tasks match,"):
        assert said in text(admin().get(TASKS + "?robot=R2"))
        make_task(robot="R2")


def test_without_tasks_the_list_says_so():
    assert "There are no tasks yet" in text(admin().get(TASKS))
    assert "No task matches" in text(admin().get(TASKS + "?robot=x"))


def test_each_filter_finds_its_tasks_and_filters_go_together():
    old = make_task(id=id_at(ago(days=9)), robot="Old", status="SUCCESS", finished_at=ago(days=9))
    failed = make_task(robot="Sick", status="FAILURE", finished_at=ago(hours=2), error=error_document("E", "m"))
    long_ago = make_task(robot="Sick", status="FAILURE", finished_at=ago(days=2), error=error_document("Lost", "m"))
    waiting = make_task(id=id_at(ago(hours=2)), robot="R2", status="QUEUED", labels=["night"])
    fresh = make_task(robot="R2", status="QUEUED", handler="primes", requested_by="fry")
    stuck = make_task(robot="R2", status="STARTED", lane="R2/0", lease_expires_at=ago(minutes=5))
    revoked = make_task(id=id_at(ago(days=8)), robot="R3", status="REVOKED", error=error_document("Lost", "m"))
    again = make_task(id=id_at(ago(days=8, hours=1)), robot="R3", status="RETRY", error=error_document("Lost", "m"))
    client = admin(Role.VIEWER)
    for query, found in {
        "status=FAILURE": [long_ago, failed],
        "status=QUEUED&status=STARTED": [stuck, fresh, waiting],
        "robot=R2": [stuck, fresh, waiting],
        "robot=R": [],
        "handler=primes": [fresh],
        "label=night": [waiting],
        "requested_by=fry": [fresh],
        "error=Lost": [long_ago, again],
        "error=Lost&status=REVOKED&status=SUCCESS": [revoked],
        "error=Lost&status=SUCCESS": [],
        "error=Lost&show=failed": [],
        "age=hour": [stuck, fresh, long_ago, failed],
        "age=week": [stuck, fresh, long_ago, failed, waiting],
        "age=older": [revoked, again, old],
        "show=stuck": [stuck],
        "show=failed": [failed],
        "show=waiting": [waiting],
        "show=failed&robot=R2": [],
        "show=failed&status=QUEUED": [failed],
        f"show=failed&finished_before={ago(days=1):%Y-%m-%dT%H:%MZ}": [long_ago],
        f"show=failed&finished_after={ago(days=3):%Y-%m-%dT%H:%MZ}": [long_ago, failed],
        "run=0190a000-0000-7000-8000-000000000000": [],
        "robot=R2&status=QUEUED&age=hour": [fresh],
    }.items():
        assert listed(client, query) == [task.pk for task in found], query


@pytest.mark.parametrize(
    "query",
    [
        "status=BOGUS",
        "statuss=FAILURE",
        "robot=R2&robot=R2",
        "o=3",
        "show=all",
        "age=%00",
        "robot=" + "x" * 151,
        "label=a%00",
        "run=17",
    ],
)
def test_a_wrong_filter_shows_no_task_and_says_why(query):
    task = make_task(robot="R2")
    client = admin()
    shown = text(client.get(f"{TASKS}?{query}"))
    assert 'role="alert"' in shown
    assert str(task.pk) not in shown
    assert client.get(f"{TASKS}rows/?{query}").status_code == 204
    for confirmed in ("", "yes"):
        client.post(f"{TASKS}act/?{query}", {"scope": "all", "action": "cancel", "confirmed": confirmed})
    assert Task.objects.get().status == "QUEUED"


def test_the_list_goes_on_from_the_last_task_of_the_page():
    tasks = [make_task(robot="R2", status="QUEUED").pk for _ in range(51)][::-1]
    make_task(robot="C3")
    client = admin(Role.VIEWER)
    first = client.get(TASKS + "?robot=R2")
    assert [task.pk for task in first.context["tasks"]] == tasks[:50]
    assert listed(client, first.context["older"]) == tasks[50:]
    assert listed(client, "robot=R2&before=nonsense") == tasks[:50]


def test_the_rows_move_by_themselves_until_nothing_can_change():
    task = make_task(robot="R2", status="STARTED", lane="R2/0", progress=1.0)
    client = admin(Role.VIEWER)
    before = f"{TASKS}rows/?before={uuid7()}"
    assert client.get(before).headers["X-Live"] == "goes on"
    Task.objects.filter(pk=task.pk).update(status="SUCCESS", lane=None)
    answer = client.get(before)
    assert answer.headers["X-Live"] == "done"
    assert "SUCCESS" in text(answer)
    assert "<html" not in text(answer)
    assert client.get(f"{TASKS}rows/").headers["X-Live"] == "goes on"  # a new task may come


def test_many_tasks_take_as_many_queries_as_one_and_none_reads_results():
    client = admin(Role.VIEWER)
    make_task(robot="R2", status="SUCCESS")  # why queued ones wait costs more: see test_page_costs.py
    with listening() as one:
        client.get(TASKS)
    for _ in range(60):
        make_task(robot="R2", status="SUCCESS", result={"big": "x" * 1000})
    with listening() as many:
        client.get(TASKS)
    assert len(one.sent) == len(many.sent) <= 4, many.sent


def test_the_number_of_tasks_is_counted_to_a_bound(monkeypatch):
    monkeypatch.setattr("tasks.queue.bulk.MAX_ESTIMATE", 2)
    for _ in range(3):
        make_task(robot="R2")
    assert "more than 2 tasks match" in text(admin().get(TASKS + "?robot=R2"))
    assert "3 tasks," in text(admin().get(TASKS))  # of all by their collection's own number


# --- A task's page ---------------------------------------------------------------------------------------------------


def test_a_finished_task_shows_what_became_of_it():
    moment = ago(hours=1)
    history = [
        {"at": moment, "status": "QUEUED", "attempt": 0, "note": "by fry"},
        {"at": moment + dt.timedelta(seconds=200), "status": "FAILURE", "attempt": 1, "note": f"E: {NASTY}"},
    ]
    task = make_task(
        status="FAILURE",
        error={"type": NASTY, "message": NASTY, "traceback": f"Trace {NASTY}"},
        params={"text": NASTY},
        labels=[NASTY],
        requested_by=NASTY[:20],
        message=NASTY,
        history=history,
    )
    LogLine.objects.create(task=task.pk, attempt=1, text=f"a line {NASTY}")
    answer = admin(Role.VIEWER).get(task_url(task))
    shown = text(answer)
    for part in ("status-FAILURE", "Trace &lt;script", "a line &lt;script", "after 3 min 20 s", "by fry", str(task.pk)):
        assert part in shown, part
    assert "<script>alert" not in shown
    assert "data-live" not in shown
    assert "<script>alert" not in text(admin().get(TASKS))


def test_what_came_of_it_stands_above_its_history():
    for title, task in (
        ("Why it failed", make_task(status="FAILURE", error=error_document("OSError", "no answer"))),
        ("Result", make_task(status="SUCCESS", result=1)),
    ):
        shown = text(admin(Role.VIEWER).get(task_url(task)))
        assert shown.index(f">{title}</h2>") < shown.index(">History</h2>")


def test_a_result_is_shown_as_json_with_its_size():
    task = make_task(status="SUCCESS", result={"ä": [1, None, "<b>"]})
    shown = text(admin(Role.VIEWER).get(task_url(task)))
    assert "&quot;ä&quot;: [" in shown
    assert "21 bytes" in shown
    long = make_task(status="SUCCESS", result=["x" * 1000] * 300)
    shown = text(admin(Role.VIEWER).get(task_url(long)))
    assert len(shown) < 150_000
    assert "the API returns all of it" in shown


def test_a_running_task_is_kept_fresh_until_it_is_over():
    task = make_task(status="STARTED", robot="R2", lane="R2/0", progress=10.0, message="on the way", started_at=ago())
    client = admin(Role.VIEWER)
    shown = text(client.get(task_url(task)))
    assert f'data-live="{task_url(task, "state")}"' in shown
    assert f'data-live="{task_url(task, "log")}"' in shown
    for page, part in (("state", 'value="10.0"'), ("log", "No log lines")):
        answer = client.get(task_url(task, page))
        assert part in text(answer)
        assert answer.headers["X-Live"] == "goes on"
    Task.objects.filter(pk=task.pk).update(status="SUCCESS", lane=None, progress=100)
    for page in ("state", "log"):
        assert client.get(task_url(task, page)).headers["X-Live"] == "done"


def test_the_log_shows_its_latest_lines():
    task = make_task(status="STARTED", robot="R2", lane="R2/0")
    for number in range(205):
        LogLine.objects.create(task=task.pk, attempt=1, text=f"line {number}.")
    shown = text(admin(Role.VIEWER).get(task_url(task, "log")))
    assert "line 4." not in shown
    assert shown.index("line 5.") < shown.index("line 204.")


def test_a_task_leads_to_what_it_repeats_and_to_what_repeats_it():
    first = make_task(status="FAILURE")
    second = make_task(status="FAILURE", retry_of=first.pk)
    third = make_task(status="QUEUED", retry_of=first.pk)
    client = admin(Role.VIEWER)
    shown = text(client.get(task_url(first)))
    assert task_url(second) in shown
    assert task_url(third) in shown
    assert task_url(first) in text(client.get(task_url(second)))


def test_a_task_that_is_not_there_leads_to_the_list():
    client = admin(Role.VIEWER)
    for key in (uuid7(), "x", "%00"):
        answer = client.get(f"{TASKS}{key}/change/", follow=True)
        assert answer.redirect_chain[-1][0] == TASKS
        assert messages(answer)[0].startswith("There is no task")
    assert client.get(f"{TASKS}{uuid7()}/state/").status_code == 404


def test_the_page_of_a_task_takes_few_queries():
    task = make_task(status="SUCCESS", retry_of=uuid7())
    client = admin(Role.VIEWER)
    with listening() as commands:
        client.get(task_url(task))
    assert len(commands.sent) <= 6, commands.sent


# --- Cancel and retry ------------------------------------------------------------------------------------------------


def test_a_waiting_task_is_cancelled_and_the_page_tells_by_whom():
    task = make_task(status="QUEUED")
    answer = admin(Role.OPERATOR, username="leela").post(task_url(task, "cancel"), follow=True)
    assert messages(answer) == ["The task is cancelled."]
    assert answer.redirect_chain == [(task_url(task), 302)]
    assert "task.cancel" in text(answer)
    assert Task.objects.get().status == "REVOKED"
    entry = AuditEntry.objects.get()
    assert (entry.by, entry.action, entry.key) == ("leela", "task.cancel", str(task.pk))


def test_a_running_task_is_asked_to_stop():
    task = make_task(status="STARTED", robot="R2", lane="R2/0")
    answer = admin(Role.OPERATOR).post(task_url(task, "cancel"), follow=True)
    assert messages(answer) == []  # the page says so, and no longer than it is true
    assert "being stopped" in text(answer)
    assert f'formaction="{task_url(task, "cancel")}"' not in text(answer)
    assert Task.objects.get().cancel_requested


def test_a_finished_task_is_retried_and_the_new_one_is_shown():
    task = make_task(robot=make_robot(name="R2"), status="FAILURE")
    answer = admin(Role.OPERATOR).post(task_url(task, "retry"), follow=True)
    new = Task.objects.queued().get()
    assert answer.redirect_chain == [(task_url(new), 302)]
    assert (new.retry_of, new.robot, new.handler) == (task.pk, "R2", task.handler)


def test_a_task_that_was_cancelled_before_its_time_is_retried_at_that_time_or_now():
    due = (timezone.now() + dt.timedelta(days=3)).replace(microsecond=0)
    run = {"robot": make_robot(name="R2").name, "handler": "wait", "params": {"seconds": 1}, "run_at": due}
    task, client = services.submit(run, by="fry"), admin(Role.OPERATOR)
    services.cancel(task, by="fry")
    shown = text(client.get(task_url(task)))
    assert f"Retry at {due:%Y-%m-%d %H:%M} UTC" in shown
    assert "Retry now" in shown
    client.post(task_url(task, "retry"), {"repetitions": 0})
    later = Task.objects.get(retry_of=task.pk)
    assert (later.status, later.run_at) == ("SCHEDULED", due)
    client.post(task_url(task, "retry") + "?when=now", {"repetitions": 1})
    assert Task.objects.filter(retry_of=task.pk, status="QUEUED").count() == 1


@pytest.mark.parametrize(
    ("status", "minutes", "fact"),
    [
        ("SCHEDULED", 5, "Due"),
        ("RETRY", 5, "Due"),
        ("RETRY", -3, "Due"),
        ("QUEUED", -3, "Queued since"),  # after a retry, or at its time
    ],
)
def test_no_task_waits_until_a_time_that_is_over(status, minutes, fact):
    at = timezone.now() + dt.timedelta(minutes=minutes)
    shown = text(admin().get(task_url(make_task(status=status, attempt=1, run_at=at))))
    assert f'<dt>{fact}</dt><dd><time datetime="{at.isoformat(timespec="milliseconds")}"' in shown
    assert "Waits until" not in shown


def test_a_bulk_retry_keeps_the_time_of_tasks_that_were_cancelled_before_it():
    due = (timezone.now() + dt.timedelta(days=3)).replace(microsecond=0)
    run = {"robot": make_robot(name="R2").name, "handler": "wait", "params": {"seconds": 1}, "run_at": due}
    services.cancel(services.submit(run, by="fry"), by="fry")
    bulk.run(bulk.start("retry", by="amy", conditions={"robot": "R2"}))
    assert Task.objects.get(requested_by="amy").run_at == due


def test_who_did_not_see_that_it_was_retried_meanwhile_is_told():
    task = make_task(robot=make_robot(name="R2"), status="FAILURE")
    one, other = admin(Role.OPERATOR), admin(Role.OPERATOR)
    seen = [len(client.get(task_url(task)).context["repetitions"]) for client in (one, other)]
    assert seen == [0, 0]
    one.post(task_url(task, "retry"), {"repetitions": 0})
    answer = other.post(task_url(task, "retry"), {"repetitions": 0}, follow=True)
    assert "has retried this task meanwhile" in messages(answer)[0]
    assert Task.objects.filter(retry_of=task.pk).count() == 1
    assert 'name="repetitions" value="1"' in text(answer)
    other.post(task_url(task, "retry"), {"repetitions": 1})
    assert Task.objects.filter(retry_of=task.pk).count() == 2


def test_what_a_task_cannot_do_is_said_and_changes_nothing():
    make_robot(name="R2")
    waiting, over, orphan = make_task(robot="R2"), make_task(robot="R2", status="SUCCESS"), make_task(status="FAILURE")
    Robot.objects.filter(pk=orphan.robot).delete()
    client, before = admin(Role.OPERATOR), stored()
    for task, verb, says in (
        (waiting, "retry", "not over yet"),
        (over, "cancel", "already over"),
        (orphan, "retry", "robot no longer exists"),
    ):
        answer = client.post(task_url(task, verb), follow=True)
        assert says in messages(answer)[0]
    assert client.post(f"{TASKS}{uuid7()}/cancel/", follow=True).redirect_chain[-1][0] == TASKS
    assert stored() == before


@pytest.mark.parametrize("status", ["QUEUED", "SUCCESS"])
def test_an_operator_has_the_button_that_fits_the_state(status):
    task = make_task(status=status)
    shown = text(admin(Role.OPERATOR).get(task_url(task)))
    assert (task_url(task, "cancel") in shown, task_url(task, "retry") in shown) == (
        status in UNFINISHED,
        status not in UNFINISHED,
    )


# --- Roles -----------------------------------------------------------------------------------------------------------


def test_a_viewer_sees_and_cannot_touch():
    waiting, over = make_task(robot=make_robot(name="R2")), make_task(robot="R2", status="FAILURE")
    client, before = admin(Role.VIEWER), stored()
    for url in (TASKS, TASKS + "rows/", task_url(waiting), task_url(over), task_url(over, "state")):
        shown = text(client.get(url))
        for part in ("Cancel", "Retry selected", ">Retry<", 'type="checkbox"', "fmv-operate"):
            assert part not in shown, (url, part)
    assert client.post(task_url(waiting, "cancel")).status_code == 403
    assert client.post(task_url(over, "retry")).status_code == 403
    for action in ACTIONS:
        for form in ({"scope": "all"}, {"id": [str(waiting.pk), str(over.pk)]}):
            answer = client.post(TASKS + "act/", form | {"action": action, "confirmed": "yes"})
            assert answer.status_code == 403, (action, form)
    assert stored() == before
    assert not Bulk.objects.exists()


@pytest.mark.parametrize("role", [Role.VIEWER, Role.MANAGER, "superuser"])
def test_tasks_are_for_reading_even_by_hand_made_forms(role):
    client = admin(Role.NONE, is_superuser=True) if role == "superuser" else admin(role)
    task = make_task(robot=make_robot(name="R2"))
    page = task_url(task)
    assert 'name="_save"' not in text(client.get(page))
    before = stored()
    for url in (page, TASKS + "add/", f"{TASKS}{task.pk}/delete/"):
        answer = client.post(url, {"status": "SUCCESS", "robot": "R3", "handler": "wait", "post": "yes"})
        assert answer.status_code == 403, url
    client.post(TASKS, {"action": "delete_selected", "_selected_action": [str(task.pk)], "post": "yes"})
    client.post(
        TASKS, {"form-TOTAL_FORMS": "1", "form-0-id": str(task.pk), "form-0-status": "SUCCESS", "_save": "Save"}
    )
    assert stored() == before


def test_nothing_changes_without_a_csrf_token():
    waiting, over = make_task(robot=make_robot(name="R2")), make_task(robot="R2", status="FAILURE")
    client, before = admin(enforce_csrf_checks=True), stored()
    assert client.post(task_url(waiting, "cancel")).status_code == 403
    assert client.post(task_url(over, "retry")).status_code == 403
    assert client.post(TASKS + "act/", {"scope": "all", "action": "cancel", "confirmed": "yes"}).status_code == 403
    assert stored() == before


def test_a_stranger_signs_in_first(client):
    task = make_task()
    for url in (TASKS, TASKS + "rows/", task_url(task), task_url(task, "state"), task_url(task, "log")):
        assert client.get(url).headers["Location"].startswith("/admin/login/"), url
    for url in (TASKS + "act/", task_url(task, "cancel")):
        assert client.post(url).headers["Location"].startswith("/admin/login/"), url


def test_odd_addresses_never_harm():
    client = admin()
    for url in (
        *(TASKS + "?status=BOGUS", TASKS + "?q=%00", TASKS + "?id=x", TASKS + "?o=-1", TASKS + "?robot__exact[$ne]=1"),
        *(TASKS + "?robot[$ne]=1", TASKS + "?label=$where", TASKS + "?before=%00", TASKS + "?p=x", TASKS + "?all="),
        *(TASKS + "x/change/", TASKS + "%00/change/", TASKS + "x/history/", TASKS + "x/state/", TASKS + "x/cancel/"),
        *(TASKS + "00000000-0000-0000-0000-000000000000/change/", TASKS + "00000000-0000-0000-0000-000000000000/log/"),
    ):
        assert client.get(url, follow=True).status_code in (200, 400, 403, 404, 405), url
