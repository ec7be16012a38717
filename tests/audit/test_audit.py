"""Who did what: every change that somebody makes leaves an entry, by whichever door."""

import datetime as dt
import io
import logging
import uuid

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone

import robots.services
from fmv import audit
from fmv.accounts import api_tokens, oidc_users
from fmv.accounts.permissions import Role
from fmv.audit.models import AuditEntry
from fmv.http import request_id
from fmv.mongodb.uuid7 import id_at
from robots.errors import Changed, NameTaken, UnknownRobot
from robots.models import Robot
from tasks import jobs
from tasks.models import Bulk, Status
from tasks.queue import bulk, periodic, services
from tasks.queue.errors import AlreadyFinished, NotFinished
from tests.support.api import Api
from tests.support.factories import PASSWORD, make_robot, make_task, make_user
from tests.support.probes import listening, make_task_in, recorded_bells, started

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


def entries(kind, key):
    """What was done to it, oldest first: (action, by, text)."""
    return [(entry.action, entry.by, entry.text) for entry in reversed(audit.of(kind, key))]


# --- Entries ---------------------------------------------------------------------------------------------------------


def test_an_entry_says_who_what_when_and_in_which_request():
    token = request_id.current.set("request 5")
    before = timezone.now()
    audit.record("robot.paint", by="amy", kind="robot", key="R2", text="in blue")
    request_id.current.reset(token)
    [entry] = audit.of("robot", "R2")
    assert (entry.by, entry.action, entry.text, entry.request_id) == ("amy", "robot.paint", "in blue", "request 5")
    assert abs(entry.at - before) < dt.timedelta(seconds=5)
    assert str(entry) == "robot.paint of R2 by amy"


def test_an_objects_entries_are_the_latest_first_and_its_own():
    for number in range(audit.MAX_ON_PAGE + 5):
        audit.record("robot.paint", by="amy", kind="robot", key="R2", text=str(number))
    audit.record("robot.paint", by="amy", kind="robot", key="R3")
    audit.record("user.create", by="amy", kind="user", key="R2")
    texts = [entry.text for entry in audit.of("robot", "R2")]
    assert texts == [str(number) for number in range(audit.MAX_ON_PAGE + 4, 4, -1)]


def test_what_is_too_long_is_cut():
    audit.record("robot.paint", by="x" * 500, kind="robot", key="y" * 500, text="z" * 5000)
    entry = AuditEntry.objects.get()
    assert (len(entry.by), len(entry.key), len(entry.text)) == (150, 150, 2000)


def test_an_entry_that_cannot_be_stored_is_in_the_log_and_the_act_stays_done(monkeypatch, caplog):
    def refuse(*args, **options):
        raise DatabaseError("no primary")

    task = make_task(robot=make_robot())
    monkeypatch.setattr(audit, "insert", refuse)
    with caplog.at_level(logging.ERROR, logger="fmv.audit"):
        answer = Api(Role.OPERATOR)("POST", f"/task/{task.pk}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "REVOKED")
    [line] = [record for record in caplog.records if record.name == "fmv.audit"]
    assert (line.levelname, line.action, line.key) == ("ERROR", "task.cancel", str(task.pk))
    for part in ("no primary", "task.cancel", str(task.pk), "it is REVOKED"):
        assert part in line.getMessage()


# --- Robots ----------------------------------------------------------------------------------------------------------


def test_what_happens_to_a_robot_is_told():
    values = {"location": "Lab", "description": "beep"}
    robots.services.create(name="R2", by="amy", **values)
    services.change_robot("R2", by="bob", location="Naboo", lanes=3, labels=["a", "b"], description="beep")
    services.replace_robot("R2", by="amy", location="Naboo", description="x" * 100)
    services.change_robot("R2", by="bob", enabled=False, lanes=2)
    services.put_in_service("R2", by="amy")
    services.change_robot("R2", by="bob", lanes=2)
    services.delete_robot(Robot.objects.get().name, by="amy")
    assert entries("robot", "R2") == [
        ("robot.create", "amy", "location: Lab; lanes: 1; labels: none; endpoint: none"),
        ("robot.change", "bob", "location: Lab → Naboo; lanes: 1 → 3; labels: none → a, b"),
        ("robot.change", "amy", f"description: beep → {'x' * 60}…; lanes: 3 → 1; labels: a, b → none"),
        ("robot.disable", "bob", "in service: yes → no; lanes: 1 → 2"),
        ("robot.enable", "amy", "in service: no → yes"),
        ("robot.change", "bob", "no change"),
        ("robot.delete", "amy", ""),
    ]


def test_a_replacement_that_makes_the_robot_is_told_as_that():
    services.replace_robot("R2", by="amy", location="Lab", description="beep")
    assert [action for action, _, _ in entries("robot", "R2")] == ["robot.create"]


def test_what_is_refused_is_not_told():
    robot = make_robot(name="R2")
    with pytest.raises(NameTaken):
        robots.services.create(name="R2", by="amy", location="Lab", description="beep")
    with pytest.raises(Changed):
        services.change_robot("R2", by="amy", revisions={7}, lanes=2)
    with pytest.raises(UnknownRobot):
        services.change_robot("R3", by="amy", lanes=2)
    with pytest.raises(UnknownRobot):
        robots.services.delete("R3", by="amy")
    services.change_robot("R2", by="amy")  # nothing to change
    assert robot.revision == 1
    assert not AuditEntry.objects.exists()


def test_the_api_says_who_and_in_which_request():
    user = make_user(Role.MANAGER, username="leela", password=None)
    api = Api(user)
    body = {"location": "Lab", "description": "beep"}
    api("POST", "/robot/", {"name": "R2"} | body, headers={"X-Request-ID": "rq-1"})
    api("PATCH", "/robot/R2", {"enabled": False})
    api("PUT", "/robot/R2", body)
    api("PUT", "/robot/R2", body, headers={"If-Match": "*"})
    api("PUT", "/robot/R3", body, headers={"If-None-Match": "*"})
    assert api("DELETE", "/robot/R2").status_code == 204
    told = [(entry.key, entry.action) for entry in AuditEntry.objects.order_by("id")]
    assert told == [
        ("R2", "robot.create"),
        ("R2", "robot.disable"),
        ("R2", "robot.enable"),
        ("R2", "robot.change"),
        ("R3", "robot.create"),
        ("R2", "robot.delete"),
    ]
    assert set(AuditEntry.objects.values_list("by", flat=True)) == {"leela"}
    assert AuditEntry.objects.order_by("id")[0].request_id == "rq-1"


def test_sample_robots_come_by_command():
    call_command("sample_robots", stdout=io.StringIO())
    assert entries("robot", "Bender")[0][:2] == ("robot.create", "command")


# --- Tasks -----------------------------------------------------------------------------------------------------------


def test_cancel_and_retry_are_told_and_what_they_refuse_is_not():
    waits, runs, over = make_task(robot=make_robot()), started(), make_task_in(Status.FAILURE, robot=make_robot().name)
    for task in (waits, runs):
        services.cancel(task, by="amy")
    services.cancel(runs, by="amy")  # asked before
    with pytest.raises(AlreadyFinished):
        services.cancel(over, by="amy")
    new = services.retry(over, by="bob")
    with pytest.raises(NotFinished):
        services.retry(new, by="bob")
    assert entries("task", waits.pk) == [("task.cancel", "amy", "it is REVOKED")]
    assert entries("task", runs.pk) == [("task.cancel", "amy", "it is STARTED")]
    assert entries("task", over.pk) == [("task.retry", "bob", f"as {new.pk}")]
    assert entries("task", new.pk) == []


def test_what_is_done_all_day_costs_no_entry():
    robot = make_robot()
    services.submit({"robot": robot.name, "handler": "noop"}, by="amy")
    with recorded_bells():
        from tasks.worker.claim import run_next

        run_next(robot.name, "message")
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize(
    ("act", "cost"),
    [
        (lambda robot: services.change_robot(robot.name, by="amy", location="Elsewhere"), 3),
        (lambda robot: services.change_robot(robot.name, by="amy", enabled=False), 3),
        (lambda robot: robots.services.create(name=f"{robot.name} 2", by="amy", location="Lab", description="x"), 2),
        (lambda robot: robots.services.delete(robot.name, by="amy"), 6),
    ],
)
def test_an_act_on_a_robot_costs_few_round_trips(act, cost):
    robot = make_robot()
    with listening() as commands:
        act(robot)
    assert len(commands.sent) == cost, "\n".join(commands.sent)
    assert commands.sent[-1] == "insert fmv_auditentry"


# --- Users and tokens ------------------------------------------------------------------------------------------------


def superuser():
    client = Client()
    client.force_login(make_user(Role.NONE, username="root", is_superuser=True, password=None))
    return client


def test_users_made_and_changed_in_the_admin_are_told():
    client, users = superuser(), "/admin/fmv/user/"
    form = {"username": "fry", "usable_password": "true", "role": "operator"}
    assert client.post(users + "add/", form | {"password1": PASSWORD, "password2": PASSWORD}).status_code == 302
    page = f"{users}{get_user_model().objects.get(username='fry').pk}/"
    rest = {"username": "fry", "name": "", "email": "", "picture": ""}
    for fields in (
        {"role": "manager", "is_active": "on"},
        {"role": "manager"},
        {"role": "manager", "is_active": "on", "is_superuser": "on"},
        {"role": "manager", "is_active": "on", "is_superuser": "on"},
    ):
        answer = client.post(f"{page}change/", rest | fields)
        assert answer.status_code == 302, answer.content
    password = {"usable_password": "true", "password1": PASSWORD + "!", "password2": PASSWORD + "!"}
    assert client.post(f"{page}password/", password | {"password2": "other"}).status_code == 200
    assert client.post(f"{page}password/", password).status_code == 302
    assert entries("user", "fry") == [
        ("user.create", "root", "role: operator"),
        ("user.role", "root", "role: operator → manager"),
        ("user.deactivate", "root", "is_active: yes → no"),
        ("user.activate", "root", "is_active: no → yes; is_superuser: no → yes"),
        ("user.password", "root", ""),
    ]


def test_who_changes_the_own_password_is_told():
    client = Client()
    client.force_login(make_user(Role.VIEWER, username="amy"))
    form = {"old_password": PASSWORD, "new_password1": PASSWORD + "!", "new_password2": PASSWORD + "!"}
    assert client.post("/admin/password_change/", form | {"old_password": "wrong"}).status_code == 200
    assert client.post("/admin/password_change/", form).status_code == 302
    assert entries("user", "amy") == [("user.password", "amy", "")]


def test_the_first_superuser_is_told():
    call_command("ensure_admin", stdout=io.StringIO())
    assert entries("user", "admin") == [("user.create", "command", "role: none, superuser")]


def test_who_the_issuer_makes_and_promotes_is_told(monkeypatch, settings):
    from fmv.accounts.oidc import Claims

    settings.ENVIRONMENT.oidc_issuer, settings.ENVIRONMENT.oidc_role_claim = "https://issuer", "fmv_role"

    def sign_in(**claims):
        said = Claims(sub="u-1", preferred_username="leela", **claims)
        monkeypatch.setattr(oidc_users, "verify", lambda *_: said)
        return oidc_users.sign_in("token")

    for roles in (["viewer"], ["viewer"], ["manager"]):
        assert sign_in(roles=roles).role == roles[0]
    assert entries("user", "leela") == [
        ("user.create", "issuer", "role: viewer"),
        ("user.role", "issuer", "role: viewer → manager"),
    ]


def test_nobody_is_named_as_what_is_no_user():
    assert {"anonymous", "command", "issuer"} <= oidc_users.RESERVED


def test_tokens_made_and_revoked_are_told():
    user = make_user(Role.OPERATOR, username="amy", password=None)
    token = api_tokens.build(user, "gateway", role="viewer", days=7)
    api_tokens.store(token, by="root")
    assert api_tokens.revoke(token, by="bob")
    assert not api_tokens.revoke(token, by="bob")
    until = f"{token.expires_at:%Y-%m-%d}"
    assert entries("token", token.short_id) == [
        ("token.create", "root", f"gateway, of amy, as viewer, until {until}"),
        ("token.revoke", "bob", "gateway"),
    ]
    assert token.text not in str(list(AuditEntry.objects.values()))


# --- Retention -------------------------------------------------------------------------------------------------------


def made_at(days_ago, model=AuditEntry, **fields):
    moment = timezone.now() - dt.timedelta(days=days_ago)
    id = id_at(moment).int + model.objects.count()
    return model.objects.create(id=uuid.UUID(int=id), **fields)


def test_old_entries_and_runs_are_forgotten(monkeypatch, settings, trusted_clock):
    monkeypatch.setattr(audit, "DELETE_BATCH", 2)
    entry = {"by": "amy", "action": "robot.paint", "kind": "robot", "key": "R2"}
    for _ in range(5):
        made_at(8, **entry)
    young = made_at(6, **entry)
    run = {"action": "cancel", "by": "amy", "changed_at": timezone.now()}
    made_at(8, Bulk, open=False, **run)
    kept = [made_at(8, Bulk, **run), made_at(6, Bulk, open=False, **run)]
    assert periodic.delete_old_records(0) == 0
    settings.ENVIRONMENT.audit_days, settings.ENVIRONMENT.retention_days = 7, 0
    jobs.forget_runs()
    assert list(AuditEntry.objects.all()) == [young]
    assert set(Bulk.objects.values_list("pk", flat=True)) == {run.pk for run in kept}
    assert periodic.delete_old_records(5) == 2


def test_bulk_runs_are_told_by_their_beginning_and_their_stop():
    make_task_in(Status.QUEUED)
    run = bulk.start("cancel", by="amy", conditions={"handler": "wait"})
    bulk.stop(run, by="bob")
    assert entries("bulk", run.pk) == [
        ("bulk.start", "amy", "cancel tasks: handler wait"),
        ("bulk.stop", "bob", "after 0 of the tasks it had found"),
    ]
