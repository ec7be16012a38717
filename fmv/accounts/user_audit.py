"""Audit entries about users. The admin's forms, commands and sign-ins by the organisation write them, each after its
own change.
"""

from fmv import audit
from fmv.accounts.models import User

ISSUER = "issuer"  # the actor when a sign-in changes a user as the organisation's claims say
AUDITED = ("username", "name", "email", "role", "is_active", "is_superuser", "time_zone")


def created(user: User, *, by: str) -> None:
    _record("create", user, by, f"role: {user.role or 'none'}" + (", superuser" if user.is_superuser else ""))


def changed(before: User, user: User, *, by: str) -> None:
    """Record which audited fields differ from `before`; nothing if none does."""
    pairs = [(name, getattr(before, name), getattr(user, name)) for name in AUDITED]
    differences = [f"{name}: {_shown(old)} → {_shown(new)}" for name, old, new in pairs if old != new]
    if differences:
        _record(_verb(before, user), user, by, "; ".join(differences))


def password_changed(user: User, *, by: str) -> None:
    _record("password", user, by)


def _verb(before: User, user: User) -> str:
    if before.is_active != user.is_active:
        return "activate" if user.is_active else "deactivate"
    rights_differ = (before.role, before.is_superuser) != (user.role, user.is_superuser)
    return "role" if rights_differ else "change"


def _shown(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value or "none")


def _record(verb: str, user: User, by: str, text: str = "") -> None:
    audit.record(f"user.{verb}", by=by, kind="user", key=user.username, text=text)
