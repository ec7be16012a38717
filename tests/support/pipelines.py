"""What a queryset asks of MongoDB."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from django.db.models import QuerySet
from pymongo.collection import Collection


def pipeline(queryset: QuerySet, run: Callable[[Any], object] = list) -> list[dict[str, Any]]:
    """Return the pipeline that `run(queryset)` sends, as in `pipeline(tasks, QuerySet.exists)`; it must send one."""
    sent = []
    aggregate = Collection.aggregate

    def recording(collection: Any, stages: list[dict[str, Any]], *args: Any, **options: Any) -> Any:
        sent.append(stages)
        return aggregate(collection, stages, *args, **options)

    with patch.object(Collection, "aggregate", recording):
        run(queryset.all())  # a copy: a queryset that has its rows asks for nothing
    assert len(sent) == 1, f"{len(sent)} pipelines were sent"
    return sent[0]


def stages(queryset: QuerySet, run: Callable[[Any], object] = list) -> list[str]:
    """Return the names of that pipeline's stages, in order."""
    return [name for stage in pipeline(queryset, run) for name in stage]
