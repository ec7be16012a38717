"""The Celery application. The settings with the prefix CELERY_ configure it."""

import logging.config
import os
from typing import Any

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fmv.settings")

app = Celery("fmv")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(related_name="jobs")


@signals.celeryd_init.connect
@signals.setup_logging.connect
def set_up_logging(**_: Any) -> None:
    """Use FMV's logging, instead of Celery's own setup with the log level from its command line."""
    from celery.apps import worker
    from django.conf import settings

    logging.config.dictConfig(settings.LOGGING)
    logging.captureWarnings(True)
    worker.safe_say = say  # type: ignore[attr-defined]


def say(text: str, *_: object) -> None:
    """Log what Celery's signal handlers print. This takes no lock: the interrupted code may hold it."""
    record = logging.makeLogRecord({"name": "celery.worker", "levelno": logging.INFO, "levelname": "INFO", "msg": text})
    for handler in logging.getLogger().handlers:
        handler.filter(record)
        handler.emit(record)
