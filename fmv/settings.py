"""The one settings file. What may vary between installations comes from `fmv.environment`."""

from pathlib import Path

from fmv.environment import DEVELOPMENT_SECRET_KEY, read_environment

ENVIRONMENT = read_environment()
BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = ENVIRONMENT.debug
SECRET_KEY = ENVIRONMENT.secret_key or DEVELOPMENT_SECRET_KEY
ALLOWED_HOSTS = ENVIRONMENT.allowed_hosts

INSTALLED_APPS = [
    "fmv.apps.FmvConfig",
    "robots.apps.RobotsConfig",
    "tasks.apps.TasksConfig",
    "fmv.apps.MongoAdminConfig",
    "fmv.apps.MongoAuthConfig",
    "fmv.apps.MongoContentTypesConfig",
    "fmv.apps.MongoResultsConfig",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_mongodb_backend",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "corsheaders",
]

MIDDLEWARE = [
    "fmv.middleware.RequestID",
    "corsheaders.middleware.CorsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "fmv.middleware.ApiErrors",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "fmv.urls"
WSGI_APPLICATION = "fmv.wsgi.application"
APPEND_SLASH = False  # a redirected POST loses its body in some clients; urls.py takes both forms

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

# --- MongoDB ---------------------------------------------------------------------------------------------------------

DATABASES = {
    "default": {
        "ENGINE": "fmv.mongodb",
        "HOST": ENVIRONMENT.mongodb_uri,
        # A request meets an unreachable server as a 503 within these milliseconds, not after the driver's half minute.
        "OPTIONS": {"serverSelectionTimeoutMS": 3000, "connectTimeoutMS": 3000, "socketTimeoutMS": 60000},
    }
}
DATABASE_ROUTERS = ["django_mongodb_backend.routers.MongoRouter"]
DEFAULT_AUTO_FIELD = "django_mongodb_backend.fields.ObjectIdAutoField"
MIGRATION_MODULES = {
    "admin": "fmv.mongo_migrations.admin",
    "auth": "fmv.mongo_migrations.auth",
    "contenttypes": "fmv.mongo_migrations.contenttypes",
    "django_celery_results": "fmv.mongo_migrations.django_celery_results",
    "sessions": "fmv.mongo_migrations.sessions",
}
# The stock e-mail-style system checks of index names do not know of MongoDB; Celery's results are never chords here.
SILENCED_SYSTEM_CHECKS: list[str] = []

# --- Sign-in ---------------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "fmv.User"
AUTHENTICATION_BACKENDS = ["fmv.access.RoleBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "admin:login"
FMV_ANONYMOUS = ENVIRONMENT.anonymous

# --- HTTPS, cookies, CORS --------------------------------------------------------------------------------------------

_https = ENVIRONMENT.https and not DEBUG
SECURE_SSL_REDIRECT = _https
SECURE_REDIRECT_EXEMPT = [r"^livez$", r"^readyz$", r"^api/v1/health/?$"]  # probes come past the proxy
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _https else None
SECURE_HSTS_SECONDS = 31_536_000 if _https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = _https
SECURE_HSTS_PRELOAD = _https
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https
SESSION_COOKIE_AGE = 12 * 3600  # seconds: a shift

CORS_ALLOWED_ORIGINS = ENVIRONMENT.cors_origins
CORS_ALLOWED_ORIGIN_REGEXES = [r"^http://(localhost|127\.0\.0\.1)(:\d+)?$"] if DEBUG else []
CORS_EXPOSE_HEADERS = ["X-Request-ID", "Retry-After"]
CORS_URLS_REGEX = r"^/api/.*$"

# --- API -------------------------------------------------------------------------------------------------------------

DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024  # bytes of a request body; more is a 413
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["fmv.access.Session"],
    "DEFAULT_PERMISSION_CLASSES": ["fmv.access.HasRole"],
    "DEFAULT_RENDERER_CLASSES": ["fmv.api.Renderer"],
    "DEFAULT_PARSER_CLASSES": ["fmv.api.Parser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "fmv.api.AlwaysJSON",
    "DEFAULT_SCHEMA_CLASS": "fmv.schema.Schema",
    "EXCEPTION_HANDLER": "fmv.api.exception_handler",
    "UNAUTHENTICATED_USER": "fmv.access.Anonymous",
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "FMV",
    "DESCRIPTION": "A registry of robots and a durable queue of the tasks that workers run for them.",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.0",
    "LICENSE": {"name": "MIT"},
    "SERVERS": [{"url": "/api/v1"}],
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SCHEMA_PATH_PREFIX_TRIM": True,
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "PREPROCESSING_HOOKS": ["fmv.schema.only_canonical_paths"],
    "TAGS": [
        {"name": "robots", "description": "The registry of robots."},
        {"name": "tasks", "description": "What workers run, or ran, for robots."},
        {"name": "handlers", "description": "What a task can do."},
        {"name": "auth", "description": "Sign in and out."},
        {"name": "service", "description": "FMV itself."},
    ],
}

# --- Messages and work -----------------------------------------------------------------------------------------------
# Celery reads the CELERY_ names (fmv.celery); queues and their routes are declared there.

CELERY_BROKER_URL = ENVIRONMENT.broker_url
CELERY_RESULT_BACKEND = "django-db"
CELERY_RESULT_EXPIRES = 3600  # seconds: maintenance runs are many and small
CELERY_RESULT_EXTENDED = True
DJANGO_CELERY_RESULTS_TASK_ID_MAX_LENGTH = 191
FMV_WORKER_PROCESSES = ENVIRONMENT.worker_processes
FMV_QUEUE_TYPE = ENVIRONMENT.queue_type
FMV_LEASE_SECONDS = ENVIRONMENT.lease_seconds
FMV_RENEW_SECONDS = ENVIRONMENT.renew_seconds
FMV_STOP_GRACE = ENVIRONMENT.stop_grace
FMV_RETENTION_DAYS = ENVIRONMENT.retention_days

# --- The rest --------------------------------------------------------------------------------------------------------

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
USE_I18N = False
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
WHITENOISE_USE_FINDERS = DEBUG
STORAGES = {
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request_id": {"()": "fmv.request_id.LogFilter"}},
    "formatters": {"text": {"format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "text", "filters": ["request_id"]}},
    "root": {"handlers": ["console"], "level": ENVIRONMENT.log_level},
    "loggers": {
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.server": {"handlers": [], "propagate": True},
        "pymongo": {"level": "WARNING"},
    },
}
