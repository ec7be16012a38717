"""The forms of what operators do with queues."""

from typing import Any

from django import forms

from fmv.mongodb.counting import collection
from robots.models import MAX_REASON, Robot
from tasks.models.status import MAX_PRIORITY

MAX_SUGGESTIONS = 500  # names of robots, and labels, that a field offers
QUEUE_CHOICES = {
    "keep": "Keep the tasks in its queue until it is back in service",
    "cancel": "Cancel the tasks in its queue",
    "move": "Move the tasks in its queue to another robot",
    "spread": "Move the tasks in its queue to robots with a label",
}


class Form(forms.Form):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""


class HoldForm(Form):
    """Why a robot's queue is held."""

    why = forms.CharField(
        required=False,
        max_length=MAX_REASON,
        label="Why",
        help_text="Shown wherever its tasks wait, with your name.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )


class PriorityForm(Form):
    priority = forms.TypedChoiceField(
        choices=[(number, number) for number in range(MAX_PRIORITY, -1, -1)],
        coerce=int,
        help_text="Higher numbers start first; of the same number the older task does.",
    )


class MoveForm(Form):
    """Where the tasks of a robot move: to another robot, or to the robots with a label."""

    to = forms.CharField(
        required=False,
        label="Other robot",
        help_text="The name of a robot in service.",
        widget=forms.TextInput(attrs={"list": "robots", "autocomplete": "off"}),
    )
    label = forms.CharField(
        required=False,
        label="Robots with the label",
        help_text="Each task goes to the robot with this label that has the shortest queue at that moment.",
        widget=forms.TextInput(attrs={"list": "labels", "autocomplete": "off"}),
    )

    def __init__(self, *args: Any, robot: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.robot = robot

    def clean(self) -> None:
        to, label = self.cleaned_data.get("to"), self.cleaned_data.get("label")
        if bool(to) == bool(label):
            self.add_error("to", "Name a robot or a label." if not to else "Name a robot or a label, not both.")

    @property
    def where(self) -> dict[str, str]:
        """Where to: `to` and `label`, as services take them."""
        return {name: self.cleaned_data[name] for name in ("to", "label")}

    @property
    def robots(self) -> list[str]:
        """The names of robots that the field offers, in order."""
        others = Robot.objects.in_service().exclude(pk=self.robot)
        return list(others.order_by("name").values_list("name", flat=True)[:MAX_SUGGESTIONS])

    @property
    def labels(self) -> list[str]:
        """The labels that the field offers, in order."""
        return sorted(collection(Robot).distinct("labels"))[:MAX_SUGGESTIONS]


class OutForm(MoveForm):
    """What happens to the queue of a robot that is taken out of service."""

    field_order = ("queue",)
    queue = forms.ChoiceField(
        choices=list(QUEUE_CHOICES.items()),
        initial="keep",
        widget=forms.RadioSelect,
        label="Its queue",
    )

    def clean(self) -> None:
        needed = {"move": "to", "spread": "label"}.get(self.cleaned_data.get("queue", ""))
        if needed and not self.cleaned_data.get(needed):
            says = {"to": "Name the robot to which the queue moves.", "label": "Name the label of the robots."}
            self.add_error(needed, says[needed])

    @property
    def where(self) -> dict[str, str]:
        """Where to, if the queue moves: `to` or `label`."""
        match self.cleaned_data["queue"]:
            case "move":
                return {"to": self.cleaned_data["to"]}
            case "spread":
                return {"label": self.cleaned_data["label"]}
        return {}
