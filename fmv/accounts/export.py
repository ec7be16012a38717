"""The columns in which the lists of users and API tokens are exported. No password and no secret is among them."""

from fmv.accounts.models import User
from fmv.export import Column, attribute


def ways_in(user: User) -> str:
    """Return how the user can sign in, in words."""
    ways = {"organisation": user.subject, "password": user.has_usable_password()}
    return " or ".join(way for way, open_ in ways.items() if open_) or "nothing"


USERS = (
    attribute("username", "the user's name at sign-in"),
    attribute("name", "the person's name"),
    attribute("email", "the e-mail address"),
    attribute("role", "viewer, operator or manager; empty: none"),
    attribute("is_superuser", "true: may do everything"),
    attribute("is_active", "false: cannot sign in"),
    Column("signs_in_by", "organisation, password, both, or nothing", ways_in),
    attribute("last_login", "when the user last signed in"),
    attribute("date_joined", "when the user was created"),
)
TOKENS = (
    attribute("name", "what it is for"),
    attribute("id", "the beginning of the key, by which commands and the audit name it", "short_id"),
    attribute("owner", "the user or the robot whose token it is"),
    Column("role", "the most it may do; empty: all its user may", lambda token: "agent" if token.robot else token.role),
    attribute("state", "usable, expired or revoked"),
    attribute("created_at", "when it was created"),
    attribute("expires_at", "when it ends"),
    attribute("last_used_at", "when it was last used, to the minute"),
    attribute("revoked_at", "when it was revoked"),
)
