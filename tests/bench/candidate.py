"""FMV for the web servers that were not chosen: memory and counts as in `fmv.server.gunicorn`."""

from fmv.server.gunicorn import when_ready
from fmv.wsgi import application

__all__ = ["application"]

when_ready(None)
