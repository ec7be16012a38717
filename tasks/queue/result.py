"""What a task may have as its result."""

import json
from typing import Any

import bson
from pydantic_core import PydanticSerializationError, to_jsonable_python

from tasks.registry import PermanentError

MAX_RESULT = 1024 * 1024  # bytes of JSON


class InvalidResult(PermanentError):
    """The value that a handler returned cannot be stored as a result."""


def storable(result: Any) -> Any:
    """Return the result as plain JSON values. Raises InvalidResult if it is not JSON, or larger than MAX_RESULT."""
    try:
        plain = to_jsonable_python(result)
        size = len(json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
        bson.encode({"result": plain})
    except (PydanticSerializationError, bson.errors.BSONError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidResult(f"The handler's result cannot be stored as JSON: {error}") from error
    if size > MAX_RESULT:
        raise InvalidResult(f"The handler's result has {size} bytes of JSON, more than {MAX_RESULT}")
    return plain
