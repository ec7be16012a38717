"""Sign-in by the organisation's tokens: which are good, what they make of a user, and what an issuer can do to us."""

import base64
import hashlib
import hmac
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from django.db import connections

from fmv.accounts import oidc
from fmv.accounts.models import User
from fmv.accounts.oidc_users import key_of, sign_in
from fmv.accounts.permissions import Role
from fmv.devstack import embedded_mongodb
from tasks.models import Task
from tests.conftest import wait_until
from tests.support.api import Api, assert_refused
from tests.support.factories import make_task, make_user
from tests.support.fake_oidc import EC_KEY, RSA_KEYS, WELL_KNOWN, Issuer, public, running
from tests.support.probes import listening

pytestmark = pytest.mark.django_db


def call(token, method="GET", path="/handler/", **headers):
    return Api(None)(method, path, headers={"Authorization": f"Bearer {token}"} | headers)


def detail(answer):
    assert_refused(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    return answer.json()["detail"]


# --- Good tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "alg", "kid"), [(RSA_KEYS[0], "RS256", "first"), (EC_KEY, "ES256", "curve")])
def test_a_good_token_signs_its_owner_in(issuer, key, alg, kid):
    assert call(issuer.token(key=key, alg=alg, header={"kid": kid})).status_code == 200
    user = User.objects.get()
    assert (user.subject, user.role, user.is_superuser) == ("leela", "viewer", False)
    assert not user.has_usable_password()


def test_a_good_token_costs_one_command_and_three_the_first_time(issuer):
    token = issuer.token()
    for expected in (["aggregate fmv_user", "insert fmv_user", "insert fmv_auditentry"], ["aggregate fmv_user"]):
        with listening() as commands:
            assert call(token).status_code == 200
        assert commands.sent == expected


def test_to_sign_in_with_a_token_costs_four_commands_more_than_to_call(issuer):
    call(token := issuer.token())
    with listening() as commands:
        assert call(token, "POST", "/auth/login").status_code == 200
    session = ["aggregate fmv_session", "insert fmv_session", "update fmv_user", "update fmv_session"]
    assert commands.sent == ["aggregate fmv_user", *session]


@pytest.mark.parametrize("aud", ["fmv", ["fmv"], ["other", "fmv"]])
def test_one_of_its_audiences_must_be_ours(issuer, aud):
    assert call(issuer.token(aud=aud)).status_code == 200


@pytest.mark.parametrize("typ", [None, "JWT", "jwt", "at+jwt", "application/at+jwt"])
def test_id_tokens_and_access_tokens_are_both_good(issuer, typ):
    assert call(issuer.token(header={"typ": typ})).status_code == 200


def test_the_clocks_may_differ_by_the_leeway(issuer, settings):
    now = int(time.time())
    settings.ENVIRONMENT.oidc_leeway_seconds = 30
    assert call(issuer.token(exp=now - 20, iat=now + 20, nbf=now + 20)).status_code == 200
    settings.ENVIRONMENT.oidc_leeway_seconds = 5
    assert call(issuer.token(exp=now - 20)).status_code == 401
    assert call(issuer.token(iat=now + 20)).status_code == 401


def test_the_only_key_of_an_issuer_need_not_be_named(issuer):
    issuer.keys = [public(RSA_KEYS[0], "only")]
    assert call(issuer.token(header={"kid": None})).status_code == 200


def test_a_token_must_name_its_key_when_there_are_several(issuer):
    assert "its key is unknown" in detail(call(issuer.token(header={"kid": None})))


def test_the_scheme_is_read_without_regard_to_case(issuer):
    for scheme in ("bearer", "BEARER", "Bearer "):
        answer = Api(None)("GET", "/handler/", headers={"Authorization": f"{scheme} {issuer.token()}"})
        assert answer.status_code == 200


def test_what_it_changes_needs_no_csrf_token(issuer):
    api = Api(None, enforce_csrf_checks=True)
    body = {"name": "R2", "location": "Tatooine", "description": "beep"}
    headers = {"Authorization": f"Bearer {issuer.token(fmv_role='manager')}"}
    assert api("POST", "/robot/", body, headers=headers).status_code == 201


# --- Bad tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": 1}, "it has expired"),
        ({"exp": None}, "a claim is missing"),
        ({"exp": "soon"}, "not a token of the issuer"),
        ({"exp": 1e400}, "not a token of the issuer"),
        ({"exp": [1]}, "not a token of the issuer"),
        ({"nbf": 2**40}, "it is not valid yet"),
        ({"nbf": {}}, "not a token of the issuer"),
        ({"iat": 2**40}, "it is not valid yet"),
        ({"iat": None}, "a claim is missing"),
        ({"aud": "other"}, "another audience"),
        ({"aud": ["other", "fmv2", "FMV"]}, "another audience"),
        ({"aud": None}, "a claim is missing"),
        ({"aud": [1, "fmv"]}, "another audience"),
        ({"aud": {"fmv": True}}, "another audience"),
        ({"iss": "https://login.example.org"}, "another issuer"),
        ({"iss": None}, "a claim is missing"),
        ({"sub": None}, "a claim is missing"),
        ({"sub": ""}, "its subject"),
        ({"sub": "x" * 256}, "its subject"),
        ({"sub": "a\x00b"}, "its subject"),
        ({"sub": "\ud800"}, "its subject"),
        ({"header": {"kid": "curve"}}, "not a token of the issuer"),  # an RS256 token by a key for ES256
        ({"header": {"kid": "unknown"}}, "its key is unknown"),
        ({"header": {"typ": "logout+jwt"}}, "its type or algorithm"),
        ({"header": {"crit": ["exp"]}}, "not a token of the issuer"),
        ({"key": RSA_KEYS[1]}, "its signature is wrong"),
        ({"key": RSA_KEYS[0], "alg": "RS512"}, "its type or algorithm"),
        ({"key": RSA_KEYS[0], "alg": "PS256"}, "its type or algorithm"),
    ],
)
def test_a_bad_token_is_refused_with_the_reason(issuer, changes, reason):
    for method, path in (("GET", "/handler/"), ("POST", "/auth/login")):
        answer = call(issuer.token(**changes), method, path)
        assert reason in detail(answer)
        assert not answer.cookies
    assert not User.objects.exists()


def test_an_issuer_with_a_slash_at_its_end_is_another_one(issuer):
    assert "another issuer" in detail(call(issuer.token(iss=f"{issuer.url}/")))


def unsigned(issuer, header, signature=b""):
    parts = [json.dumps(header).encode(), json.dumps(issuer.claims()).encode(), signature]
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None, ["RS256"], 5])
def test_a_token_without_signature_is_refused(issuer, alg):
    token = unsigned(issuer, {"alg": alg, "typ": "JWT", "kid": "first"}).decode()
    assert_refused(call(token), 401)
    assert issuer.requests == []  # it is not worth a question


def test_a_public_key_is_no_shared_secret(issuer):
    public_key = RSA_KEYS[0].public_key()
    for encoding, form in (
        (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
    ):
        for alg in ("HS256", "RS256"):
            text = unsigned(issuer, {"alg": alg, "kid": "first"}).rstrip(b".")
            mac = hmac.new(public_key.public_bytes(encoding, form), text, hashlib.sha256).digest()
            token = text + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")
            assert_refused(call(token.decode()), 401)


def test_a_key_that_the_token_brings_along_is_not_its_issuers(issuer):
    header = {"jwk": public(RSA_KEYS[1], "first"), "jku": f"{issuer.url}/jwks", "x5u": f"{issuer.url}/x"}
    assert "signature is wrong" in detail(call(issuer.token(key=RSA_KEYS[1], header=header)))


def changed(token, part, text):
    parts = token.split(".")
    parts[part] = text
    return ".".join(parts)


def encoded(text):
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "garble",
    [
        lambda token: token[:-4],
        lambda token: token + "AAAA",
        lambda token: changed(token, 2, ""),
        lambda token: changed(token, 2, "A" * 342),
        lambda token: changed(token, 1, encoded('{"sub":"root"}')),
        lambda token: changed(token, 0, encoded("[" * 5000)),
        lambda token: changed(token, 0, encoded('{"alg":"RS256","kid":5}')),
        lambda token: changed(token, 0, encoded('{"alg":"RS256","kid":"first","typ":["JWT"]}')),
        lambda token: changed(token, 0, encoded('"RS256"')),
        lambda token: changed(token, 0, encoded('{"alg":"RS256","kid":"first","b64":false,"crit":["b64"]}')),
        lambda token: "x.y.z",
        lambda token: "...",
        lambda token: ".",
        lambda token: "\x00",
        lambda token: token + " " + token,
        lambda token: token.replace(".", ""),
        lambda token: "",
        lambda token: "\xff\xfe",
        lambda token: "x" * 8193,
        lambda token: token + "x" * 1_000_000,
    ],
)
def test_garbage_is_refused(issuer, garble):
    for method, path in (("GET", "/handler/"), ("POST", "/auth/login")):
        assert_refused(call(garble(issuer.token()), method, path), 401)
    assert not User.objects.exists()


def test_an_odd_signature_of_a_curve_is_refused(issuer):
    token = issuer.token(key=EC_KEY, alg="ES256", header={"kid": "curve"})
    for signature in ("", "AA", encoded("\0" * 64), "_" * 86, "A" * 200):
        assert_refused(call(changed(token, 2, signature)), 401)


def test_whoever_brings_a_bad_token_is_nobody_even_where_strangers_are_somebody(issuer, settings):
    settings.ENVIRONMENT.anonymous = "manager"
    assert call(issuer.token(exp=1)).status_code == 401
    assert call("").status_code == 401
    assert Api(None)("GET", "/handler/", headers={"Authorization": "Basic dTpw"}).status_code == 200


def test_a_bad_token_beside_a_good_session_is_refused(issuer):
    assert Api("manager")("GET", "/handler/", headers={"Authorization": "Bearer x"}).status_code == 401


def test_without_an_issuer_every_token_is_refused(issuer, settings):
    settings.ENVIRONMENT.oidc_issuer = ""
    assert "no issuer is configured" in detail(call(issuer.token()))
    assert issuer.requests == []


def test_the_log_says_why_and_never_the_token(issuer, caplog):
    caplog.set_level(logging.DEBUG)
    make_user(id=key_of("gone"), subject="gone", is_active=False, password=None)
    tokens = [issuer.token(), issuer.token(exp=1), issuer.token(sub="gone"), issuer.token(key=RSA_KEYS[1])]
    for token in tokens:
        call(token)
    lines = [record.getMessage() for record in caplog.records]
    assert "Sign-in refused: it has expired" in lines
    assert "Sign-in refused: its signature is wrong" in lines
    assert "Sign-in refused: its user is deactivated ('gone')" in lines
    for token in tokens:
        for part in token.split(".")[1:]:
            assert not any(part in line for line in lines)


# --- The issuer and its keys -----------------------------------------------------------------------------------------


def test_the_keys_are_asked_for_once(issuer):
    for _ in range(5):
        assert call(issuer.token()).status_code == 200
    assert issuer.requests == [WELL_KNOWN, "/jwks"]


def test_many_first_callers_at_once_ask_once(issuer, settings):
    issuer.delay = 0.2
    settings.ENVIRONMENT.oidc_timeout_seconds = 30.0  # on a busy machine eight threads take seconds
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: oidc.verify(issuer.token()).sub, range(8)))
    assert found == ["leela"] * 8
    assert issuer.requests == [WELL_KNOWN, "/jwks"]


def test_a_new_key_is_found_when_a_token_names_it(issuer, settings):
    settings.ENVIRONMENT.oidc_refresh_seconds = 0.0
    assert call(issuer.token()).status_code == 200
    issuer.keys = [public(RSA_KEYS[1], "second")]
    assert call(issuer.token(key=RSA_KEYS[1], header={"kid": "second"})).status_code == 200
    assert "its key is unknown" in detail(call(issuer.token()))  # the old one is gone


def test_unknown_keys_do_not_make_us_ask_again_and_again(issuer):
    for number in range(20):
        assert_refused(call(issuer.token(header={"kid": f"made up {number}"})), 401)
    assert call(issuer.token()).status_code == 200
    assert issuer.requests == [WELL_KNOWN, "/jwks"]


def test_old_keys_are_asked_for_again_and_removed_ones_forgotten(issuer, settings):
    assert call(issuer.token()).status_code == 200
    issuer.keys = [public(RSA_KEYS[1], "second")]
    assert call(issuer.token()).status_code == 200
    settings.ENVIRONMENT.oidc_keys_seconds = settings.ENVIRONMENT.oidc_refresh_seconds = 0.0
    assert "its key is unknown" in detail(call(issuer.token()))


@pytest.mark.parametrize(
    ("key", "more"),
    [
        (rsa.generate_private_key(public_exponent=65537, key_size=1024), {}),
        (ec.generate_private_key(ec.SECP384R1()), {}),
        (RSA_KEYS[0], {"alg": "RS512"}),
        (RSA_KEYS[0], {"alg": "nonsense"}),
        (RSA_KEYS[0], {"use": "enc"}),
        (RSA_KEYS[0], {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}),
        (RSA_KEYS[0], {"n": 5}),
        (RSA_KEYS[0], {"n": "!"}),
        (RSA_KEYS[0], {"kid": 5}),
        (EC_KEY, {"x": "AAAA"}),
    ],
)
def test_keys_of_no_use_are_passed_over(issuer, key, more):
    issuer.keys = [public(key, "odd") | more, "a key?", None, public(RSA_KEYS[1], "good")]
    token = issuer.token(key=RSA_KEYS[1], header={"kid": "good"})
    assert call(token).status_code == 200
    assert len(oidc.jwks_cache(issuer.url)._snapshot.keys) == 1


def assert_unavailable(answer):
    assert_refused(answer, 503)
    assert int(answer.headers["Retry-After"]) >= 1
    assert "sign-in" in answer.json()["detail"]
    assert not User.objects.exists()


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (WELL_KNOWN, b""),
        (WELL_KNOWN, b"<html>"),
        (WELL_KNOWN, b"[" * 100_000),
        (WELL_KNOWN, []),
        (WELL_KNOWN, {}),
        (WELL_KNOWN, {"issuer": "https://login.example.org", "jwks_uri": "https://login.example.org/jwks"}),
        (WELL_KNOWN, b" " * 600_000),
        ("/jwks", b"null"),
        ("/jwks", {}),
        ("/jwks", {"keys": []}),
        ("/jwks", {"keys": {"first": 1}}),
        ("/jwks", {"keys": [{"kty": "oct", "kid": "first", "k": "c2VjcmV0"}]}),
    ],
)
def test_an_issuer_that_answers_nonsense_is_no_hole(issuer, path, answer):
    issuer.answers = {path: answer}
    for route in (("GET", "/handler/"), ("POST", "/auth/login")):
        assert_unavailable(call(issuer.token(), *route))


@pytest.mark.parametrize("url", ["http://login.example.org/jwks", "file:///etc/passwd", "https://", None, 5])
def test_keys_come_over_https_or_from_this_machine(issuer, url):
    issuer.answers = {WELL_KNOWN: {"issuer": issuer.url, "jwks_uri": url}}
    assert_unavailable(call(issuer.token()))


@pytest.mark.parametrize("status", [301, 302, 404, 500, 503])
def test_an_issuer_that_fails_or_sends_us_elsewhere_is_no_hole(issuer, status):
    issuer.status = status
    assert_unavailable(call(issuer.token()))
    assert issuer.requests == [WELL_KNOWN]


def test_a_dead_issuer_is_a_503_at_once_and_asked_seldom(stopped_issuer):
    started = time.monotonic()
    for _ in range(20):
        assert_unavailable(call(stopped_issuer.token()))
    assert time.monotonic() - started < 20  # one timeout for each would be more


@pytest.mark.parametrize(("delay", "drip"), [(30, 0), (0, 0.3)])
def test_a_slow_issuer_costs_a_bounded_wait_and_then_nothing(issuer, settings, delay, drip):
    settings.ENVIRONMENT.oidc_timeout_seconds = 0.5
    settings.ENVIRONMENT.oidc_refresh_seconds = 600.0
    issuer.delay, issuer.drip = delay, drip
    others = set(threading.enumerate())
    started = time.monotonic()
    for _ in range(60):
        assert_unavailable(call(issuer.token()))
    assert time.monotonic() - started < 20  # one timeout for each would be 30 s
    assert issuer.requests == [WELL_KNOWN]
    wait_until(lambda: "oidc-keys" not in {thread.name for thread in set(threading.enumerate()) - others})


def test_whoever_finds_another_thread_asking_waits_a_bounded_time(issuer, settings, monkeypatch):
    monkeypatch.setattr(oidc, "REFRESH_WAIT", 0.2)
    settings.ENVIRONMENT.oidc_timeout_seconds = 2.5
    issuer.delay = 30

    def ask(_):
        started = time.monotonic()
        with pytest.raises(oidc.IssuerUnavailable):
            oidc.verify(issuer.token())
        return time.monotonic() - started

    with ThreadPoolExecutor(6) as pool:
        waits = sorted(pool.map(ask, range(6)))
    assert waits[-2] < 2.0 < waits[-1] < 12


def test_known_keys_go_on_while_the_issuer_is_away(stopped_issuer, settings):
    with running(stopped_issuer):
        assert call(stopped_issuer.token()).status_code == 200
    settings.ENVIRONMENT.oidc_keys_seconds = settings.ENVIRONMENT.oidc_refresh_seconds = 0.0
    for _ in range(3):
        assert call(stopped_issuer.token()).status_code == 200
    assert "signature" in detail(call(stopped_issuer.token(key=RSA_KEYS[1])))
    assert call(stopped_issuer.token(header={"kid": "unknown"})).status_code == 503


def test_known_keys_do_not_go_on_for_ever(stopped_issuer, settings):
    with running(stopped_issuer):
        sign_in(stopped_issuer.token())
    User.objects.all().delete()
    settings.ENVIRONMENT.oidc_keys_seconds = settings.ENVIRONMENT.oidc_outage_seconds = (
        settings.ENVIRONMENT.oidc_refresh_seconds
    ) = 0.0
    assert_unavailable(call(stopped_issuer.token()))


def test_a_slow_issuer_does_not_slow_whoever_has_a_known_key(issuer, settings):
    settings.ENVIRONMENT.oidc_timeout_seconds = 2.0
    sign_in(issuer.token())
    settings.ENVIRONMENT.oidc_keys_seconds = settings.ENVIRONMENT.oidc_refresh_seconds = 0.0
    issuer.delay = 30

    def ask(_):
        started = time.monotonic()
        assert oidc.verify(issuer.token()).sub == "leela"
        return time.monotonic() - started

    with ThreadPoolExecutor(8) as pool:
        waits = sorted(pool.map(ask, range(8)))
    assert waits[-2] < 1.5  # one of them asks


def test_an_issuer_that_is_back_is_asked_again(stopped_issuer, settings):
    settings.ENVIRONMENT.oidc_refresh_seconds = 600.0
    assert_unavailable(call(stopped_issuer.token()))
    with running(stopped_issuer):
        assert_unavailable(call(stopped_issuer.token()))  # not yet
        settings.ENVIRONMENT.oidc_refresh_seconds = 0.0
        assert call(stopped_issuer.token()).status_code == 200


def test_other_ways_in_do_not_need_the_issuer(stopped_issuer):
    assert Api("viewer")("GET", "/handler/").status_code == 200
    assert Api(None)("GET", "/health").status_code == 200
    assert stopped_issuer.requests == []


# --- Users -----------------------------------------------------------------------------------------------------------

PERSON = {
    "name": "Turanga Leela",
    "email": "leela@planet-express.example",
    "email_verified": True,
    "picture": "https://planet-express.example/leela.png",
    "preferred_username": "Leela",
}


@pytest.mark.parametrize(
    ("claim", "role"),
    [
        ("viewer", "viewer"),
        ("operator", "operator"),
        ("manager", "manager"),
        (["viewer", "manager", "operator"], "manager"),
        (["staff", "operator"], "operator"),
        (["viewer", 5, None, {"manager": 1}, ["manager"]], "viewer"),
        ([], ""),
        ("", ""),
        ([""], ""),
        (None, ""),
        ("Manager", ""),
        ("admin", ""),
        ("superuser", ""),
        ("viewer manager", ""),
        (5, ""),
        (True, ""),
        ({"manager": True}, ""),
    ],
)
def test_the_role_is_what_the_claim_says(issuer, claim, role):
    assert sign_in(issuer.token(fmv_role=claim)).role == role
    assert User.objects.get().role == role


@pytest.mark.parametrize(
    "claims",
    [
        {"realm_access": {"roles": ["operator"]}},
        {"realm_access.roles": "operator", "realm_access": {"roles": ["manager"]}},
    ],
)
def test_the_role_claim_may_be_a_path(issuer, settings, claims):
    settings.ENVIRONMENT.oidc_role_claim = "realm_access.roles"
    assert sign_in(issuer.token(**claims)).role == "operator"


def test_a_role_that_the_issuer_takes_away_is_gone_at_once(issuer):
    assert call(issuer.token()).status_code == 200
    assert call(issuer.token(fmv_role=None)).status_code == 403
    assert User.objects.get().role == ""


def test_without_a_role_claim_roles_are_given_here(issuer, settings):
    settings.ENVIRONMENT.oidc_role_claim = ""
    assert sign_in(issuer.token(fmv_role="manager")).role == ""
    User.objects.update(role="operator")
    assert sign_in(issuer.token(fmv_role="viewer")).role == "operator"


def test_a_new_user_is_as_the_claims_say(issuer):
    user = sign_in(issuer.token(**PERSON))
    assert User.objects.get() == user
    assert user.username == "leela"
    assert {field: getattr(user, field) for field in PERSON if field != "preferred_username"} == {
        field: value for field, value in PERSON.items() if field != "preferred_username"
    }


def test_claims_that_change_change_the_user_and_others_stay(issuer):
    key = sign_in(issuer.token(**PERSON)).pk
    user = sign_in(issuer.token(name="Leela", email="new@example.org", fmv_role="manager", preferred_username="boss"))
    assert User.objects.get() == user
    assert (user.pk, user.username, user.name, user.role) == (key, "leela", "Leela", "manager")
    assert (user.email, user.email_verified) == ("new@example.org", False)
    assert user.picture == PERSON["picture"]
    stored = User.objects.get()
    assert (stored.name, stored.role, stored.email_verified) == ("Leela", "manager", False)


def test_nothing_is_written_when_nothing_changed(issuer, django_assert_num_queries):
    sign_in(issuer.token(**PERSON))
    with django_assert_num_queries(1):
        sign_in(issuer.token(**PERSON))


@pytest.mark.parametrize(
    "claims",
    [
        {"name": 5, "email": ["x"], "email_verified": "perhaps", "picture": {}, "preferred_username": None},
        {"name": "", "email": "", "picture": "", "preferred_username": ""},
        {"name": "x" * 201, "email": "x" * 255, "picture": "https://" + "x" * 2000},
        {"name": "\ud800", "email": "\udfff@x", "picture": "https://\ud800", "preferred_username": "\ud800"},
        {"name": "a\x00b", "email": "a\nb", "picture": "https://a\r\n"},
        {"picture": "javascript:alert(1)"},
        {"picture": "//example.org/x.png"},
    ],
)
def test_claims_of_no_use_are_passed_over(issuer, claims):
    user = sign_in(issuer.token(**claims))
    assert (user.name, user.email, user.email_verified, user.picture) == ("", "", False, "")


@pytest.mark.parametrize(
    ("claims", "username"),
    [
        ({"preferred_username": "Leela"}, "leela"),
        ({"preferred_username": "leela@example.org"}, "leela@example.org"),
        ({"preferred_username": "Turanga Leela/<b>"}, "turanga-leela-b"),
        ({"preferred_username": "tūranga.leela"}, "tūranga.leela"),
        ({"email": "leela@planet-express.example"}, "leela"),
        ({"preferred_username": "x" * 500}, "x" * 100),
    ],
)
def test_a_username_is_what_the_issuer_says_made_safe(issuer, claims, username):
    user = sign_in(issuer.token(**claims))
    assert user.username == username
    user.full_clean(exclude=["password"])


@pytest.mark.parametrize("claims", [{}, {"preferred_username": "///"}, {"preferred_username": "anonymous"}])
def test_a_username_is_made_up_when_the_issuer_says_nothing_of_use(issuer, claims):
    username = sign_in(issuer.token(**claims)).username
    assert username.rpartition("-")[0] in ("user", "anonymous")
    assert len(username.rpartition("-")[2]) == 8


def test_a_username_that_is_taken_makes_nobody_somebody_else(issuer):
    admin = make_user(username="admin", is_superuser=True, password=None)
    first = sign_in(issuer.token(sub="1", preferred_username="admin", fmv_role=None))
    second = sign_in(issuer.token(sub="2", preferred_username="Admin", fmv_role=None))
    assert len({admin.pk, first.pk, second.pk}) == 3
    assert len({admin.username, first.username, second.username}) == 3
    assert not first.is_superuser
    assert call(issuer.token(sub="1", preferred_username="admin", fmv_role=None)).status_code == 403


def test_even_made_up_usernames_may_be_taken(issuer):
    key = key_of("leela").hex
    for username in ("leela", f"leela-{key[:8]}"):
        make_user(username=username, password=None)
    assert sign_in(issuer.token(preferred_username="leela")).username == f"leela-{key}"


def test_another_issuers_user_of_that_name_is_somebody_else(issuer, settings):
    sign_in(issuer.token())
    User.objects.update(is_superuser=True)
    with running(Issuer(embedded_mongodb.free_port(None))) as other:
        settings.ENVIRONMENT.oidc_issuer = other.url
        assert not sign_in(other.token()).is_superuser
    assert User.objects.filter(subject="leela").count() == 2


def test_a_deactivated_user_is_refused_and_not_changed(issuer):
    sign_in(issuer.token())
    User.objects.update(is_active=False)
    for route in (("GET", "/handler/"), ("POST", "/auth/login")):
        answer = call(issuer.token(name="New", fmv_role="manager"), *route)
        assert "deactivated" in detail(answer)
        assert not answer.cookies
    assert (User.objects.get().name, User.objects.get().role) == ("", "viewer")


@pytest.mark.django_db(transaction=True)
def test_many_first_requests_at_once_make_one_user(issuer):
    tokens = [issuer.token(**PERSON), issuer.token(sub="fry", preferred_username="leela")]
    gate = threading.Barrier(16)

    def enter(number):
        gate.wait()
        try:
            return sign_in(tokens[number % 2]).pk
        finally:
            connections.close_all()

    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(enter, range(16)))
    assert set(keys) == {key_of("leela"), key_of("fry")}
    assert User.objects.count() == 2
    assert len({user.username for user in User.objects.all()}) == 2


# --- A session -------------------------------------------------------------------------------------------------------


def test_signing_in_answers_the_user_and_opens_a_session(issuer):
    api = Api(None, enforce_csrf_checks=True)
    headers = {"Authorization": f"Bearer {issuer.token(**PERSON, fmv_role='operator')}"}
    answer = api("POST", "/auth/login", headers=headers)
    assert answer.status_code == 200
    assert answer.content == (
        b'{"active":true,"name":"Turanga Leela","sub":"leela","picture":"https://planet-express.example/leela.png",'
        b'"email":"leela@planet-express.example","email_verified":true}'
    )
    cookie = answer.cookies["sessionid"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert api("GET", "/handler/").status_code == 200
    assert User.objects.get().last_login is not None


def test_a_session_changes_things_only_with_its_csrf_token(issuer):
    api = Api(None, enforce_csrf_checks=True)
    body = {"name": "R2", "location": "Tatooine", "description": "beep"}
    api("POST", "/auth/login", headers={"Authorization": f"Bearer {issuer.token(fmv_role='manager')}"})
    assert api("POST", "/robot/", body).status_code == 403
    token = api.client.cookies["csrftoken"].value
    assert api("POST", "/robot/", body, headers={"X-CSRFToken": token}).status_code == 201


def test_signing_in_gives_the_session_a_new_key(issuer):
    api = Api(None)
    keys = []
    for _ in range(2):
        api("POST", "/auth/login", headers={"Authorization": f"Bearer {issuer.token()}"})
        keys.append(api.client.cookies["sessionid"].value)
    api.client.cookies["sessionid"] = keys[0]
    assert keys[0] != keys[1]
    assert api("GET", "/handler/").status_code == 401


def test_signing_out_after_signing_in(issuer):
    api = Api(None)
    api("POST", "/auth/login", headers={"Authorization": f"Bearer {issuer.token()}"})
    assert api("POST", "/auth/logout").status_code == 200
    assert api("GET", "/handler/").status_code == 401


def test_a_session_of_a_deactivated_user_ends(issuer):
    api = Api(None)
    api("POST", "/auth/login", headers={"Authorization": f"Bearer {issuer.token()}"})
    User.objects.update(is_active=False)
    assert api("GET", "/handler/").status_code == 401


def test_a_session_does_not_open_another_one(issuer):
    assert Api("manager")("POST", "/auth/login").status_code == 401


# --- A real issuer ---------------------------------------------------------------------------------------------------


@pytest.fixture
def real_issuer(settings, tmp_path):
    """An OpenID Connect provider that others wrote, in a process of its own."""
    port = embedded_mongodb.free_port(None)
    person = {"sub": "u-1", "fmv_role": ["viewer", "operator"], **PERSON}
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), "--user-claims", json.dumps(person)]
    with (tmp_path / "issuer.log").open("wb") as log:
        process = subprocess.Popen(embedded_mongodb.tied(signal.SIGKILL, *command), stdout=log, stderr=log)
    settings.ENVIRONMENT.oidc_issuer = f"http://127.0.0.1:{port}"
    settings.ENVIRONMENT.oidc_audience = ["fmv"]
    oidc.jwks_cache.cache_clear()
    try:
        wait_until(lambda: process.poll() is not None or answers(settings.ENVIRONMENT.oidc_issuer))
        yield settings.ENVIRONMENT.oidc_issuer, process
    finally:
        process.kill()
        process.wait()
        oidc.jwks_cache.cache_clear()


def answers(url):
    try:
        return requests.get(url + WELL_KNOWN, timeout=1).ok
    except requests.RequestException:
        return False


def id_token(url, sub, client_id="fmv"):
    """Walk the authorization code flow as a user with a browser does."""
    back = "http://127.0.0.1/back"
    query = {"client_id": client_id, "redirect_uri": back, "response_type": "code", "scope": "openid profile email"}
    allowed = requests.post(
        f"{url}/oauth2/authorize", params=query, data={"sub": sub}, allow_redirects=False, timeout=10
    )
    code = parse_qs(urlsplit(allowed.headers["Location"]).query)["code"][0]
    grant = {"grant_type": "authorization_code", "code": code, "redirect_uri": back}
    client = {"client_id": client_id, "client_secret": "secret"}
    return requests.post(f"{url}/oauth2/token", data=grant | client, timeout=10).json()["id_token"]


def test_a_real_issuers_token_signs_in_until_and_after_its_end(real_issuer):
    url, process = real_issuer
    token = id_token(url, "u-1")
    api = Api(None)
    answer = api("POST", "/auth/login", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    assert answer.json() == {"active": True, "sub": "u-1"} | {
        name: value for name, value in PERSON.items() if name != "preferred_username"
    }
    assert User.objects.get().role == Role.OPERATOR
    assert api("GET", "/handler/").status_code == 200
    assert "another audience" in detail(call(id_token(url, "u-1", client_id="other")))
    assert "signature is wrong" in detail(call(token[:-8] + "AAAAAAAA"))
    process.kill()
    process.wait()
    assert call(token).status_code == 200


def test_a_real_web_server_and_a_real_issuer(real_issuer, web):
    issuer, _ = real_issuer
    token = id_token(issuer, "u-1")
    url = web(os.environ["FMV_BROKER_URL"], FMV_OIDC_ISSUER=issuer, FMV_OIDC_AUDIENCE="fmv") + "/api/v1"
    bearer = {"Authorization": f"Bearer {token}"}
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda _: requests.get(f"{url}/handler/", headers=bearer, timeout=20).status_code, range(16))
    assert set(found) == {200}
    assert User.objects.count() == 1

    browser = requests.Session()
    assert browser.post(f"{url}/auth/login", headers=bearer, timeout=20).json()["sub"] == "u-1"
    make_task(robot="Bender")
    cancel = f"{url}/task/{Task.objects.get().pk}/cancel"
    assert browser.post(cancel, timeout=20).status_code == 403
    assert browser.post(cancel, headers={"X-CSRFToken": browser.cookies["csrftoken"]}, timeout=20).status_code == 200
    assert requests.get(
        f"{url}/handler/", headers={"Authorization": "Bearer " + "x" * 9000}, timeout=20
    ).status_code in (
        400,
        401,
        431,
    )
