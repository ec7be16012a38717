"""Headers that forbid a browser everything that no page of FMV needs."""

#: for every answer
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

#: for data: a browser that shows it as a page loads and runs nothing
DATA = "default-src 'none'; frame-ancestors 'none'"

_OWN = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

#: Content-Security-Policy by the beginning of the path; the first match counts
PAGES = (
    ("/api/v1/docs", _OWN),
    ("/api/", DATA),
    ("/", _OWN),
)


def policy(path: str) -> str:
    """Return the Content-Security-Policy for this path."""
    return next((policy for beginning, policy in PAGES if path.startswith(beginning)), DATA)
