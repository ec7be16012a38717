"""What an agent is answered that may not do what it asks. Its `code` is for programs."""

from typing import Any

from fmv.errors import FmvError


class AttemptLost(FmvError):
    """This attempt is not, or no longer, yours: stop it and drop it."""

    code = "attempt_lost"

    def __init__(self, stored: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.extra = {"stored": stored} if stored else {}


class AlreadyReported(FmvError):
    """Another outcome of this attempt is stored already."""

    code = "already_reported"

    def __init__(self, stored: dict[str, Any]) -> None:
        super().__init__()
        self.extra = {"stored": stored}


class LinesMissing(FmvError):
    """Lines before these are missing: send them from `next` on."""

    code = "lines_missing"

    def __init__(self, next: int) -> None:
        super().__init__()
        self.extra = {"next": next}
