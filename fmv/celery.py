"""The Celery application; its configuration is the settings' CELERY_ part."""

import logging.config
import os
from typing import Any

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fmv.settings")

app = Celery("fmv")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(related_name="jobs")


@signals.setup_logging.connect
def keep_our_logging(**_: Any) -> None:
    """Else Celery sets up its own, and takes the level of its command line for all of ours."""
    from django.conf import settings

    logging.config.dictConfig(settings.LOGGING)
