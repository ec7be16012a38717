"""The Celery application; its configuration is the settings' CELERY_ part."""

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
def log_as_we_do(**_: Any) -> None:
    """Else Celery sets up logging of its own, and takes the level of its command line for all our lines too."""
    from celery.apps import worker
    from django.conf import settings

    logging.config.dictConfig(settings.LOGGING)
    logging.captureWarnings(True)
    worker.safe_say = say  # type: ignore[attr-defined]


def say(text: str, *_: object) -> None:
    """Log what Celery writes past all loggers from its signal handlers: a logger's stream may be in use just then."""
    record = logging.makeLogRecord({"name": "celery.worker", "levelno": logging.INFO, "levelname": "INFO", "msg": text})
    for handler in logging.getLogger().handlers:
        handler.filter(record)
        os.write(2, f"{handler.format(record)}\n".encode())
