"""API tokens: how programs sign in, in the name of a user, with at most the rights of their token's role.

A robot's agent signs in with a token of the robot. It belongs to no user: a robot goes on when the person leaves who
connected it. It may call the routes of agents and nothing else, and names the robot for which it may do so.

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
from typing import Any

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


#: usable tokens that a robot may have: the one in use, and its successor until the agent has it
ROBOT_TOKENS = 2


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
    if not user.is_active:
        raise TokenNotMade("The user is deactivated.")
    if not user.effective_role.includes(Role(role)):
        raise TokenNotMade("A token's role cannot be higher than its user's.")
    return _new(name, settings.ENVIRONMENT.token_days if days is None else days, user=user, role=role)


def build_for_robot(robot: str, *, days: float | None = None) -> ApiToken:
    """Return a new token of the robot's agent, as `build` does. It is valid for `days` (FMV_TOKEN_MAX_DAYS).

    Whether the robot exists is for the caller to check. Raises TokenNotMade if `days` is more than FMV_TOKEN_MAX_DAYS.
    """
    return _new("agent", settings.ENVIRONMENT.token_max_days if days is None else days, robot=robot)


def _new(name: str, days: float, **owner: Any) -> ApiToken:
    if not 0 < days <= settings.ENVIRONMENT.token_max_days:
        raise TokenNotMade(f"A token is valid for at most {settings.ENVIRONMENT.token_max_days:g} days.")
    text, now = PREFIX + secrets.token_hex(32), stored_now()
    expires_at = now + dt.timedelta(days=days)
    token = ApiToken(digest=digest_of(text), name=name, created_at=now, expires_at=expires_at, **owner)
    token.text = text
    return token


def store(token: ApiToken, *, by: str) -> None:
    """Store a token that was built. Its text is not stored, so the caller must show it now.

    Raises TokenNotMade for a robot's token if ROBOT_TOKENS of the robot are usable.
    """
    token.save(force_insert=True)
    if token.robot and ApiToken.objects.filter(robot=token.robot).usable().count() > ROBOT_TOKENS:
        token.delete()  # after a look, another request could store one too; nobody has seen this one yet
        raise TokenNotMade(f"The robot has {ROBOT_TOKENS} usable tokens: revoke one of them first.")
    logger.info("API token %s created for %s", token.short_id, token.owner)
    limit = f", as {token.role}" if token.role else ""
    text = f"{token.name}, of {token.owner}{limit}, until {token.expires_at:%Y-%m-%d}"
    audit.record("token.create", by=by, kind="token", key=token.short_id, text=text)


def revoke(token: ApiToken, *, by: str) -> bool:
    """Revoke the token; return False if it was revoked already."""
    revoked = ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=stored_now()) > 0
    if revoked:
        logger.info("API token %s revoked by %s", token.short_id, by)
        audit.record("token.revoke", by=by, kind="token", key=token.short_id, text=token.name)
    return revoked


def revoke_all_of(robot: str, *, by: str) -> None:
    """Revoke the usable tokens of a robot."""
    for token in ApiToken.objects.filter(robot=robot).usable():
        revoke(token, by=by)


def sign_in(text: str) -> User:
    """Return the token's user, limited to the token's role, or for a robot's token a user who is not stored.

    That user is named `agent/<robot>`, has the name in `robot`, and has no role. Raises AuthenticationFailed unless the
    token is usable.
    """
    token = ApiToken.objects.filter(pk=digest_of(text)).first() if FORM.fullmatch(text) else None
    if token is None:
        refuse("it is unknown")
    if token.state != "usable":
        refuse(f"it is {token.state}", token.short_id)
    if token.robot:
        user = User(username=f"agent/{token.robot}")
        user.robot = token.robot
    else:
        user = _user_of(token)
    _store_use(token)
    return user


def _user_of(token: ApiToken) -> User:
    user_id: Any = token.user_id  # only a robot's token has none
    user = User.objects.filter(pk=user_id, is_active=True).first()
    if user is None:
        refuse("its user is deactivated", token.short_id)
    user.limit = Role(token.role) if token.role else None
    return user


def _store_use(token: ApiToken) -> None:
    now = stored_now()
    if token.last_used_at is None or token.last_used_at <= now - LAST_USED_PRECISION:
        ApiToken.objects.filter(pk=token.pk).used(now)
