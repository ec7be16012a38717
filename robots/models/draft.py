"""ImportDraft: a file of robots that somebody has uploaded and not confirmed yet."""

import secrets

from django.db import models


def new_draft_id() -> str:
    return secrets.token_hex(16)


class ImportDraft(models.Model):
    """robots.drafts keeps it for an hour, as it was uploaded: it is read and checked again when it is confirmed."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=32, default=new_draft_id)
    by = models.CharField(max_length=150)
    file = models.CharField(max_length=200, help_text="The file's name.")
    content = models.BinaryField()
    expires_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["expires_at"], name="draft_over")]  # the maintenance step that deletes them

    def __str__(self) -> str:
        return self.file
