"""The models of the app `fmv`, imported here because Django looks for them here."""

from fmv.accounts.models import ApiToken, User
from fmv.accounts.sessions import Session
from fmv.audit.models import AuditEntry
from fmv.http.models import ThrottleWindow
from fmv.monitoring.models import Counter

__all__ = ["ApiToken", "AuditEntry", "Counter", "Session", "ThrottleWindow", "User"]
