"""What `Task.error` holds."""

from fmv.escaping import shortened

MAX_TYPE = 200  # characters
MAX_MESSAGE = 2000  # characters


def error_document(type: str, message: str, traceback: str = "") -> dict[str, str]:
    """Return the value of `Task.error`. Of a long traceback the end is kept."""
    return {
        "type": encodable(shortened(type, MAX_TYPE)),
        "message": encodable(shortened(message, MAX_MESSAGE)),
        "traceback": encodable(traceback[-20_000:]),
    }


def encodable(text: str) -> str:
    """Return the text as MongoDB can store it: lone surrogates, as in undecodable file names, become "?"."""
    return text.encode("utf-8", "replace").decode()


def note_of(error: dict[str, str]) -> str:
    """Return the note that the history has of this error."""
    return shortened(f"{error['type']}: {error['message']}", 500)
