"""API tokens: how programs sign in."""

import datetime as dt
import hashlib
import logging
import re

import pytest
from django.db import connection
from django.utils import timezone

from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken, User
from fmv.accounts.permissions import Role
from tests.support.api import Api, assert_refused
from tests.support.factories import make_token, make_user
from tests.support.probes import at_once

pytestmark = pytest.mark.django_db

ROBOT = {"name": "R2", "location": "Tatooine", "description": "beep"}


def call(text, method="GET", path="/handler/", *body, **options):
    headers = {"Authorization": f"Bearer {text}"} | options.pop("headers", {})
    return Api(None, **options)(method, path, *body, headers=headers)


def detail(answer):
    assert_refused(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    return answer.json()["detail"]


def test_a_token_signs_its_user_in():
    assert call(make_token().text).status_code == 200


def test_what_it_changes_needs_no_csrf_token():
    assert call(make_token("manager").text, "POST", "/robot/", ROBOT, enforce_csrf_checks=True).status_code == 201


def test_a_task_names_the_user_of_the_token_that_asked_for_it():
    user = make_user("manager", password=None)
    text = make_token(user).text
    call(text, "POST", "/robot/", ROBOT)
    task = call(text, "POST", "/robot/R2/run", {"handler": "wait", "params": {"seconds": 0}}).json()
    assert call(text, "GET", f"/task/{task['task_id']}").json()["requested_by"] == user.username


def test_a_secret_looks_like_one_of_ours_and_is_not_kept():
    token = make_token()
    assert re.fullmatch("fmv_[0-9a-f]{64}", token.text)
    stored = connection.get_collection("fmv_apitoken").find_one()
    assert stored["_id"] == hashlib.sha256(token.text.encode()).hexdigest()
    assert token.text[4:] not in str(stored)
    assert not hasattr(ApiToken.objects.get(), "text")


def test_two_secrets_are_never_the_same():
    user = make_user(password=None)
    assert len({api_tokens.build(user, "x").text for _ in range(100)}) == 100


def test_a_user_may_have_several_tokens():
    user = make_user(password=None)
    first, second = make_token(user), make_token(user)
    api_tokens.revoke(first, by="test")
    assert call(first.text).status_code == 401
    assert call(second.text).status_code == 200


def test_signing_in_takes_two_look_ups_by_key(django_assert_num_queries):
    text = make_token().text
    api_tokens.sign_in(text)
    with django_assert_num_queries(2) as queries:
        api_tokens.sign_in(text)
    assert all("'_id':" in query["sql"] for query in queries.captured_queries)


# --- What it may do --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user_role", list(Role))
@pytest.mark.parametrize("token_role", list(Role))
def test_a_token_may_do_what_both_its_user_and_its_role_may(user_role, token_role):
    user = make_user(Role.MANAGER, password=None)
    token = make_token(user, role=token_role)
    User.objects.update(role=user_role)
    least = min(user_role, token_role or Role.MANAGER, key=list(Role).index)
    assert api_tokens.sign_in(token.text).effective_role == least
    assert call(token.text).status_code == (200 if least else 403)
    assert call(token.text, "POST", "/robot/", ROBOT).status_code == (201 if least == "manager" else 403)


def test_a_superusers_token_may_be_narrowed_too():
    root = make_user(Role.NONE, is_superuser=True, password=None)
    narrow = api_tokens.sign_in(make_token(root, role="viewer").text)
    assert narrow.effective_role == "viewer"
    assert narrow.has_perm("robots.view_robot")
    assert not narrow.has_perm("robots.change_robot")
    assert not narrow.has_perm("fmv.add_user")
    whole = api_tokens.sign_in(make_token(root).text)
    assert whole.effective_role == "manager"
    assert whole.has_perm("fmv.add_user")


def test_narrowing_a_token_leaves_its_user_as_it_was():
    user = make_user("manager", password=None)
    signed_in = api_tokens.sign_in(make_token(user, role="viewer").text)
    signed_in.save()
    assert User.objects.get().role == "manager"
    assert User.objects.get().effective_role == "manager"


def test_a_token_opens_no_session():
    answer = call(make_token().text, "POST", "/auth/login")
    assert_refused(answer, 401)
    assert not answer.cookies


# --- What is refused -------------------------------------------------------------------------------------------------


def test_an_expired_token_is_refused():
    token = make_token()
    ApiToken.objects.update(expires_at=timezone.now() - dt.timedelta(milliseconds=1))
    assert "it is expired" in detail(call(token.text))


def test_a_revoked_token_is_refused_at_once():
    token = make_token()
    assert call(token.text).status_code == 200
    assert api_tokens.revoke(token, by="test")
    assert not api_tokens.revoke(token, by="test")
    assert "it is revoked" in detail(call(token.text))


def test_a_deactivated_users_token_is_refused():
    token = make_token()
    User.objects.update(is_active=False)
    assert "deactivated" in detail(call(token.text))


def test_a_token_goes_with_its_user():
    token = make_token()
    User.objects.get().delete()
    assert "unknown" in detail(call(token.text))


@pytest.mark.parametrize(
    "garble",
    [
        lambda text: text[:-1],
        lambda text: text + "0",
        lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
        lambda text: text.upper().replace("FMV_", "fmv_"),
        lambda text: hashlib.sha256(text.encode()).hexdigest(),  # what a thief of the database has
        lambda text: "fmv_" + hashlib.sha256(text.encode()).hexdigest(),
        lambda text: text[4:],
        lambda text: "fmv_",
        lambda text: "fmv_" + "\x00" * 64,
        lambda text: "fmv_" + "é" * 64,
        lambda text: "fmv_" + "0" * 100_000,
        lambda text: f"{text} {text}",
        lambda text: "fmv_{'$ne': 1}",
    ],
)
def test_what_is_not_quite_a_token_is_refused(garble):
    assert_refused(call(garble(make_token().text)), 401)


def test_a_bad_token_is_nobody_even_where_strangers_are_somebody(settings):
    settings.ENVIRONMENT.anonymous = "manager"
    assert call("fmv_0").status_code == 401


def test_the_log_says_why_and_never_the_token(caplog):
    caplog.set_level(logging.DEBUG)
    good, revoked = make_token(), make_token()
    api_tokens.revoke(revoked, by="leela")
    for text in (good.text, revoked.text, "fmv_" + "0" * 64):
        call(text)
    lines = [record.getMessage() for record in caplog.records]
    assert f"API token {revoked.short_id} revoked by leela" in lines
    assert f"Sign-in refused: it is revoked ('{revoked.short_id}')" in lines
    assert "Sign-in refused: it is unknown" in lines
    assert not any(secret in line for secret in (good.text[4:], revoked.text[4:], "0" * 64) for line in lines)


# --- Of a robot ------------------------------------------------------------------------------------------------------


def test_a_robots_token_names_the_robot_and_has_no_role():
    caller = api_tokens.sign_in(make_token(robot="R2").text)
    assert (caller.robot, caller.effective_role, caller.username) == ("R2", Role.NONE, "agent/R2")
    assert caller.is_authenticated
    assert not caller.is_staff
    assert not caller.has_perm("robots.view_robot")
    assert not User.objects.exists()


def test_a_users_token_names_no_robot():
    assert api_tokens.sign_in(make_token().text).robot is None


def test_an_agent_signs_in_with_one_look_up_by_key(django_assert_num_queries):
    text = make_token(robot="R2").text
    api_tokens.sign_in(text)
    with django_assert_num_queries(1) as queries:
        api_tokens.sign_in(text)
    assert "'_id':" in queries.captured_queries[0]["sql"]


def test_a_robots_token_is_revoked_expires_and_notes_its_use_as_any_other():
    revoked, expired, used = make_token(robot="R2"), make_token(robot="C3"), make_token(robot="BB8")
    api_tokens.revoke(revoked, by="test")
    ApiToken.objects.filter(pk=expired.pk).update(expires_at=timezone.now() - dt.timedelta(seconds=1))
    assert "it is revoked" in detail(call(revoked.text))
    assert "it is expired" in detail(call(expired.text))
    assert call(used.text).status_code == 403
    assert ApiToken.objects.get(pk=used.pk).last_used_at


def test_a_robot_has_two_usable_tokens_at_most():
    first, second = make_token(robot="R2"), make_token(robot="R2")
    make_token(robot="C3")
    with pytest.raises(api_tokens.TokenNotMade, match="has 2 usable tokens"):
        make_token(robot="R2")
    api_tokens.revoke(first, by="test")
    third = make_token(robot="R2")
    ApiToken.objects.filter(pk=second.pk).update(expires_at=timezone.now())
    fourth = make_token(robot="R2")
    usable = {each.pk for each in ApiToken.objects.filter(robot="R2").usable()}
    assert usable == {third.pk, fourth.pk}


def test_a_robot_has_two_usable_tokens_at_most_when_many_are_made_at_once():
    def make():
        try:
            return make_token(robot="R2").pk
        except api_tokens.TokenNotMade:
            return None

    made = set(filter(None, at_once(*[make] * 8)))
    assert len(made) <= 2
    assert made == {token.pk for token in ApiToken.objects.all()}


def test_a_robots_token_lasts_as_long_as_a_token_may(settings):
    settings.ENVIRONMENT.token_max_days = 300
    token = make_token(robot="R2")
    assert (token.expires_at - token.created_at).days == 300
    with pytest.raises(api_tokens.TokenNotMade, match="at most 300 days"):
        make_token(robot="R2", days=301)


def test_a_robots_tokens_are_revoked_together():
    for robot in ("R2", "R2", "C3"):
        make_token(robot=robot)
    api_tokens.revoke_all_of("R2", by="leela")
    assert {(each.robot, each.state) for each in ApiToken.objects.all()} == {("R2", "revoked"), ("C3", "usable")}


# --- When it was used ------------------------------------------------------------------------------------------------


def test_use_is_remembered_once_a_minute():
    token = make_token()
    assert ApiToken.objects.get().last_used_at is None
    call(token.text)
    first = ApiToken.objects.get().last_used_at
    assert timezone.now() - first < dt.timedelta(seconds=10)
    call(token.text)
    assert ApiToken.objects.get().last_used_at == first
    ApiToken.objects.update(last_used_at=first - dt.timedelta(seconds=61))
    call(token.text)
    assert ApiToken.objects.get().last_used_at >= first


def test_of_two_requests_at_once_one_notes_the_use():
    token = make_token()
    now = timezone.now()
    ApiToken.objects.filter(pk=token.pk).used(now)
    ApiToken.objects.filter(pk=token.pk).used(now + dt.timedelta(seconds=59))
    assert timezone.now() - ApiToken.objects.get().last_used_at < dt.timedelta(seconds=30)


def test_a_refused_use_is_none():
    token = make_token()
    api_tokens.revoke(token, by="test")
    call(token.text)
    assert ApiToken.objects.get().last_used_at is None


# --- Making one ------------------------------------------------------------------------------------------------------


def test_a_token_is_good_for_as_long_as_is_set_up(settings):
    settings.ENVIRONMENT.token_days = 7
    token = make_token()
    assert token.expires_at - token.created_at == dt.timedelta(days=7)
    assert make_token(days=0.5).expires_at < timezone.now() + dt.timedelta(hours=13)


@pytest.mark.parametrize("days", [0, -1, 31, float("inf"), float("nan")])
def test_no_token_is_good_for_longer_than_is_set_up(settings, days):
    settings.ENVIRONMENT.token_max_days = 30
    with pytest.raises(api_tokens.TokenNotMade, match="at most 30 days"):
        make_token(days=days)
    assert not ApiToken.objects.exists()


def test_no_token_promises_more_than_its_user_may():
    with pytest.raises(api_tokens.TokenNotMade, match="higher than its user's"):
        make_token("viewer", role="manager")


def test_no_token_is_made_for_a_deactivated_user():
    with pytest.raises(api_tokens.TokenNotMade, match="deactivated"):
        make_token(make_user(is_active=False, password=None))


# --- The document ----------------------------------------------------------------------------------------------------


def test_the_document_says_of_every_operation_how_to_sign_in():
    document = Api(None)("GET", "/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert set(schemes) == {"session", "bearer"}
    assert "API token" in schemes["bearer"]["description"]
    assert "OpenID Connect" in schemes["bearer"]["description"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            ways = {name for way in operation.get("security", []) for name in way}
            if path in ("/health", "/auth/logout"):
                assert not ways, (method, path)
            elif path == "/auth/login" or path.startswith("/agent/"):
                assert ways == {"bearer"}
            elif "401" in operation["responses"]:
                assert ways >= {"session", "bearer"}, (method, path)


@pytest.mark.parametrize(("limit", "apps"), [(None, {"fmv", "robots", "auth"}), (Role.VIEWER, {"fmv", "robots"})])
def test_a_superusers_limited_token_sees_the_apps_of_its_role_only(limit, apps):
    user = make_user(Role.NONE, is_superuser=True)
    user.limit = limit
    assert {app for app in ("fmv", "robots", "auth") if user.has_module_perms(app)} == apps
    assert user.has_perm("fmv.change_user") is (limit is None)
