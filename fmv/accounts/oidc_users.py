"""Users whom the organisation's issuer vouches for: made when first seen, and kept as their tokens say."""

import copy
import re
import uuid
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db import IntegrityError

from fmv.accounts import user_audit
from fmv.accounts.models import User
from fmv.accounts.oidc import Asked, Claims, refuse, verify
from fmv.accounts.permissions import Role


def sign_in(token: str, asked: Asked | None = None) -> User:
    """Return the owner of a good token. Raises AuthenticationFailed, and IssuerUnavailable when nobody knows."""
    claims = verify(token, asked)
    user = _find(claims) or _create(claims)
    if not user.is_active:
        refuse("its user is deactivated", claims.sub)
    _update(user, claims)
    return user


def key_of(sub: str) -> uuid.UUID:
    """Return the primary key of the issuer's user. Another issuer's user of the same `sub` is somebody else.

    As the key it needs no second index, and of many requests that first see a user, one makes him.
    """
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{settings.FMV_OIDC_ISSUER}#{sub}")


def _find(claims: Claims) -> User | None:
    return User.objects.filter(pk=key_of(claims.sub)).first()


def _create(claims: Claims) -> User:
    for username in _usernames(claims):
        try:
            user = User.objects.create_user(username, id=key_of(claims.sub), subject=claims.sub, **_said(claims))
        except IntegrityError:  # the name is taken, or another request was faster
            if found := _find(claims):
                return found
        else:
            user_audit.created(user, by=user_audit.ISSUER)
            return user
    raise AssertionError("the last name holds the key, so it is nobody else's")


def _usernames(claims: Claims) -> Iterator[str]:
    """Yield names to try: the issuer's own for the user, then ones that nobody can have taken."""
    key = key_of(claims.sub).hex
    wanted = claims.preferred_username or (claims.email or "").partition("@")[0]
    name = re.sub(r"[^\w.@+-]+", "-", User.normalize_username(wanted)).strip("-")[:100].lower()
    if name and name not in NOBODY:
        yield name
    yield f"{name or 'user'}-{key[:8]}"
    yield f"{name or 'user'}-{key}"


#: names that say in a task's record that it was not a user
NOBODY = {"anonymous", "command", user_audit.ISSUER}


def _said(claims: Claims) -> dict[str, Any]:
    """Return the fields of a user that the claims speak of. What a token does not tell stays as it is, but the role:
    one that the issuer no longer gives is gone.
    """
    said: dict[str, Any] = {"name": claims.name, "picture": claims.picture, "email": claims.email}
    if claims.email is not None:  # without the address it would vouch for another one
        said["email_verified"] = bool(claims.email_verified)
    if settings.FMV_OIDC_ROLE_CLAIM:
        said["role"] = highest(claims.roles)
    return {field: value for field, value in said.items() if value is not None}


def highest(names: list[str]) -> Role:
    """Return the highest role that is named."""
    return max((role for role in Role if role in names), key=[*Role].index, default=Role.NONE)


def _update(user: User, claims: Claims) -> None:
    changed = {field: value for field, value in _said(claims).items() if getattr(user, field) != value}
    if changed:
        before = copy.copy(user)
        User.objects.filter(pk=user.pk).update(**changed)
        for field, value in changed.items():
            setattr(user, field, value)
        user_audit.changed(before, user, by=user_audit.ISSUER)
