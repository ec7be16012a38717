"""The Celery application; its configuration is the settings' CELERY_ part."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fmv.settings")

app = Celery("fmv")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(related_name="jobs")
