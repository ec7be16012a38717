"""Where sessions are kept: `SESSION_ENGINE`."""

from typing import Any

from django.contrib.sessions.backends.db import SessionStore as DatabaseStore


class SessionStore(DatabaseStore):
    @classmethod
    def get_model_class(cls) -> type[Any]:
        from fmv.accounts.models import Session

        return Session
