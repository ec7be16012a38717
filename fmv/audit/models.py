"""Entries of the audit list."""

import datetime as dt

from django.db import models
from uuid_utils.compat import uuid7

from fmv.mongodb.uuid7 import time_of


class AuditEntry(models.Model):
    """One action of a user, a program or a command (see fmv.audit). Its id contains the time. It never changes."""

    id = models.UUIDField(primary_key=True, db_column="_id", default=uuid7, editable=False)
    #: a username, or "command", "issuer" or "anonymous"
    by = models.CharField(max_length=150)
    #: the kind of object and a verb, such as "user.create"
    action = models.CharField(max_length=32)
    kind = models.CharField(max_length=8)
    #: the object's name or id
    key = models.CharField(max_length=150)
    text = models.CharField(max_length=2000, blank=True)
    request_id = models.CharField(max_length=128, default="-")

    class Meta:
        verbose_name_plural = "audit entries"
        ordering = ("-id",)
        indexes = [
            models.Index(fields=["kind", "key", "-id"], name="audit_of_object"),  # of one object
            models.Index(fields=["key", "-id"], name="audit_by_key"),  # the admin's search, by either
            models.Index(fields=["request_id", "-id"], name="audit_by_request"),
            models.Index(fields=["by", "-id"], name="audit_by_actor"),  # the admin's filters
            models.Index(fields=["action", "-id"], name="audit_by_action"),
            models.Index(fields=["kind", "-id"], name="audit_by_kind"),
        ]

    def __str__(self) -> str:
        return f"{self.action} of {self.key} by {self.by}"

    @property
    def at(self) -> dt.datetime:
        return time_of(self.id)
