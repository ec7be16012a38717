"""Beat, which starts the periodic steps."""

from typing import Any

import celery.beat

from fmv.publisher import publisher


class Scheduler(celery.beat.Scheduler):
    """Celery's scheduler without a connection of its own: it keeps its times whatever the broker does."""

    producer: Any = None

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        publisher.send(entry.task, entry.args, ignore_result=False, **entry.options)
