"""Other values of environment variables, for a test."""

from typing import Any

from django.conf import settings
from django.test import override_settings


def override_environment(**values: Any) -> override_settings:
    """Return what Django's `override_settings` would for fields of `settings.ENVIRONMENT`."""
    return override_settings(ENVIRONMENT=settings.ENVIRONMENT.model_copy(update=values))
