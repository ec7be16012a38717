"""The header Idempotency-Key, which makes a submit safe to repeat."""

import re

from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from fmv.errors import InvalidInput, Problem

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    OpenApiParameter.HEADER,
    description="A key that the client chooses, to be able to repeat the request: for at least 24 hours the same key, "
    "caller and body get the first answer again and start nothing, and the same key with another body gets 422.",
)


def idempotency_key(request: Request) -> str | None:
    """Return the request's `Idempotency-Key`, None without one. Raises InvalidInput for an invalid key."""
    key = request.META.get("HTTP_IDEMPOTENCY_KEY")
    if key is not None and not re.fullmatch(r"[\x20-\x7e]{1,255}", key):
        raise InvalidInput([Problem(("header", "Idempotency-Key"), "Input should be 1-255 printable ASCII characters")])
    return key
