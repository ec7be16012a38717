"""Floor plans: one picture for a map at most."""

import hashlib
import re
from typing import Any

from bson import Binary
from django_mongodb_backend.query import wrap_database_errors

from fmv import audit
from fmv.errors import InvalidInput, Problem
from fmv.mongodb.counting import collection
from fmv.mongodb.server import stored_now
from robots.models import MAX_MAP_NAME, FloorPlan
from robots.plan_files import Picture, Placement

MAX_PLANS = 100
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def find(name: str) -> FloorPlan | None:
    """Return the floor plan of the map, without its picture; None if there is none."""
    return FloorPlan.objects.defer("image").filter(pk=name).first() if "\0" not in name else None


def names() -> list[str]:
    """Return the maps that have a floor plan."""
    return list(FloorPlan.objects.order_by("pk").values_list("pk", flat=True)[:MAX_PLANS])


def digest_of(name: str) -> str | None:
    return FloorPlan.objects.filter(pk=name).values_list("digest", flat=True).first()


def picture_of(name: str) -> tuple[str, bytes] | None:
    """Return the digest and the PNG of the map's floor plan; None if there is none."""
    found = FloorPlan.objects.filter(pk=name).values_list("digest", "image").first()
    return (found[0], bytes(found[1])) if found else None


@wrap_database_errors
def store(name: str, placement: Placement, picture: Picture | None, *, by: str) -> bool:
    """Store the floor plan of the map, or change the one that it has; return whether it is new.

    Without a `picture` the one there is stays. Raises InvalidInput.
    """
    if len(name) > MAX_MAP_NAME or CONTROL_CHARACTERS.search(name):
        raise _wrong("map", f"The name of a map has at most {MAX_MAP_NAME} characters, and no control characters.")
    values: dict[str, Any] = {
        **vars(placement),
        "changed_at": stored_now(),
        "changed_by": by,
    }
    if picture:
        values |= {
            "image": Binary(picture.png),
            "digest": hashlib.sha256(picture.png).hexdigest(),
            "width": picture.width,
            "height": picture.height,
        }
        if len({*names()} - {name}) >= MAX_PLANS:
            raise _wrong("map", f"There are {MAX_PLANS} floor plans. Delete one first.")
    result = collection(FloorPlan).update_one({"_id": name}, {"$set": values}, upsert=picture is not None)
    is_new = bool(picture and not result.matched_count)
    if not is_new and not result.matched_count:
        raise _wrong("image", "This map has no floor plan yet. Choose a picture.")
    size = f"{picture.width} by {picture.height} pixels" if picture else "the same picture"
    text = (
        f"{size}; {placement.resolution:g} m per pixel; origin {placement.x:g}, {placement.y:g}; yaw {placement.yaw:g}"
    )
    audit.record(f"plan.{'create' if is_new else 'change'}", by=by, kind="plan", key=name, text=text)
    return is_new


def delete(name: str, *, by: str) -> bool:
    """Delete the floor plan of the map; return whether there was one."""
    deleted = FloorPlan.objects.filter(pk=name).delete()[0] > 0
    if deleted:
        audit.record("plan.delete", by=by, kind="plan", key=name)
    return deleted


def _wrong(field: str, message: str) -> InvalidInput:
    return InvalidInput([Problem(("body", field), message)])
