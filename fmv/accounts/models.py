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
from fmv.mongodb.server import stored_now

LAST_USED_PRECISION = dt.timedelta(minutes=1)  # between two writes of an API token's `last_used_at`


class UserManager(BaseUserManager["User"]):
    def create_user(self, username: str, password: str | None = None, **fields: Any) -> "User":
        """Store and return a new user. Without a password the user can sign in only by the organisation."""
        user = self.model(username=username, **fields)
        user.set_password(password)
        user.save(force_insert=True)
        return user

    def create_superuser(self, username: str, password: str | None = None, **fields: Any) -> "User":
        """Store and return a new superuser."""
        return self.create_user(username, password, is_superuser=True, **fields)


class User(AbstractBaseUser):
    """A person or account that signs in. Permissions follow from `role` in code, so a check costs no query."""

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
    #: in which the user wants to see times, such as Europe/Berlin; None: as the browser
    time_zone = models.CharField(max_length=64, null=True, editable=False)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "username"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        ordering = ("username",)
        indexes = [  # the unique index is partial and serves no read; the organisation's users are found by `_id`
            models.Index(fields=["username"], name="user_by_name"),  # sign-in by password
        ]

    #: the role of the API token that the user signed in with; None for other sign-ins
    limit: Role | None = None
    #: the robot whose token the caller signed in with; None for every user
    robot: str | None = None

    @property
    def effective_role(self) -> Role:
        """The role that counts: the highest for a superuser, and never more than the API token's."""
        own = Role.MANAGER if self.is_superuser else Role(self.role)
        return own if self.limit is None or not own.includes(self.limit) else self.limit

    @property
    def is_staff(self) -> bool:
        """Whether the user may open the admin: yes with any role."""
        return self.effective_role != Role.NONE

    def has_perm(self, perm: str, obj: object = None) -> bool:
        """Return whether the role includes the permission, named like Django's: `app.action_model`."""
        return self.is_active and (self._may_everything or perm in PERMISSIONS[self.effective_role])

    def has_perms(self, perm_list: Iterable[str], obj: object = None) -> bool:
        return all(self.has_perm(perm, obj) for perm in perm_list)

    def has_module_perms(self, app_label: str) -> bool:
        prefix = f"{app_label}."
        return self.is_active and (
            self._may_everything or any(perm.startswith(prefix) for perm in PERMISSIONS[self.effective_role])
        )

    @property
    def _may_everything(self) -> bool:
        return self.is_superuser and self.limit is None


class ApiTokenQuerySet(QuerySet["ApiToken"]):
    def begins(self, prefix: str) -> "ApiTokenQuerySet":
        """Tokens whose key begins with these hexadecimal digits."""
        return self.filter(digest__gte=prefix, digest__lt=f"{prefix}g")

    def usable(self) -> "ApiTokenQuerySet":
        return self.filter(revoked_at=None, expires_at__gt=stored_now())

    def used(self, now: dt.datetime) -> None:
        """Store when the tokens were used, to the minute, so that not every request writes."""
        stale = models.Q(last_used_at=None) | models.Q(last_used_at__lte=now - LAST_USED_PRECISION)
        self.filter(stale).update(last_used_at=now)


class ApiToken(models.Model):
    """A credential of a program, in its user's name, or of a robot's agent.

    The key is the digest of a secret that is shown once, not stored.
    """

    digest = models.CharField(max_length=64, primary_key=True, db_column="_id", editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens", null=True)
    robot = models.CharField(
        max_length=64, null=True, editable=False, help_text="The robot whose agent it is for; then it has no user."
    )
    name = models.CharField(max_length=100, help_text="What it is for: a program, a machine.")
    role = models.CharField(
        max_length=8, choices=Role.choices[1:], blank=True, help_text="The most it may do; empty: all its user may."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(editable=False)
    last_used_at = models.DateTimeField(null=True, editable=False, help_text="To the minute.")
    revoked_at = models.DateTimeField(null=True, editable=False)

    #: the secret itself, only on an object that was just created
    text: str

    objects: ClassVar[Any] = ApiTokenQuerySet.as_manager()

    class Meta:
        verbose_name = "API token"
        ordering = ("-created_at",)
        indexes = [
            models.Index(fields=["-created_at"], name="token_by_age"),  # the superusers' list
            models.Index(fields=["user", "-created_at"], name="token_of_user"),  # a user's own, and a user's page
            models.Index(  # a robot's, on its page and for the limit of their number
                fields=["robot", "-created_at"], name="token_of_robot", condition=models.Q(robot__gt="")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.short_id})"

    @property
    def owner(self) -> str:
        """The name of the user or robot whose token it is."""
        return self.user.username if self.user else f"robot {self.robot}"

    @property
    def short_id(self) -> str:
        """The beginning of the key, by which commands and lists name the token."""
        return self.digest[:12]

    @property
    def state(self) -> str:
        """One of "revoked", "expired", "usable"."""
        if self.revoked_at:
            return "revoked"
        return "usable" if self.expires_at > stored_now() else "expired"
