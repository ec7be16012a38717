"""Texts for people: long ones, and hidden characters: control characters, changes of the writing direction, lone
surrogates.
"""

import json
import re
from typing import Any

#: Unicode's categories Cc, Cf, Cs, Zl and Zp without the ends of lines, tabs, the joiners that scripts and emoji need,
#: and the format characters that show something
_HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"
)
_IN_LINES = re.compile(f"[{_HIDDEN}]")
_IN_A_LINE = re.compile(f"[{_HIDDEN}\t\n]")
#: fields that a browser sends back, which must keep what they hold, and hidden characters elsewhere
_IN_HTML = re.compile(f"<textarea\\b.*?</textarea>|<(?:input|option)\\b[^>]*>|[{_HIDDEN}]", re.DOTALL)


def shortened(text: str, limit: int) -> str:
    """Return the text; if it has more than `limit` characters its beginning, with "…", which shows that it was cut."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def visible(text: str) -> str:
    r"""Return the text on one line: hidden characters, line ends and tabs are escaped as in JSON, `\u001b`.

    A raw one could move a terminal's cursor, or show the text in another order than it has. JSON stays the same JSON.
    """
    return text if text.isprintable() else _IN_A_LINE.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """Return the text as `visible`, but with its lines and tabs."""
    return text if text.isprintable() else _IN_LINES.sub(_escaped, text)


def visible_html(page: str) -> str:
    """Return the HTML page as `visible_lines`, except in its form fields, which send back what they hold."""
    return _IN_HTML.sub(lambda found: found[0] if found[0].startswith("<") else _escaped(found), page)


def visible_json(value: object, **options: Any) -> str:
    """Return the value as JSON of which every character is seen."""
    return visible_lines(json.dumps(value, ensure_ascii=False, **options))


def _escaped(found: re.Match[str]) -> str:
    return r"\u007f" if found[0] == "\x7f" else json.dumps(found[0])[1:-1]
