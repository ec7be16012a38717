"""Sessions: the model, and the store that `SESSION_ENGINE` names. They need each other, so they share a file."""

from typing import Any

from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models

from fmv.mongodb.server import stored_now


class Session(AbstractBaseSession):
    """The session of a browser. Its key is the document's `_id`, so that a request finds it by index."""

    session_key = models.CharField(max_length=40, primary_key=True, db_column="_id")

    @classmethod
    def get_session_store_class(cls) -> type[Any]:
        return SessionStore


class SessionStore(DatabaseStore):
    """Stores sessions, which end by MongoDB's clock: web servers whose clocks are wrong agree about them."""

    @classmethod
    def get_model_class(cls) -> type[Any]:
        return Session

    def _get_session_from_db(self) -> Session | None:
        found = Session.objects.filter(pk=self.session_key, expire_date__gt=stored_now()).first()
        if found is None:
            self._session_key = None
        return found

    def get_expiry_date(self, **given: Any) -> Any:
        return super().get_expiry_date(**{"modification": stored_now()} | given)
