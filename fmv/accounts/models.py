"""Users, and their programs' API tokens."""

import datetime as dt
from collections.abc import Iterable
from typing import Any, ClassVar

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from fmv.accounts.permissions import PERMISSIONS, Role
from fmv.mongodb.queryset import QuerySet

USE_NOTED = dt.timedelta(minutes=1)  # between two writes of when an API token was used


class UserManager(BaseUserManager["User"]):
    def create_user(self, username: str, password: str | None = None, **fields: Any) -> "User":
        """Store and return a new user; without a password only the organisation's sign-in works."""
        user = self.model(username=username, **fields)
        user.set_password(password)
        user.save(force_insert=True)
        return user

    def create_superuser(self, username: str, password: str | None = None, **fields: Any) -> "User":
        """Store and return a new user who may do everything."""
        return self.create_user(username, password, is_superuser=True, **fields)


class User(AbstractBaseUser):
    """Somebody who signs in. Permissions follow from `role` in code: a check is never a query."""

    id = models.UUIDField(primary_key=True, db_column="_id", default=uuid7, editable=False)
    username = models.CharField(max_length=150, unique=True, validators=[UnicodeUsernameValidator()])
    name = models.CharField(max_length=200, blank=True)
    email = models.EmailField(blank=True)
    email_verified = models.BooleanField(default=False, help_text="The organisation vouches for the address.")
    picture = models.URLField(max_length=2000, blank=True)
    subject = models.CharField(
        max_length=255, null=True, blank=True, help_text="The OIDC `sub` claim of the organisation's user."
    )
    role = models.CharField(max_length=8, choices=Role.choices, default=Role.NONE, blank=True)
    is_active = models.BooleanField(default=True, help_text="Clear it instead of deleting the user.")
    is_superuser = models.BooleanField("superuser", default=False, help_text="May do everything.")
    date_joined = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "username"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        ordering = ("username",)
        indexes = [  # the unique one is partial, and no read uses it; the organisation's users are found by `_id`
            models.Index(fields=["username"], name="user_by_name"),  # sign-in by password
        ]

    #: the most that the API token lets its user do who signed in by it
    limit: Role | None = None

    @property
    def effective_role(self) -> Role:
        """The role that counts: a superuser's is the highest, and an API token may narrow any."""
        own = Role.MANAGER if self.is_superuser else Role(self.role)
        return own if self.limit is None or not own.includes(self.limit) else self.limit

    @property
    def is_staff(self) -> bool:
        """Whether the admin lets the user in: every role does, each with its own rights."""
        return self.effective_role != Role.NONE

    def has_perm(self, perm: str, obj: object = None) -> bool:
        """Answer from the role alone: `app.action_model`, as Django names permissions."""
        everything = self.is_superuser and self.limit is None
        return self.is_active and (everything or perm in PERMISSIONS[self.effective_role])

    def has_perms(self, perm_list: Iterable[str], obj: object = None) -> bool:
        return all(self.has_perm(perm, obj) for perm in perm_list)

    def has_module_perms(self, app_label: str) -> bool:
        prefix = f"{app_label}."
        return self.is_active and (
            self.is_superuser or any(perm.startswith(prefix) for perm in PERMISSIONS[self.effective_role])
        )


class ApiTokenQuerySet(QuerySet["ApiToken"]):
    def begins(self, prefix: str) -> "ApiTokenQuerySet":
        """Those whose key begins with these hexadecimal digits."""
        return self.filter(digest__gte=prefix, digest__lt=f"{prefix}g")

    def used(self, now: dt.datetime) -> None:
        """Remember when they were used, to the minute: reading is not to become writing."""
        stale = models.Q(last_used_at=None) | models.Q(last_used_at__lte=now - USE_NOTED)
        self.filter(stale).update(last_used_at=now)


class ApiToken(models.Model):
    """A program's way in, in its user's name. Its key is the digest of a secret that is shown once and kept nowhere."""

    digest = models.CharField(max_length=64, primary_key=True, db_column="_id", editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100, help_text="What it is for: a program, a machine.")
    role = models.CharField(
        max_length=8, choices=Role.choices[1:], blank=True, help_text="The most it may do; empty: all its user may."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(editable=False)
    last_used_at = models.DateTimeField(null=True, editable=False, help_text="To the minute.")
    revoked_at = models.DateTimeField(null=True, editable=False)

    #: the secret itself, on the object that has just been made and on no other
    text: str

    objects: ClassVar[Any] = ApiTokenQuerySet.as_manager()

    class Meta:
        verbose_name = "API token"
        ordering = ("-created_at",)
        indexes = [
            models.Index(fields=["-created_at"], name="token_by_age"),  # the superusers' list
            models.Index(fields=["user", "-created_at"], name="token_of_user"),  # a user's own, and a user's page
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.short_id})"

    @property
    def short_id(self) -> str:
        """What commands and lists call it: the beginning of its key."""
        return self.digest[:12]

    @property
    def state(self) -> str:
        """One of "revoked", "expired", "usable"."""
        if self.revoked_at:
            return "revoked"
        return "usable" if self.expires_at > timezone.now() else "expired"
