"""The columns in which the audit list is exported."""

from fmv.export import attribute

FIELDS = ("id", "by", "action", "kind", "key", "text", "request_id")
COLUMNS = (
    attribute("at", "when it was done"),
    attribute("by", "the user, or command, issuer or anonymous"),
    attribute("action", "the kind of object and a verb, such as robot.change"),
    attribute("kind", "the kind of object"),
    attribute("key", "the name or id of the object"),
    attribute("text", "details"),
    attribute("request_id", "the id of the request; - if there was none"),
    attribute("id", "of the entry"),
)
