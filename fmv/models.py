"""Users: people who sign in by password or through their organisation."""

from collections.abc import Iterable
from typing import Any, ClassVar

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7


class Role(models.TextChoices):
    """What a user may do; each role includes those before it."""

    #: may sign in and nothing else
    NONE = "", "No role"
    #: reads robots, tasks and handlers
    VIEWER = "viewer", "Viewer"
    #: runs, cancels and retries tasks, takes robots out of service
    OPERATOR = "operator", "Operator"
    #: changes the registry, purges
    MANAGER = "manager", "Manager"

    def includes(self, other: "Role") -> bool:
        """Tell whether this role may do what `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


_READS = frozenset({"robots.view_robot", "tasks.view_task", "django_celery_results.view_taskresult"})
_OPERATES = frozenset({"robots.operate_robot", "tasks.operate_task"})
_MANAGES = frozenset({"robots.add_robot", "robots.change_robot", "robots.delete_robot"})

#: What each role may do, in Django's names for permissions; users and their roles are the superusers' business.
PERMISSIONS: dict[Role, frozenset[str]] = {
    Role.NONE: frozenset(),
    Role.VIEWER: _READS,
    Role.OPERATOR: _READS | _OPERATES,
    Role.MANAGER: _READS | _OPERATES | _MANAGES,
}


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
        max_length=255, unique=True, null=True, blank=True, help_text="The OIDC `sub` claim of the organisation's user."
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
        indexes = [  # the unique ones are partial, and no read uses them
            models.Index(fields=["username"], name="user_by_name"),  # sign-in by password
            models.Index(fields=["subject"], name="user_by_subject"),  # sign-in by the organisation
        ]

    @property
    def effective_role(self) -> Role:
        """The role that counts: a superuser's is the highest."""
        return Role.MANAGER if self.is_superuser else Role(self.role)

    @property
    def is_staff(self) -> bool:
        """Whether the admin lets the user in: every role does, each with its own rights."""
        return self.effective_role != Role.NONE

    def has_perm(self, perm: str, obj: object = None) -> bool:
        """Answer from the role alone: `app.action_model`, as Django names permissions."""
        return self.is_active and (self.is_superuser or perm in PERMISSIONS[self.effective_role])

    def has_perms(self, perm_list: Iterable[str], obj: object = None) -> bool:
        return all(self.has_perm(perm, obj) for perm in perm_list)

    def has_module_perms(self, app_label: str) -> bool:
        prefix = f"{app_label}."
        return self.is_active and (
            self.is_superuser or any(perm.startswith(prefix) for perm in PERMISSIONS[self.effective_role])
        )


class Session(AbstractBaseSession):
    """A signed-in browser. Its key is the document's `_id`, so that a request finds it by index."""

    session_key = models.CharField(max_length=40, primary_key=True, db_column="_id")

    @classmethod
    def get_session_store_class(cls) -> type[Any]:
        from fmv.sessions import SessionStore

        return SessionStore
