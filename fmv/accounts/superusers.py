"""The rule that somebody can always manage users: the last active superuser stays one."""

from django.db import models

from fmv.accounts.models import User
from fmv.errors import FmvError


class LastSuperuser(FmvError):
    """Nobody else could manage users. Make another user a superuser first."""


def is_last_superuser(user: User) -> bool:
    """Return whether this user is the only active superuser."""
    return user.is_superuser and user.is_active and not _others(user).exists()


def keep_one(before: User, user: User) -> None:
    """Make the user a superuser again, as before, if the change that was just stored has left none.

    Two superusers may each take the rights of the other at the same time, and neither sees it before. Each looks here
    after its own write, so at least one of them sees both. Raises LastSuperuser then.
    """
    was = before.is_superuser and before.is_active
    if was and not (user.is_superuser and user.is_active) and not _others(user).exists():
        User.objects.filter(pk=user.pk).update(is_superuser=True, is_active=True)
        user.is_superuser = user.is_active = True
        raise LastSuperuser


def _others(user: User) -> models.QuerySet[User]:
    return User.objects.filter(is_superuser=True, is_active=True).exclude(pk=user.pk)
