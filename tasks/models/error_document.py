"""What `Task.error` holds."""


def error_document(type: str, message: str, traceback: str = "") -> dict[str, str]:
    """Return the value of `Task.error`. Long texts are cut; of a traceback the end is kept."""
    return {
        "type": encodable(type[:200]),
        "message": encodable(message[:2000]),
        "traceback": encodable(traceback[-20_000:]),
    }


def encodable(text: str) -> str:
    """Return the text as MongoDB can store it: lone surrogates, as in undecodable file names, become "?"."""
    return text.encode("utf-8", "replace").decode()


def note_of(error: dict[str, str]) -> str:
    """Return the note that the history has of this error."""
    return f"{error['type']}: {error['message']}"[:500]
