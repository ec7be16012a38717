"""What pages show of a robot's state."""

import datetime as dt
from collections.abc import Collection
from typing import Any

from fmv.mongodb.documents import Document
from robots.models import LOW_BATTERY, RobotState
from robots.models.state import heard_since


class Condition:
    """A robot's state as of now: whether its agent is online, and whether what it reported last is still true."""

    def __init__(self, state: RobotState, now: dt.datetime) -> None:
        since = heard_since(now)
        self.state = state
        self.online = state.online and state.last_seen >= since
        self.fresh = bool(self.online and state.reported_at and state.reported_at >= since)
        self.reported: dict[str, Any] = state.reported

    @classmethod
    def of(cls, document: Document, now: dt.datetime) -> "Condition":
        """Return that of a RobotState by its document."""
        columns = {name: value for name, value in document.items() if name != "_id"}
        for name, value in columns.items():
            if isinstance(value, dt.datetime):
                columns[name] = value.replace(tzinfo=dt.UTC)
        return cls(RobotState(robot=document["_id"], **columns), now)

    @property
    def offline_since(self) -> dt.datetime:
        """Since when its agent is offline, if it is."""
        return self.state.last_seen if self.state.online else self.state.since

    @property
    def why_offline(self) -> str:
        """Why its agent counts as offline, if it does."""
        return "it said goodbye" if self.state.signed_off else "nothing is heard from it"

    @property
    def charge(self) -> float | None:
        """Percent of the battery; None if unknown."""
        charge: float | None = (self.reported.get("battery") or {}).get("charge")
        return charge

    @property
    def low_battery(self) -> bool:
        return self.fresh and self.charge is not None and self.charge < LOW_BATTERY

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The robot's errors and warnings, fatal ones first."""
        found = [error | {"since": error["since"].replace(tzinfo=dt.UTC)} for error in self.state.errors or ()]
        return sorted(found, key=lambda error: error["level"] != "fatal")

    @property
    def kinds(self) -> list[str]:
        """Those of robots.connections.KINDS that hold."""
        kinds = ["online" if self.online else "offline"]
        kinds += ["low_battery"] if self.low_battery else []
        return kinds + (["with_errors"] if self.fresh and self.state.errors else [])

    @property
    def not_now(self) -> str:
        """Why the robot, by what it reports, takes no tasks now, "" if it may: a sentence without a full stop."""
        mode, stop = self.reported.get("mode"), self.reported.get("emergency_stop")
        if self.fresh and mode not in (None, "automatic", "semi_automatic"):
            return f"The robot reports the mode {mode}"
        return f"The robot reports an emergency stop ({stop})" if self.fresh and stop not in (None, "none") else ""

    def knows(self, handler: str) -> bool:
        """Return whether the agent that is signed in can run the handler."""
        session = self.state.session
        return session is not None and handler in session["handlers"]

    def mismatch(self, running: Collection[tuple[str, int]]) -> dict[str, Any] | None:
        """Return the task that the robot believes it runs, if it is none of these attempts: pairs of id and number."""
        task: dict[str, Any] | None = self.reported.get("task") if self.fresh else None
        return task if task and (task["task_id"], task["attempt"]) not in running else None
