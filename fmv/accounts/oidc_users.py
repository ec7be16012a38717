"""Users of the organisation: created from an OIDC token's claims at the first sign-in, and updated at the next."""

import copy
import re
import uuid
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db import IntegrityError

from fmv.accounts import user_audit
from fmv.accounts.models import User
from fmv.accounts.oidc import Claims, ExpectedToken, refuse, verify
from fmv.accounts.permissions import Role


def sign_in(token: str, expected: ExpectedToken | None = None) -> User:
    """Return the owner of a valid token. Raises AuthenticationFailed, or IssuerUnavailable."""
    claims = verify(token, expected)
    user = _find(claims) or _create(claims)
    if not user.is_active:
        refuse("its user is deactivated", claims.sub)
    _update(user, claims)
    return user


def key_of(sub: str) -> uuid.UUID:
    """Return the primary key of the issuer's user. The same `sub` of another issuer gives another key.

    Because it is the key, no second index is needed, and of several first requests of a user only one creates the user.
    """
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{settings.ENVIRONMENT.oidc_issuer}#{sub}")


def _find(claims: Claims) -> User | None:
    return User.objects.filter(pk=key_of(claims.sub)).first()


def _create(claims: Claims) -> User:
    for username in _usernames(claims):
        try:
            user = User.objects.create_user(username, id=key_of(claims.sub), subject=claims.sub, **_fields(claims))
        except IntegrityError:  # the name is taken, or another request was faster
            if found := _find(claims):
                return found
        else:
            user_audit.created(user, by=user_audit.ISSUER)
            return user
    raise AssertionError("the last name contains the key, so no other user can have it")


def _usernames(claims: Claims) -> Iterator[str]:
    """Yield usernames to try: the issuer's, then names that contain the key and so cannot be taken."""
    key = key_of(claims.sub).hex
    wanted = claims.preferred_username or (claims.email or "").partition("@")[0]
    name = re.sub(r"[^\w.@+-]+", "-", User.normalize_username(wanted)).strip("-")[:100].lower()
    if name and name not in RESERVED:
        yield name
    yield f"{name or 'user'}-{key[:8]}"
    yield f"{name or 'user'}-{key}"


#: names that stand in a task's record for a caller that is not a user
RESERVED = {"anonymous", "command", user_audit.ISSUER}


def _fields(claims: Claims) -> dict[str, Any]:
    """Return the user's fields that the claims set. A field without a claim keeps its value, except the role: without
    its claim the user loses it.
    """
    fields: dict[str, Any] = {"name": claims.name, "picture": claims.picture, "email": claims.email}
    if claims.email is not None:  # else it would confirm an address of another token
        fields["email_verified"] = bool(claims.email_verified)
    if settings.ENVIRONMENT.oidc_role_claim:
        fields["role"] = highest(claims.roles)
    return {field: value for field, value in fields.items() if value is not None}


def highest(names: list[str]) -> Role:
    """Return the highest role among the names, Role.NONE if none of them is a role."""
    return max((role for role in Role if role in names), key=[*Role].index, default=Role.NONE)


def _update(user: User, claims: Claims) -> None:
    changed = {field: value for field, value in _fields(claims).items() if getattr(user, field) != value}
    if changed:
        before = copy.copy(user)
        User.objects.filter(pk=user.pk).update(**changed)
        for field, value in changed.items():
            setattr(user, field, value)
        user_audit.changed(before, user, by=user_audit.ISSUER)
