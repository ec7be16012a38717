"""Hidden characters in texts for people: control characters, changes of the writing direction, lone surrogates."""

import json
import unicodedata

JOINERS = "\u200c\u200d"  # scripts and emoji need them
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode's general categories


def is_hidden(char: str) -> bool:
    return unicodedata.category(char) in HIDDEN and char not in JOINERS


def visible(text: str, *, keep: str = "") -> str:
    r"""Return the text with hidden characters, except those in `keep`, escaped as in JSON: `\u001b`.

    A raw one could move a terminal's cursor, or show a line in another order than it has. JSON stays the same JSON.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(char) if is_hidden(char) and char not in keep else char for char in text)


def visible_lines(text: str) -> str:
    """Return the text as `visible`, with its lines and tabs."""
    return visible(text, keep="\n\t")


def _escaped(char: str) -> str:
    return r"\u007f" if char == "\x7f" else json.dumps(char)[1:-1]


def visible_json(value: object, *, indent: int | None = None, **options: object) -> str:
    """Return the value as JSON that shows every character: hidden ones are escaped."""
    return visible_lines(json.dumps(value, indent=indent, ensure_ascii=False, **options))  # type: ignore[arg-type]
