"""FMV for the web servers that were not chosen: what `fmv.gunicorn` does about memory and counts, they do too."""

from fmv.gunicorn import when_ready
from fmv.wsgi import application

__all__ = ["application"]

when_ready(None)
