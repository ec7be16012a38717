"""Sign-in is set up safely, or the start or `check --deploy` says why not."""

import pytest
from django.core.checks import run_checks
from pydantic import ValidationError

from fmv.environment import Environment

LONG_KEY = "k" * 50
ISSUER = "https://login.example.org/realms/fleet"


def read(monkeypatch, **variables):
    for name, value in {"FMV_SECRET_KEY": LONG_KEY, **variables}.items():
        monkeypatch.setenv(name, value)
    return Environment()


def codes():
    return {message.id for message in run_checks(include_deployment_checks=True)}


@pytest.mark.parametrize(
    "issuer",
    [
        "http://login.example.org",
        "http://127.0.0.1.example.org",
        "http://localhost@login.example.org",
        "https://user:password@login.example.org",
        "https://login.example.org/?realm=fleet",
        "https://login.example.org/#fleet",
        "https://login.example.org/a b",
        "https://",
        "login.example.org",
        "file:///etc",
        "ftp://login.example.org",
    ],
)
def test_an_unsafe_issuer_stops_the_start(monkeypatch, issuer):
    with pytest.raises(ValidationError, match="must be an https URL"):
        read(monkeypatch, FMV_OIDC_ISSUER=issuer, FMV_OIDC_AUDIENCE="fmv")


@pytest.mark.parametrize(
    "issuer", [ISSUER, f"{ISSUER}/", "http://localhost:8080", "http://127.0.0.1:9400/x", "http://[::1]:9400", ""]
)
def test_a_safe_issuer_is_taken_as_it_is(monkeypatch, issuer):
    assert read(monkeypatch, FMV_OIDC_ISSUER=issuer, FMV_OIDC_AUDIENCE="fmv, fleet").oidc_issuer == issuer


def test_an_issuer_needs_an_audience(monkeypatch):
    with pytest.raises(ValidationError, match="FMV_OIDC_AUDIENCE must be set"):
        read(monkeypatch, FMV_OIDC_ISSUER=ISSUER)
    assert read(monkeypatch, FMV_OIDC_ISSUER=ISSUER, FMV_OIDC_AUDIENCE="fmv, fleet").oidc_audience == ["fmv", "fleet"]


CLIENT = {"FMV_OIDC_CLIENT_ID": "fmv", "FMV_OIDC_CLIENT_SECRET": "s"}


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"FMV_OIDC_CLIENT_ID": "fmv"}, "must be set together"),
        ({"FMV_OIDC_CLIENT_SECRET": "s"}, "must be set together"),
        (CLIENT | {"FMV_OIDC_ISSUER": "", "FMV_OIDC_AUDIENCE": ""}, "needs FMV_OIDC_ISSUER"),
        (CLIENT | {"FMV_OIDC_AUDIENCE": "fleet"}, "must be one of FMV_OIDC_AUDIENCE"),
    ],
)
def test_a_client_that_could_not_sign_anybody_in_stops_the_start(monkeypatch, variables, reason):
    with pytest.raises(ValidationError, match=reason):
        read(monkeypatch, **{"FMV_OIDC_ISSUER": ISSUER, "FMV_OIDC_AUDIENCE": "fmv, fleet"} | variables)


def test_a_client_is_one_of_the_audiences(monkeypatch):
    values = read(monkeypatch, FMV_OIDC_ISSUER=ISSUER, FMV_OIDC_AUDIENCE="fleet, fmv", **CLIENT)
    assert (values.oidc_client_id, values.oidc_client_secret) == ("fmv", "s")


def test_tokens_are_not_made_for_longer_than_allowed(monkeypatch):
    with pytest.raises(ValidationError, match="FMV_TOKEN_DAYS must be at most FMV_TOKEN_MAX_DAYS"):
        read(monkeypatch, FMV_TOKEN_DAYS="31", FMV_TOKEN_MAX_DAYS="30")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FMV_OIDC_LEEWAY_SECONDS", "-1"),
        ("FMV_OIDC_LEEWAY_SECONDS", "301"),
        ("FMV_OIDC_LEEWAY_SECONDS", "nan"),
        ("FMV_OIDC_TIMEOUT_SECONDS", "0"),
        ("FMV_OIDC_TIMEOUT_SECONDS", "31"),
        ("FMV_OIDC_REFRESH_SECONDS", "0"),
        ("FMV_OIDC_KEYS_SECONDS", "inf"),
        ("FMV_OIDC_OUTAGE_SECONDS", "604801"),
        ("FMV_TOKEN_DAYS", "0"),
        ("FMV_TOKEN_MAX_DAYS", "inf"),
    ],
)
def test_values_out_of_bounds_stop_the_start(monkeypatch, name, value):
    with pytest.raises(ValidationError, match=name):
        read(monkeypatch, **{name: value})


def test_the_deployment_check_passes_an_https_issuer(settings):
    settings.ENVIRONMENT.oidc_issuer, settings.ENVIRONMENT.oidc_audience = ISSUER, ["fmv"]
    assert not codes() & {"fmv.E003", "fmv.E004"}


@pytest.mark.parametrize("issuer", ["http://127.0.0.1:9400", "http://localhost:8080"])
def test_the_deployment_check_fails_on_an_http_issuer(settings, issuer):
    settings.ENVIRONMENT.oidc_issuer, settings.ENVIRONMENT.oidc_audience = issuer, ["fmv"]
    assert "fmv.E003" in codes()


def test_the_deployment_check_fails_without_an_audience(settings):
    settings.ENVIRONMENT.oidc_issuer, settings.ENVIRONMENT.oidc_audience = ISSUER, []
    assert "fmv.E004" in codes()
