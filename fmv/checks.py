"""System checks that catch an insecure production set-up (`manage.py check --deploy`)."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register


@register(Tags.security, deploy=True)
def nobody_acts_anonymously(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """fmv.E001: FMV_ANONYMOUS gives a role to callers who have not signed in."""
    if settings.FMV_ANONYMOUS == "none":
        return []
    return [
        Error(
            f"FMV_ANONYMOUS={settings.FMV_ANONYMOUS}: anybody who reaches the server has that role.",
            hint="Set it to none; give people and programs users of their own.",
            id="fmv.E001",
        )
    ]


@register(Tags.security, deploy=True)
def development_is_over(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """fmv.E002: FMV_DEBUG is on."""
    if not settings.ENVIRONMENT.debug:
        return []
    return [Error("FMV_DEBUG is on: cookies travel without HTTPS.", hint="Leave FMV_DEBUG unset.", id="fmv.E002")]


@register(Tags.security, deploy=True)
def the_issuer_is_reached_safely(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """fmv.E003: FMV_OIDC_ISSUER is asked for its keys without TLS. fmv.E004: FMV_OIDC_AUDIENCE is empty."""
    if not settings.FMV_OIDC_ISSUER:
        return []
    errors: list[CheckMessage] = []
    if not settings.FMV_OIDC_ISSUER.startswith("https://"):
        text = f"FMV_OIDC_ISSUER={settings.FMV_OIDC_ISSUER}: whoever answers there decides who signs in."
        errors.append(Error(text, hint="Use an https issuer; http is for development on loopback.", id="fmv.E003"))
    if not settings.FMV_OIDC_AUDIENCE:
        text = "FMV_OIDC_AUDIENCE is empty: no token of the issuer is for FMV."
        errors.append(Error(text, hint="Name the audience, or the client id, of FMV's tokens.", id="fmv.E004"))
    return errors
