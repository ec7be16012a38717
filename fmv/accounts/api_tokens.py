"""API tokens: how programs sign in, in the name of a user, with at most the rights of their token's role.

A token is `fmv_` and 64 hexadecimal digits of a random secret. The prefix helps secret scanners and distinguishes it
from an organisation's JWT. FMV stores only its SHA-256. A slow hash, as for passwords, is not needed, because nobody
can guess 256 random bits, however fast each try. The time of a look-up reveals nothing useful either: it depends on
digests, which nobody can steer towards a stored one.

django-rest-knox is not used, because its tokens have no names and no roles, and each look-up is a join on MongoDB.
"""

import datetime as dt
import hashlib
import logging
import re
import secrets

from django.conf import settings

from fmv import audit
from fmv.accounts.models import LAST_USED_PRECISION, ApiToken, User
from fmv.accounts.oidc import refuse
from fmv.accounts.permissions import Role
from fmv.errors import FmvError
from fmv.mongodb.server import stored_now

logger = logging.getLogger(__name__)

PREFIX = "fmv_"
FORM = re.compile(f"{PREFIX}[0-9a-f]{{64}}")


class TokenNotMade(FmvError):
    """The token cannot be created."""


def is_api_token(token: str) -> bool:
    """Return whether the bearer token has the form of an API token, valid or not."""
    return token.startswith(PREFIX)


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def build(user: User, name: str, *, role: str = "", days: float | None = None) -> ApiToken:
    """Return a new token with its secret in `text`. It is not stored yet and is valid for `days` (FMV_TOKEN_DAYS).

    An empty role means the user's own at the time of use. Raises TokenNotMade if the user is deactivated, the role is
    higher than the user's, or `days` is more than FMV_TOKEN_MAX_DAYS.
    """
    days = settings.ENVIRONMENT.token_days if days is None else days
    if not user.is_active:
        raise TokenNotMade("The user is deactivated.")
    if not user.effective_role.includes(Role(role)):
        raise TokenNotMade("A token's role cannot be higher than its user's.")
    if not 0 < days <= settings.ENVIRONMENT.token_max_days:
        raise TokenNotMade(f"A token is valid for at most {settings.ENVIRONMENT.token_max_days:g} days.")
    text, now = PREFIX + secrets.token_hex(32), stored_now()
    expires_at = now + dt.timedelta(days=days)
    token = ApiToken(digest=digest_of(text), user=user, name=name, role=role, created_at=now, expires_at=expires_at)
    token.text = text
    return token


def store(token: ApiToken, *, by: str) -> None:
    """Store a token that `build` returned. Its text is not stored, so the caller must show it now."""
    token.save(force_insert=True)
    logger.info("API token %s created for %s", token.short_id, token.user.username)
    limit = f", as {token.role}" if token.role else ""
    text = f"{token.name}, of {token.user.username}{limit}, until {token.expires_at:%Y-%m-%d}"
    audit.record("token.create", by=by, kind="token", key=token.short_id, text=text)


def revoke(token: ApiToken, *, by: str) -> bool:
    """Revoke the token; return False if it was revoked already."""
    revoked = ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=stored_now()) > 0
    if revoked:
        logger.info("API token %s revoked by %s", token.short_id, by)
        audit.record("token.revoke", by=by, kind="token", key=token.short_id, text=token.name)
    return revoked


def sign_in(text: str) -> User:
    """Return the token's user, limited to the token's role. Raises AuthenticationFailed unless the token is usable."""
    token = ApiToken.objects.filter(pk=digest_of(text)).first() if FORM.fullmatch(text) else None
    if token is None:
        refuse("it is unknown")
    if token.state != "usable":
        refuse(f"it is {token.state}", token.short_id)
    user = User.objects.filter(pk=token.user_id, is_active=True).first()
    if user is None:
        refuse("its user is deactivated", token.short_id)
    user.limit = Role(token.role) if token.role else None
    _store_use(token)
    return user


def _store_use(token: ApiToken) -> None:
    now = stored_now()
    if token.last_used_at is None or token.last_used_at <= now - LAST_USED_PRECISION:
        ApiToken.objects.filter(pk=token.pk).used(now)
