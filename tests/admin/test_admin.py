"""Who is let into the admin, and what only superusers may do there."""

import pytest
from django.contrib.admin.models import LogEntry

from fmv.accounts import superusers
from fmv.accounts.models import User
from fmv.accounts.permissions import Role
from fmv.audit.models import AuditEntry
from tests.support.factories import PASSWORD, make_user
from tests.support.pages import ROBOTS, TASKS, USERS, admin, text
from tests.support.probes import listening

pytestmark = pytest.mark.django_db


def test_a_stranger_signs_in_first(client):
    for url in ("/admin/", ROBOTS, TASKS, USERS):
        answer = client.get(url)
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("/admin/login/")


def test_somebody_without_a_role_is_not_let_in(client):
    make_user(Role.NONE, username="nobody")
    answer = client.post("/admin/login/", {"username": "nobody", "password": PASSWORD})
    assert "enter the correct username" in text(answer)
    assert admin(Role.NONE).get(ROBOTS).status_code == 302


def test_signing_in_takes_the_right_password(client):
    make_user(Role.VIEWER, username="Leela")
    for password in ("wrong", "", "\0"):
        assert client.post("/admin/login/", {"username": "Leela", "password": password}).status_code == 200
    for username in ("leela", ".*", "\0"):
        assert client.post("/admin/login/", {"username": username, "password": PASSWORD}).status_code == 200, username
    assert client.post("/admin/login/", {"username": "Leela", "password": PASSWORD}).status_code == 302


def test_users_are_the_superusers_business():
    user = make_user(Role.VIEWER, password=None)
    for role in (Role.VIEWER, Role.MANAGER):
        client = admin(role)
        assert client.get(USERS).status_code == 403
        assert client.post(f"{USERS}{user.pk}/change/", {"role": "manager", "is_superuser": "on"}).status_code == 403
    client = admin(Role.NONE, is_superuser=True)
    assert user.username in text(client.get(USERS))
    form = {"username": "Fry", "usable_password": "true", "role": "operator"}
    form |= {"password1": PASSWORD, "password2": PASSWORD}
    assert client.post(USERS + "add/", form).status_code == 302
    assert type(user).objects.get(username="Fry").role == Role.OPERATOR
    assert client.post(f"{USERS}{user.pk}/delete/", {"post": "yes"}).status_code == 403


def test_the_last_superuser_stays_one():
    client = admin(Role.NONE, username="root", is_superuser=True)
    make_user(username="gone", is_superuser=True, is_active=False)
    root, users = User.objects.get(username="root"), User.objects.filter(username="root")
    fields, page = {"username": "root", "role": "manager"}, f"{USERS}{root.pk}/change/"
    for less in ({"is_active": "on"}, {"is_superuser": "on"}):
        assert "Make another user a superuser first" in text(client.post(page, fields | less))
        assert (users.get().is_superuser, users.get().is_active, users.get().role) == (True, True, Role.NONE)
    assert client.post(page, fields | {"is_superuser": "on", "is_active": "on"}).status_code == 302
    assert users.get().role == Role.MANAGER
    make_user(username="other", is_superuser=True)
    assert client.post(page, fields | {"is_active": "on"}).status_code == 302
    assert not users.get().is_superuser


LONG = "x" * 1001
SEARCHES = [
    *(
        ROBOTS + "?q=a%00",
        ROBOTS + "rows/?q=%00",
        ROBOTS + "?label=%00",
        "/admin/find/?q=%00",
        "/admin/fmv/apitoken/?q=%00",
    ),
    *(USERS + "?q=%00", USERS + "?username__icontains=%00", USERS + "?name__startswith=a%00", USERS + "?name__regex=("),
    *("/admin/fmv/auditentry/?q=%00", "/admin/fmv/auditentry/?key__icontains=%00"),
    "/admin/django_celery_results/taskresult/?q=%00",
    *(f"{ROBOTS}?q={LONG}", f"{ROBOTS}rows/?q={LONG}", f"{USERS}?q={LONG}", f"{USERS}?username__icontains={LONG}"),
    *(f"/admin/export/robots/robot/?q={LONG}", f"/admin/export/fmv/user/?q={LONG}"),
]


@pytest.mark.parametrize("url", SEARCHES)
def test_no_search_sends_a_regular_expression_that_mongodb_refuses_because_of_nul_or_its_length(url):
    client = admin(is_superuser=True)
    with listening() as commands:
        assert client.get(url, follow=True).status_code in (200, 400)
    sent = repr([{name: value for name, value in body.items() if name != "lsid"} for body in commands.bodies])
    assert "regex" not in sent
    assert "\\x00" not in sent or "label" in url


def test_two_superusers_who_demote_each_other_at_once_leave_one(monkeypatch):
    clients = {name: admin(Role.NONE, username=name, is_superuser=True) for name in ("root", "toor")}
    original, begun = superusers.is_last_superuser, []

    def demote(by, name):
        page = f"{USERS}{User.objects.get(username=name).pk}/change/"
        return clients[by].post(page, {"username": name, "role": "manager", "is_active": "on"}, follow=True)

    def look_and_dawdle(user):
        found = original(user)
        if not begun:
            begun.append("the other, from begin to end between the check and the write of this one")
            demote("toor", "root")
        return found

    monkeypatch.setattr(superusers, "is_last_superuser", look_and_dawdle)
    refused = demote("root", "toor")
    assert not User.objects.get(username="root").is_superuser
    assert User.objects.get(username="toor").is_superuser
    assert refused.redirect_chain
    monkeypatch.undo()
    assert User.objects.filter(is_superuser=True, is_active=True).count() == 1


def test_users_and_tokens_are_recorded_once_in_the_audit_list(settings):
    client = admin(Role.NONE, username="root", is_superuser=True)
    form = {"username": "Fry", "usable_password": "false", "role": "viewer"}
    form |= {"password1": PASSWORD, "password2": PASSWORD, "usable_password": "true"}
    assert client.post(USERS + "add/", form).status_code == 302
    fry = User.objects.get(username="Fry")
    changed = {"username": "Fry", "role": "operator", "is_active": "on"}
    assert client.post(f"{USERS}{fry.pk}/change/", changed).status_code == 302
    token = {"name": "gateway", "role": "viewer", "days": 1, "user": fry.pk}
    assert client.post("/admin/fmv/apitoken/add/", token).status_code == 200
    actions = sorted(AuditEntry.objects.exclude(action="auth.login").values_list("action", flat=True))
    assert actions == ["token.create", "user.create", "user.role"]
    assert not LogEntry.objects.exists()
