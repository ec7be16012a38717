"""The settings of all installations. Values that differ between them come from `fmv.environment`."""

from pathlib import Path

from celery.schedules import schedule
from kombu import Exchange, Queue

from fmv.clock import uptime_as_date
from fmv.environment import DEVELOPMENT_SECRET_KEY, read_environment
from fmv.monitoring.logs import logging_config

ENVIRONMENT = read_environment()
BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = False  # Django's debug mode shows tracebacks and keeps every query; FMV_DEBUG only relaxes settings below
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
    *ENVIRONMENT.apps,
]

MIDDLEWARE = [
    "fmv.http.middleware.RequestID",
    "fmv.monitoring.middleware.AccessLog",
    "fmv.http.middleware.SecurityHeaders",
    "fmv.http.middleware.Cors",
    "fmv.http.middleware.BodyLimit",
    "fmv.monitoring.middleware.HealthEndpoints",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "fmv.http.middleware.MigrationsFirst",
    "fmv.http.middleware.ConcurrencyLimit",
    "fmv.http.throttle.FailedAuthThrottle",
    "fmv.http.middleware.Sessions",
    "django.middleware.common.CommonMiddleware",
    "fmv.http.middleware.Csrf",
    "fmv.http.middleware.Users",
    "fmv.accounts.preferences.TimeZones",
    "fmv.http.middleware.Messages",
    "fmv.http.middleware.VisibleText",
]
SILENCED_SYSTEM_CHECKS = [
    "security.W002",  # SecurityHeaders sets X-Frame-Options
    "security.W003",  # Csrf is CsrfViewMiddleware
]

ROOT_URLCONF = "fmv.urls"
WSGI_APPLICATION = "fmv.wsgi.application"
APPEND_SLASH = False  # a redirected POST loses its body in some clients; urls.py accepts both forms

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
        "OPTIONS": {
            # If the server cannot be reached, a request gets 503 within these milliseconds, not after half a minute; if
            # it falls silent, after OPERATION_TIMEOUT of fmv.wsgi.
            "serverSelectionTimeoutMS": 3000,
            "connectTimeoutMS": 3000,
            "socketTimeoutMS": 60000,
            # Acknowledged writes, such as claims, survive a crash of the server, whatever the URI says.
            "w": "majority",
            "journal": True,
        },
    }
}
DATABASE_ROUTERS = ["django_mongodb_backend.routers.MongoRouter"]
DEFAULT_AUTO_FIELD = "django_mongodb_backend.fields.ObjectIdAutoField"
MIGRATION_MODULES = {
    "admin": "fmv.mongodb.migrations.admin",
    "auth": "fmv.mongodb.migrations.auth",
    "contenttypes": "fmv.mongodb.migrations.contenttypes",
    "django_celery_results": "fmv.mongodb.migrations.django_celery_results",
    "sessions": "fmv.mongodb.migrations.sessions",
}

# --- Sign-in ---------------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "fmv.User"
AUTHENTICATION_BACKENDS = ["fmv.accounts.authentication.RoleBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "admin:login"

# --- Audit -----------------------------------------------------------------------------------------------------------

#: kind of an audit entry -> the name of the URL of that object's page
FMV_AUDIT_PAGES = {
    "robot": "admin:robots_robot_change",
    "task": "admin:tasks_task_change",
    "bulk": "admin:tasks_bulk_change",
}

# --- HTTPS, cookies, CORS --------------------------------------------------------------------------------------------

_https = ENVIRONMENT.https and not ENVIRONMENT.debug
SECURE_SSL_REDIRECT = _https
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _https else None
SECURE_HSTS_SECONDS = 31_536_000 if _https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = _https
SECURE_HSTS_PRELOAD = _https
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https
CSRF_FAILURE_VIEW = "fmv.http.error_pages.csrf_failure"
SESSION_ENGINE = "fmv.accounts.sessions"
SESSION_COOKIE_AGE = 12 * 3600  # seconds: the longest shift

CORS_ALLOWED_ORIGINS = ENVIRONMENT.cors_origins
CORS_ALLOWED_ORIGIN_REGEXES = [r"^http://(localhost|127\.0\.0\.1)(:\d+)?$"] if ENVIRONMENT.debug else []
CORS_ALLOW_HEADERS = [
    "accept",
    "authorization",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "last-event-id",
    "x-csrftoken",
    "x-request-id",
]
CORS_EXPOSE_HEADERS = ["X-Request-ID", "Retry-After", "ETag"]
CORS_URLS_REGEX = r"^/api/.*$"

# --- API -------------------------------------------------------------------------------------------------------------

FMV_BODY_LIMIT = 1024 * 1024  # bytes of a request body; FMV answers 413 to a larger one
FMV_BODY_LIMITS = {  # exceptions, by path
    "/api/v1/task/batch": 8 * 1024 * 1024,
    "/admin/map/plan": 8
    * 1024
    * 1024,  # twice the largest picture: a larger one is refused with the form's other errors
    "/admin/robots/robot/import": 4 * 1024 * 1024,  # its page says how large a file may be
}
DATA_UPLOAD_MAX_MEMORY_SIZE = max(
    FMV_BODY_LIMIT, *FMV_BODY_LIMITS.values()
)  # Django's limit, which applies after BodyLimit
# BodyLimit has the body in memory already, and a container may have no place for temporary files.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]
FILE_UPLOAD_MAX_MEMORY_SIZE = DATA_UPLOAD_MAX_MEMORY_SIZE
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "fmv.accounts.authentication.ApiTokenBearer",
        "fmv.accounts.authentication.OidcBearer",
        "fmv.accounts.authentication.SessionCookie",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["fmv.accounts.permissions.HasRole"],
    "DEFAULT_THROTTLE_CLASSES": ["fmv.http.throttle.Throttle"],
    "DEFAULT_RENDERER_CLASSES": ["fmv.http.json.Renderer"],
    "DEFAULT_PARSER_CLASSES": ["fmv.http.json.Parser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "fmv.http.json.AlwaysJSON",
    "DEFAULT_SCHEMA_CLASS": "fmv.http.openapi.Schema",
    "EXCEPTION_HANDLER": "fmv.http.errors.exception_handler",
    "UNAUTHENTICATED_USER": "fmv.accounts.authentication.Anonymous",
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "FMV",
    "DESCRIPTION": (BASE_DIR / "fmv/http/openapi.md").read_text("utf-8"),
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.0",
    "CONTACT": {"name": "The operators of this server"},
    "LICENSE": {"name": "MIT", "identifier": "MIT"},
    "SERVERS": [{"url": "/api/v1"}],
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SCHEMA_PATH_PREFIX_TRIM": True,
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "ENUM_NAME_OVERRIDES": {"Status": "tasks.models.Status", "Created": [("CREATED", "CREATED")]},
    "PREPROCESSING_HOOKS": ["fmv.http.openapi_hooks.only_canonical_paths"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "fmv.http.openapi_hooks.simplify",
        "fmv.http.openapi_hooks.require_bodies",
        "fmv.http.openapi_hooks.add_headers",
        "fmv.http.openapi_hooks.one_bearer",
    ],
    "TAGS": [
        {"name": "robots", "description": "The registry of robots."},
        {"name": "tasks", "description": "The work of robots: submit it, follow it, cancel it, retry it."},
        {"name": "events", "description": "Changes of tasks as server-sent events."},
        {"name": "handlers", "description": "What tasks run."},
        {
            "name": "agents",
            "description": "For the agent of a robot, with the token of the robot: its session, tasks and state.",
        },
        {"name": "auth", "description": "Sign in and out."},
        {"name": "service", "description": "The state of FMV as a whole."},
    ],
}

# --- Messages and work -----------------------------------------------------------------------------------------------
CELERY_BROKER_URL = ENVIRONMENT.broker_url
_amqp = ENVIRONMENT.broker_url.startswith("amqp")
# Messages are doorbells ("this robot has work") and beat's reminders. MongoDB holds the truth about both, so they may
# be lost. fmv.publisher sends them.
CELERY_BROKER_CONNECTION_TIMEOUT = 2.0  # seconds for each answer while connecting
_VALKEY = {
    "ack_emulation": False,  # no message comes again after an hour; a killed worker's are not needed
    "priority_steps": [0],  # first come, first served: Kombu would take priority 0 first and 9 last
    "socket_timeout": 2.0,  # seconds for each answer
}
CELERY_BROKER_TRANSPORT_OPTIONS = {} if _amqp else _VALKEY
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CHANNEL_ERROR_RETRY = True  # RabbitMQ may close the channel of a worker that runs a long task
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # a worker waits for its broker for ever
CELERY_TASK_DEFAULT_QUEUE = "work"
CELERY_TASK_QUEUES = [
    Queue(
        name,
        Exchange(name, type="direct", durable=True),
        routing_key=name,
        durable=True,
        # Quorum queues have two priorities and need no maximum; classic queues must declare theirs.
        queue_arguments={"x-queue-type": ENVIRONMENT.queue_type}
        | ({"x-max-priority": 9} if ENVIRONMENT.queue_type == "classic" and name == "work" else {}),
    )
    for name in ("work", "maintenance")
]
CELERY_TASK_CREATE_MISSING_QUEUES = False
CELERY_TASK_SERIALIZER = CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_WORKER_CONSUMER = "tasks.worker.celery_hooks:Consumer"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_WORKER_PROC_ALIVE_TIMEOUT = 60.0  # seconds for a new process to be ready; on a busy machine 4 s are too few
CELERY_WORKER_LOST_WAIT = 2.0  # seconds to wait for an answer that a dead process may have sent
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False  # the lease in MongoDB counts, not the connection
CELERY_WORKER_ENABLE_REMOTE_CONTROL = _amqp  # `celery inspect` is for production
CELERY_RESULT_BACKEND = "django-db"
CELERY_RESULT_EXTENDED = True
CELERY_RESULT_EXPIRES = 3600  # seconds; maintenance runs are frequent
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULER = "fmv.beat:Scheduler"  # no state needed: every step may run early, late or twice
CELERY_BEAT_SCHEDULE = {
    name: {
        "task": f"tasks.{name}",
        # by a clock that nobody sets: beat would stand still after the wall clock was put back
        "schedule": schedule(seconds, nowfun=uptime_as_date),
        # The broker drops the message. `expires` would have the worker compare its wall clock with beat's.
        "options": {"queue": "maintenance", "expiration": max(10.0, 2 * seconds)},
    }
    for name, seconds in {
        "promote_due": 1.0,
        "recover_lost": 2.0,
        "work_on_bulks": 2.0,
        "ring_waiting": 5.0,
        "expire": 5.0,
        "finish_submissions": 10.0,
        "notice_silent": 10.0,
        "count_finished": 10.0,
        "note_endings": 10.0,
        "purge": 10.0,
        "sample_robots": 60.0,
        "forget_runs": 600.0,
    }.items()
}

# --- Monitoring -------------------------------------------------------------------------------------------------------

LOGGING = logging_config(ENVIRONMENT)
FMV_COLLECTORS = ["tasks.reports.metrics.collect"]  # functions that yield the metrics that are read from MongoDB

# --- Backup ----------------------------------------------------------------------------------------------------------

#: models that a backup does not include, with the reason
FMV_BACKUP_LEAVES_OUT = {
    "fmv.Session": "people sign in again",
    "fmv.ThrottleWindow": "counts of the last minutes",
    "robots.ImportDraft": "files that are not confirmed",
    "tasks.WorkerProcess": "workers report themselves",
    "sessions.Session": "not used: sessions are fmv.Session",
    "django_celery_results.TaskResult": "the last hour's maintenance runs",
    "django_celery_results.ChordCounter": "not used",
    "django_celery_results.GroupResult": "not used",
}
#: models whose documents refer to others by more than a foreign key; a backup reads them before the others
FMV_BACKUP_FIRST = [
    "fmv.AuditEntry",
    "tasks.Bulk",
    "tasks.Submission",
    "tasks.SpanTally",
    "tasks.Tally",
    "tasks.LastOutcomes",
    "tasks.LogLine",
    "tasks.EndingsUntil",
    "tasks.TaskEnding",
]

# --- The rest --------------------------------------------------------------------------------------------------------

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
USE_I18N = False
FORMAT_MODULE_PATH = ["fmv.formats"]
STATIC_URL = "static/"
STATIC_ROOT = None if ENVIRONMENT.debug else BASE_DIR / "staticfiles"
STATICFILES_DIRS = [("agent", BASE_DIR / "robots" / "agent")]  # robots fetch it: robots/agent/README.md
WHITENOISE_USE_FINDERS = ENVIRONMENT.debug
STORAGES = {
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if ENVIRONMENT.debug
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
