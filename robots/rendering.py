"""Robots as JSON, rendered from their documents: the same as the serializers' output, at a fraction of the cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from fmv.http.fields import rfc3339


def summary(robot: Mapping[str, Any]) -> dict[str, Any]:
    """Return the output of RobotSerializer."""
    return {"name": robot["_id"], "is_great": robot["is_great"], "location": robot["location"]}


def profile(robot: Mapping[str, Any], tasks: Sequence[Any]) -> dict[str, Any]:
    """Return the output of RobotFieldsSerializer, with these tasks, rendered, in the place where v1 has them."""
    return {
        "name": robot["_id"],
        "is_great": robot["is_great"],
        "location": robot["location"],
        "description": robot["description"],
        "tasks": tasks,
        "enabled": robot["enabled"],
        "lanes": robot["lanes"],
        "labels": robot["labels"],
        "endpoint": robot["endpoint"],
        "created_at": rfc3339(robot["created_at"]),
        "updated_at": rfc3339(robot["updated_at"]),
    }
