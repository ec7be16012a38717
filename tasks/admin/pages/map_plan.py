"""The form of a map's floor plan."""

from collections.abc import Callable
from typing import Any

from django import forms

from fmv.errors import InvalidInput
from robots import floor_plans
from robots.models import MAX_MAP_NAME, FloorPlan
from robots.plan_files import MAX_IMAGE, MAX_PIXELS, MAX_SIDE, placement, read_picture, read_yaml

TYPED = ("resolution", "x", "y", "yaw")


class PlanForm(forms.Form):
    map = forms.CharField(
        required=False,
        strip=False,
        max_length=MAX_MAP_NAME,
        label="Map",
        help_text="The name exactly as robots report it; empty for robots that report positions without a map.",
    )
    image = forms.FileField(
        required=False,
        label="Picture",
        help_text=f"A PNG, or a binary PGM as map_saver writes it: at most {MAX_IMAGE // 2**20} MiB, {MAX_SIDE:,} "
        f"pixels a side and {MAX_PIXELS // 10**6} million in all. Without one, the map keeps its picture.",
        widget=forms.FileInput(attrs={"accept": ".png,.pgm,image/png", "data-max-bytes": MAX_IMAGE}),
    )
    yaml = forms.FileField(
        required=False,
        label="YAML file of ROS map_server",
        help_text="Its `resolution` and `origin` replace the four fields below. The picture "
        "is shown as it is; `negate` and the thresholds change nothing here.",
        widget=forms.FileInput(attrs={"accept": ".yaml,.yml"}),
    )
    resolution = forms.CharField(
        required=False, label="Metres per pixel", help_text="For example 0.05; `resolution` in the YAML file."
    )
    x = forms.CharField(
        required=False, label="x of the lower left corner", initial="0", help_text="In metres, on the map."
    )
    y = forms.CharField(
        required=False, label="y of the lower left corner", initial="0", help_text="In metres, on the map."
    )
    yaw = forms.CharField(
        required=False,
        label="Turned by",
        initial="0",
        help_text="Radians, counterclockwise about that corner; the third number of `origin` in the YAML file.",
    )
    replace = forms.BooleanField(required=False, label="Replace the floor plan that this map has now")

    def __init__(self, data: Any, files: Any, *, plan: FloorPlan | None, initial: dict[str, Any]) -> None:
        """`plan`: the one that the map has."""
        now = {name: f"{getattr(plan, name):.10g}" for name in TYPED} if plan else {}
        super().__init__(data, files, initial=initial | now)
        self.label_suffix = ""
        if not plan and not self.is_bound:
            del self.fields["replace"]

    def clean(self) -> None:
        """Read the files, and ask before a floor plan is replaced."""
        self._take("picture", "image", read_picture)
        if not self._take("placement", "yaml", read_yaml) and "yaml" not in self.errors:
            self._read("placement", placement, {name: self.cleaned_data.get(name) for name in TYPED})
        if not floor_plans.find(self.cleaned_data.get("map", "")):
            del self.fields["replace"]
        elif not self.cleaned_data.get("replace"):
            self.add_error("replace", "This map has a floor plan already. Tick the box to replace it.")

    def _take(self, what: str, field: str, read: Callable[[bytes], object]) -> bool:
        """Read the file in the field; return whether there is one."""
        file = self.cleaned_data.get(field)
        if file:
            self._read(what, read, file.read())
        return bool(file)

    def _read(self, what: str, read: Callable[[Any], object], source: object) -> None:
        try:
            self.cleaned_data[what] = read(source)
        except InvalidInput as error:
            self._add(error)

    def store(self, *, by: str) -> bool:
        """Store what the form says; if that fails, add the error and return False."""
        said = self.cleaned_data
        try:
            floor_plans.store(said["map"], said["placement"], said.get("picture"), by=by)
        except InvalidInput as error:
            self._add(error)
            return False
        return True

    def _add(self, error: InvalidInput) -> None:
        for problem in error.problems:
            self.add_error(str(problem.loc[-1]), problem.msg)
