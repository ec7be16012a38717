"""The web server's entry point."""

import os
from tempfile import TemporaryFile
from typing import Any
from wsgiref.util import FileWrapper

from django.core.wsgi import get_wsgi_application
from django.db import connection

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fmv.settings")
MAX_IN_MEMORY = 256 * 1024  # bytes of an answer

OPERATION_TIMEOUT = 5.0  # seconds for each operation of MongoDB; then the answer is 503, also if it has fallen silent

_django = get_wsgi_application()
connection.settings_dict["OPTIONS"]["timeoutMS"] = int(1000 * OPERATION_TIMEOUT)


def application(environ: dict[str, Any], start_response: Any) -> Any:
    """Answer a request. A large answer waits for its client in a temporary file, not in this process's memory."""
    response: Any = _django(environ, start_response)
    content: bytes = getattr(response, "content", b"")  # streams have none
    if len(content) <= MAX_IN_MEMORY:
        return response
    file = TemporaryFile()  # noqa: SIM115 - closed with the answer
    file.write(content)
    file.seek(0)
    response.content = b""  # REST framework's view and request refer to each other and to the response
    response.close()
    return FileWrapper(file, 64 * 1024)
