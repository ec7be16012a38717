"""FMV's application for the other web servers, with the same start-up steps as in `fmv.server.gunicorn`."""

from fmv.server.gunicorn import when_ready
from fmv.wsgi import application

__all__ = ["application"]

when_ready(None)
