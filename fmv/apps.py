"""App configs: FMV's own, and those of Django's apps whose keys must be ObjectIds on MongoDB."""

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig
from django.contrib.auth.apps import AuthConfig
from django.contrib.contenttypes.apps import ContentTypesConfig
from django.core.cache import close_caches
from django.core.handlers.base import reset_urlconf
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, reset_queries
from django_celery_results.apps import CeleryResultConfig

OBJECT_ID = "django_mongodb_backend.fields.ObjectIdAutoField"


class FmvConfig(AppConfig):
    name = "fmv"
    verbose_name = "Access"

    def ready(self) -> None:
        from fmv import checks  # noqa: F401 - registers them

        # What Django does around each request, and what here would do nothing: the engine's close() is empty, for a
        # MongoClient looks after its own connections; queries are not kept, nothing is in a cache, all URLs are of one
        # urlconf.
        request_started.disconnect(reset_queries)
        request_started.disconnect(close_old_connections)
        request_finished.disconnect(close_old_connections)
        request_finished.disconnect(close_caches)
        request_finished.disconnect(reset_urlconf)


class MongoAdminConfig(AdminConfig):
    default_auto_field = OBJECT_ID
    default_site = "tasks.admin.site.FleetSite"

    def ready(self) -> None:
        super().ready()
        from tasks.admin import bulk, robots, tasks  # noqa: F401 - register their pages


class MongoAuthConfig(AuthConfig):
    default_auto_field = OBJECT_ID


class MongoContentTypesConfig(ContentTypesConfig):
    default_auto_field = OBJECT_ID


class MongoResultsConfig(CeleryResultConfig):
    default_auto_field = OBJECT_ID
