"""URIs of MongoDB, changed for tests without losing what else they say: users, hosts, options."""

from typing import Any
from urllib.parse import quote, urlencode

from pymongo.uri_parser import parse_uri

#: the mechanisms of users that are stored in a database
PASSWORDS = ("DEFAULT", "SCRAM-SHA-1", "SCRAM-SHA-256")


def with_database(uri: str, name: str, **options: Any) -> str:
    """Return `uri` for another database of the same server, with the options added."""
    parsed = parse_uri(uri, validate=False)
    by_password = parsed["username"] and parsed["options"].get("authMechanism", "DEFAULT") in PASSWORDS
    if by_password and "authSource" not in parsed["options"]:  # the user is in the database that the URI names
        options["authSource"] = parsed["database"] or "admin"
    where, _, given = uri.partition("?")
    scheme, _, rest = where.partition("://")
    hosts = rest.partition("/")[0]
    query = "&".join(filter(None, [given, urlencode(options)]))
    return f"{scheme}://{hosts}/{quote(name, safe='')}{'?' if query else ''}{query}"


def with_suffix(uri: str, suffix: str) -> str:
    """Return `uri` for the database whose name has the suffix; it is "fmv" where none is named."""
    return with_database(uri, (parse_uri(uri, validate=False)["database"] or "fmv") + suffix)
