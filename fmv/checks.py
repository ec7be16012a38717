"""System checks that find insecure production settings (`manage.py check --deploy`)."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register


@register(Tags.security, deploy=True)
def nobody_acts_anonymously(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """fmv.E001: FMV_ANONYMOUS gives a role to callers who have not signed in."""
    if settings.ENVIRONMENT.anonymous == "none":
        return []
    return [
        Error(
            f"FMV_ANONYMOUS={settings.ENVIRONMENT.anonymous}: everybody who can reach the server has that role.",
            hint="Set it to none, and create users for people and programs.",
            id="fmv.E001",
        )
    ]


@register(Tags.security, deploy=True)
def development_is_over(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """fmv.E002: FMV_DEBUG is on."""
    if not settings.ENVIRONMENT.debug:
        return []
    return [Error("FMV_DEBUG is on: cookies are sent without HTTPS.", hint="Leave FMV_DEBUG unset.", id="fmv.E002")]


@register(Tags.security, deploy=True)
def rabbitmq_carries_the_messages(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """fmv.W002: FMV_BROKER_URL names the broker of development."""
    if settings.ENVIRONMENT.broker_url.startswith("amqp"):
        return []
    text = "FMV_BROKER_URL names a Valkey, which only processes of one machine reach and which stores no message."
    return [Warning(text, hint="Set it to the URL of RabbitMQ.", id="fmv.W002")]


@register(Tags.security, deploy=True)
def the_issuer_is_reached_safely(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """fmv.E003: the keys of FMV_OIDC_ISSUER are fetched without TLS. fmv.E004: FMV_OIDC_AUDIENCE is empty."""
    if not settings.ENVIRONMENT.oidc_issuer:
        return []
    errors: list[CheckMessage] = []
    if not settings.ENVIRONMENT.oidc_issuer.startswith("https://"):
        text = f"FMV_OIDC_ISSUER={settings.ENVIRONMENT.oidc_issuer}: without TLS another server can pose as the issuer."
        errors.append(Error(text, hint="Use an https URL; http is for development on loopback.", id="fmv.E003"))
    if not settings.ENVIRONMENT.oidc_audience:
        text = "FMV_OIDC_AUDIENCE is empty: FMV accepts no token of the issuer."
        errors.append(Error(text, hint="Set it to the audience, or the client id, of FMV's tokens.", id="fmv.E004"))
    return errors


@register(Tags.security, deploy=True)
def passwords_cannot_be_guessed(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """fmv.W001: FMV_THROTTLE_SIGN_IN is empty."""
    if settings.ENVIRONMENT.throttle_sign_in:
        return []
    text = "FMV_THROTTLE_SIGN_IN is empty: anybody may try any number of passwords."
    return [Warning(text, hint="Leave it unset, which allows 20 wrong passwords an hour.", id="fmv.W001")]
