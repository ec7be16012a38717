"""Headers that keep a browser from doing what no page of FMV needs."""

#: of every answer
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

#: of data: a browser that shows it as a page may load and run nothing
DATA = "default-src 'none'; frame-ancestors 'none'"

_OWN = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

#: Content-Security-Policy by the beginning of the path; the first that fits counts.
PAGES = (
    ("/api/v1/docs", _OWN),
    ("/api/", DATA),
    ("/", _OWN),
)


def policy(path: str) -> str:
    """Return the Content-Security-Policy of what is at this path."""
    return next((policy for beginning, policy in PAGES if path.startswith(beginning)), DATA)
