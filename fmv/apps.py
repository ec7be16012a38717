"""App configs: FMV's own, and those of Django's apps, whose keys must be ObjectIds on MongoDB."""

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig
from django.contrib.auth.apps import AuthConfig
from django.contrib.contenttypes.apps import ContentTypesConfig
from django_celery_results.apps import CeleryResultConfig

OBJECT_ID = "django_mongodb_backend.fields.ObjectIdAutoField"


class FmvConfig(AppConfig):
    name = "fmv"
    verbose_name = "Access"

    def ready(self) -> None:
        from fmv import checks  # noqa: F401 - registers them


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
