"""Signing in to the admin by the organisation: there, back with a code, and all that can go wrong on the way."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from django.core import signing
from django.test import Client
from django.utils import timezone

from fmv.accounts import oidc, oidc_login
from fmv.accounts.models import User
from fmv.accounts.oidc_users import key_of
from fmv.accounts.sessions import Session
from fmv.devstack import embedded_mongodb
from tests.conftest import wait_until
from tests.support.browser import assert_fine
from tests.support.factories import make_user
from tests.support.fake_oidc import RSA_KEYS, WELL_KNOWN, running

pytestmark = pytest.mark.django_db

BEGIN, CALLBACK = "/admin/oidc/login/", "/admin/oidc/callback/"


@pytest.fixture
def stopped_issuer(stopped_issuer, settings):
    settings.ENVIRONMENT.oidc_audience = ["fleet", "fmv"]
    settings.ENVIRONMENT.oidc_client_id, settings.ENVIRONMENT.oidc_client_secret = "fmv", "s+ecret:/"
    return stopped_issuer


class Visitor:
    """A browser on its way through a sign-in."""

    def __init__(self, issuer):
        self.client = Client(raise_request_exception=True)
        self.issuer = issuer
        self.question = {}

    def begin(self, query=""):
        answer = self.client.get(BEGIN + query)
        assert answer.status_code == 302
        self.url, _, asked = answer.headers["Location"].partition("?")
        self.question = dict(parse_qsl(asked))
        return self

    def come_back(self, *, claims=None, **changes):
        """Come back with a code for which the issuer gives a token with these claims. A change to None leaves one out
        of what the browser brings.
        """
        claims = {"nonce": self.question.get("nonce")} | (claims or {})
        self.issuer.answers.setdefault("/token", {"access_token": "x", "id_token": self.issuer.token(**claims)})
        query = {"code": "the-code", "state": self.question.get("state")} | changes
        return self.client.get(CALLBACK, {name: value for name, value in query.items() if value is not None})


@pytest.fixture
def visitor(issuer):
    return Visitor(issuer).begin()


def signed_in(client):
    return client.get("/admin/password_change/").status_code == 200


def assert_refused(visitor, answer, *words, next=""):
    """The sign-in page says why, and nobody is signed in."""
    assert answer.status_code == 302, answer.content
    assert answer.headers["Location"] == "/admin/login/" + next
    page = visitor.client.get(answer.headers["Location"])
    assert page.status_code == 200
    [message] = [str(message) for message in page.context["messages"]]
    for word in words:
        assert word in message
    assert not signed_in(visitor.client)
    assert not Session.objects.exists()


# --- There -----------------------------------------------------------------------------------------------------------


def test_the_sign_in_page_offers_it_where_it_is_set_up(settings, stopped_issuer):
    page = Client().get("/admin/login/?next=/admin/tasks/task/%3Fstatus%3DFAILURE").content.decode()
    assert f'href="{BEGIN}?next=%2Fadmin%2Ftasks%2Ftask%2F%3Fstatus%3DFAILURE"' in page
    settings.ENVIRONMENT.oidc_client_id = ""
    assert "organisation" not in Client().get("/admin/login/").content.decode()
    assert [Client().get(url).status_code for url in (BEGIN, CALLBACK)] == [404, 404]


def test_it_is_offered_again_after_a_wrong_password(stopped_issuer):
    form = {"username": "x", "password": "y", "next": "/admin/robots/robot/"}
    assert f'href="{BEGIN}?next=%2Fadmin%2Frobots%2Frobot%2F"' in Client().post("/admin/login/", form).content.decode()


def test_the_browser_is_sent_to_the_issuer_with_a_question_of_its_own(issuer, visitor):
    asked = visitor.question
    assert visitor.url == f"{issuer.url}/authorization"
    assert asked["response_type"] == "code"
    assert asked["client_id"] == "fmv"
    assert asked["redirect_uri"] == f"http://testserver{CALLBACK}"
    assert "openid" in asked["scope"].split()
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["state"]) > 30
    assert len(asked["nonce"]) > 30
    other = Visitor(issuer).begin().question
    assert not {asked[name] for name in ("state", "nonce", "code_challenge")} & set(other.values())


def test_whoever_only_asks_makes_us_store_nothing_and_ask_the_issuer_once(issuer):
    for _ in range(5):
        cookie = Visitor(issuer).begin().client.cookies[oidc_login.COOKIE]
    assert not Session.objects.exists()
    assert issuer.requests == [WELL_KNOWN, "/jwks"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", CALLBACK)


def test_an_issuer_that_is_down_is_said_on_the_sign_in_page(stopped_issuer):
    visitor = Visitor(stopped_issuer)
    assert_refused(visitor, visitor.client.get(BEGIN + "?next=/admin/tasks/task/"), "cannot be reached", next=NEXT)


NEXT = "?next=%2Fadmin%2Ftasks%2Ftask%2F"


def test_an_issuer_without_a_page_to_sign_in_at_is_said_there_too(issuer):
    issuer.answers[WELL_KNOWN] = {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/jwks"}
    visitor = Visitor(issuer)
    assert_refused(visitor, visitor.client.get(BEGIN), "cannot be reached")
    issuer.answers[WELL_KNOWN]["authorization_endpoint"] = "http://elsewhere.example/authorize"  # without TLS
    oidc.jwks_cache.cache_clear()
    assert_refused(visitor, visitor.client.get(BEGIN), "cannot be reached")


# --- Back ------------------------------------------------------------------------------------------------------------


def test_a_good_answer_signs_in(issuer, visitor):
    answer = visitor.come_back(claims={"name": "Turanga Leela", "fmv_role": "operator"})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/")
    user = User.objects.get()
    assert (user.pk, user.name, user.role) == (key_of("leela"), "Turanga Leela", "operator")
    assert not user.has_usable_password()
    assert user.last_login
    assert visitor.client.get("/admin/tasks/task/").status_code == 200
    assert visitor.client.cookies[oidc_login.COOKIE].value == ""


def test_the_code_is_exchanged_with_our_secret_and_the_verifier_of_the_challenge(issuer, visitor):
    visitor.come_back()
    [form], [authorization] = issuer.forms, issuer.authorizations
    assert (form["grant_type"], form["code"]) == ("authorization_code", "the-code")
    assert form["redirect_uri"] == visitor.question["redirect_uri"]
    digest = hashlib.sha256(form["code_verifier"].encode()).digest()
    assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == visitor.question["code_challenge"]
    assert base64.b64decode(authorization.split()[1]).decode() in ("fmv:s+ecret:/", "fmv:s%2Becret%3A%2F")
    assert "ecret" not in json.dumps(visitor.question)


def test_the_session_is_like_one_opened_by_password_with_a_key_of_its_own(issuer, visitor):
    client = visitor.client
    client.force_login(make_user("viewer", username="somebody-else", password=None))
    before = client.cookies["sessionid"].value
    visitor.come_back()
    assert client.cookies["sessionid"].value != before
    assert [session.session_key for session in Session.objects.all()] == [client.cookies["sessionid"].value]
    assert client.session["_auth_user_id"] == str(key_of("leela"))
    assert client.session.get_expiry_age() > 11 * 3600


@pytest.mark.parametrize(
    ("next", "end"),
    [
        ("/admin/tasks/task/?status=FAILURE", "/admin/tasks/task/?status=FAILURE"),
        ("https://evil.example/", "/admin/"),
        ("//evil.example/", "/admin/"),
        ("/\\evil.example", "/admin/"),
        ("javascript:alert(1)", "/admin/"),
        ("http://testserver:99/x", "/admin/"),
        ("", "/admin/"),
    ],
)
def test_the_way_ends_at_the_page_that_was_asked_for_if_it_is_ours(issuer, next, end):
    visitor = Visitor(issuer)
    answer = visitor.client.get(BEGIN, {"next": next})
    visitor.question = dict(parse_qsl(urlsplit(answer.headers["Location"]).query))
    assert visitor.come_back().headers["Location"] == end


# --- What can go wrong -----------------------------------------------------------------------------------------------


def test_a_user_whom_the_issuer_refuses_is_told_so(issuer, visitor):
    answer = visitor.come_back(code=None, error="access_denied<script>", error_description="<b>no</b>")
    assert_refused(visitor, answer, "refused the sign-in (access_deniedscript)")
    assert issuer.forms == []


@pytest.mark.parametrize("state", [None, "", "x", "ü", "\x00"])
def test_an_answer_to_another_question_is_refused(issuer, visitor, state):
    assert_refused(visitor, visitor.come_back(state=state), "try again")
    assert issuer.forms == []


def test_an_answer_that_another_browser_asked_for_is_refused(issuer, visitor):
    stranger = Visitor(issuer)
    stranger.question = visitor.question
    assert_refused(stranger, stranger.come_back(), "try again")
    other = Visitor(issuer).begin()
    other.question = visitor.question
    assert_refused(other, other.come_back(), "try again")
    assert issuer.forms == []


def test_an_answer_counts_once(issuer, visitor):
    visitor.come_back()
    visitor.client.logout()
    assert_refused(visitor, visitor.come_back(), "try again")
    assert len(issuer.forms) == 1


@pytest.mark.parametrize(
    "value",
    ["", "x", "x:y:z", signing.dumps({"state": "s"}), signing.dumps({}, salt="other")],
    ids=["empty", "a letter", "signed badly", "signed", "signed for another use"],
)
def test_a_cookie_of_ones_own_making_is_no_question(issuer, visitor, value):
    visitor.client.cookies[oidc_login.COOKIE] = value
    assert_refused(visitor, visitor.come_back(state="s"), "try again")


def test_a_question_grows_old(issuer, visitor, monkeypatch):
    monkeypatch.setattr(oidc_login, "SIGN_IN_SECONDS", -1)
    assert_refused(visitor, visitor.come_back(), "took too long")


def test_an_answer_in_another_issuers_name_is_refused(issuer, visitor):
    assert_refused(visitor, visitor.come_back(iss="https://login.evil.example"), "try again")
    assert issuer.forms == []


def test_an_answer_may_name_its_issuer(issuer, visitor):
    assert visitor.come_back(iss=issuer.url).headers["Location"] == "/admin/"


def test_an_answer_needs_a_code(issuer, visitor):
    assert_refused(visitor, visitor.come_back(code=None), "try again")


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"nonce": "x"}, "belongs to another sign-in"),
        ({"nonce": None}, "belongs to another sign-in"),
        ({"azp": "somebody"}, "belongs to another sign-in"),
        ({"aud": "fleet"}, "another audience"),  # good for the API, but not for this client
        ({"iss": "https://login.evil.example"}, "another issuer"),
        ({"exp": 1}, "has expired"),
        ({"key": RSA_KEYS[1]}, "signature is wrong"),
        ({"header": {"kid": "unknown"}}, "key is unknown"),
        ({"sub": "\x00"}, "subject"),
    ],
)
def test_a_wrong_token_is_refused_with_the_reason(issuer, visitor, claims, reason):
    assert_refused(visitor, visitor.come_back(claims=claims), "not accepted", reason)
    assert not User.objects.exists()


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (400, {"error": "invalid_grant", "error_description": "<b>used</b>"}, "did not confirm"),
        (200, {"error": "invalid_grant"}, "did not confirm"),
        (401, {"error": "invalid_client"}, "did not confirm"),
        (200, {"access_token": "x"}, "did not confirm"),
        (200, {"id_token": ["x"]}, "did not confirm"),
        (200, {"id_token": "x"}, "not accepted"),
        (200, {"id_token": "x" * 9000}, "not accepted"),
        (200, [], "cannot be reached"),
        (200, b"<html>", "cannot be reached"),
        (200, b"\xff\xfe", "cannot be reached"),
        (200, {"id_token": "x", "expires_in": "soon"}, "sign-in"),
        (302, b"", "cannot be reached"),
        (500, {"id_token": "x"}, "cannot be reached"),
        (503, b"later", "cannot be reached"),
    ],
)
def test_whatever_the_issuer_says_to_the_code_is_no_fault_of_ours(issuer, visitor, status, answer, words):
    issuer.statuses["/token"], issuer.answers["/token"] = status, answer
    assert_refused(visitor, visitor.come_back(), words)


def test_an_issuer_that_goes_down_meanwhile_is_said(stopped_issuer):
    with running(stopped_issuer):
        visitor = Visitor(stopped_issuer).begin(NEXT)
    assert_refused(visitor, visitor.come_back(), "cannot be reached", next=NEXT)


def test_an_issuer_that_drips_is_not_waited_for(issuer, visitor, settings):
    settings.ENVIRONMENT.oidc_timeout_seconds = 0.5
    issuer.drip = 0.2
    assert_refused(visitor, visitor.come_back(), "cannot be reached")


def test_a_deactivated_user_is_told_so(issuer, visitor):
    make_user("manager", id=key_of("leela"), is_active=False, password=None)
    assert_refused(visitor, visitor.come_back(claims={"fmv_role": "manager"}), "its user is deactivated")


def test_a_user_without_role_is_told_by_which_name_to_ask_for_one(issuer, visitor):
    answer = visitor.come_back(claims={"fmv_role": None, "preferred_username": "Leela"})
    assert_refused(visitor, answer, "FMV knows you as leela", "no role")
    assert User.objects.get().role == ""


@pytest.mark.parametrize("url", [BEGIN, CALLBACK])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_is_posted_there(stopped_issuer, url, method):
    assert Client().generic(method, url).status_code == 405


def test_failures_are_throttled_like_wrong_passwords(issuer, settings):
    settings.ENVIRONMENT.throttle_write = "3/day"
    visitor = Visitor(issuer)
    assert [visitor.client.get(CALLBACK).status_code for _ in range(5)] == [302, 302, 302, 429, 429]
    assert visitor.client.post("/admin/login/", {"username": "x", "password": "y"}).status_code == 429


def test_sign_ins_that_work_do_not_count_as_failures(issuer, settings):
    settings.ENVIRONMENT.throttle_write = "2/day"
    for _ in range(4):
        visitor = Visitor(issuer).begin()
        issuer.answers.pop("/token", None)
        assert visitor.come_back().headers["Location"] == "/admin/"


# --- Out -------------------------------------------------------------------------------------------------------------


def test_signing_out_ends_our_session_and_shows_the_way_out_of_the_organisation(issuer, visitor):
    visitor.come_back()
    page = visitor.client.post("/admin/logout/").content.decode()
    assert f'href="{issuer.url}/end_session?client_id=fmv"' in page
    assert not Session.objects.exists()
    assert not signed_in(visitor.client)


def test_who_signed_in_by_password_is_not_sent_to_the_organisation(issuer):
    client = Client()
    client.force_login(make_user("viewer"))
    assert "organisation" not in client.post("/admin/logout/").content.decode()


def test_signing_out_works_while_the_issuer_is_down_or_announces_no_way_out(stopped_issuer):
    with running(stopped_issuer):
        visitor = Visitor(stopped_issuer).begin()
        visitor.come_back()
    oidc.jwks_cache.cache_clear()
    assert "Signed out" in visitor.client.post("/admin/logout/").content.decode()
    assert not Session.objects.exists()


def test_a_user_who_is_deactivated_later_is_out_at_once(issuer, visitor):
    visitor.come_back()
    User.objects.update(is_active=False, last_login=timezone.now() - timedelta(days=1))
    assert not signed_in(visitor.client)


# --- A real issuer and a real browser --------------------------------------------------------------------------------


@pytest.fixture
def real_issuer(tmp_path):
    """An OpenID Connect provider that others wrote, in a process of its own, with two users."""
    port = embedded_mongodb.free_port(None)
    people = [{"sub": "leela", "name": "Turanga Leela", "fmv_role": "operator"}, {"sub": "zoidberg"}]
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port)]
    for person in people:
        command += ["--user-claims", json.dumps(person)]
    with (tmp_path / "issuer.log").open("wb") as log:
        process = subprocess.Popen(embedded_mongodb.tied(signal.SIGKILL, *command), stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def answers():
        try:
            return requests.get(url + WELL_KNOWN, timeout=1).ok
        except requests.RequestException:
            return False

    try:
        wait_until(lambda: process.poll() is not None or answers())
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def site(web, real_issuer):
    client = {"FMV_OIDC_AUDIENCE": "fmv", "FMV_OIDC_CLIENT_ID": "fmv", "FMV_OIDC_CLIENT_SECRET": "secret"}
    broker = os.environ["FMV_BROKER_URL"]
    return web(broker, FMV_DEBUG="1", FMV_WEB_PROCESSES="1", FMV_OIDC_ISSUER=real_issuer, **client)


def sign_in_as(page, name):
    page.route("https://cdn.jsdelivr.net/**", lambda route: route.fulfill(body=""))  # the issuer's page wants a style
    page.get_by_role("link", name="Sign in with your organisation").click()
    page.get_by_role("button", name=name, exact=True).click()


@pytest.mark.browser
def test_an_operator_signs_in_with_a_browser(visit):
    page = visit()
    page.goto("/admin/tasks/task/")
    assert_fine(page)
    sign_in_as(page, "leela")
    page.wait_for_url("**/admin/tasks/task/")
    assert page.get_by_text("Turanga Leela").is_visible()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Signed out").wait_for()
    assert_fine(page)


@pytest.mark.browser
def test_who_is_refused_reads_why_on_the_sign_in_page(visit):
    page = visit()
    page.goto("/admin/")
    sign_in_as(page, "zoidberg")
    assert "have no role yet" in page.locator(".messagelist").inner_text()
    assert_fine(page)
