"""What a person can do about a robot or a task that does not go on: a word for programs, a label for a button."""

import uuid
from dataclasses import dataclass

#: what to do -> the label of its button or link
LABELS = {
    "put_in_service": "Put in service",
    "release_queue": "Release the queue",
    "free_lane": "The robot stands still: free its lane",
    "end": "Do not wait for the robot",
    "show_task": "Show the task",
    "show_failure": "Show why it failed",
    "show_robot": "Show the robot",
    "show_queued": "Show the queued tasks",
    "show_workers": "Show the workers",
}

#: those that change something, which operators may
CHANGES = ("put_in_service", "release_queue", "free_lane", "end")


@dataclass(frozen=True)
class Remedy:
    """One thing to do, one of LABELS, about this robot, task or handler."""

    do: str
    robot: str = ""
    task: uuid.UUID | None = None
    handler: str = ""

    @property
    def label(self) -> str:
        return LABELS[self.do]

    @property
    def changes(self) -> bool:
        return self.do in CHANGES
