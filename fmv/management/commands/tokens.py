import argparse
import json
import re
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.utils.timezone import localtime

import robots.services
from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken, User
from fmv.accounts.permissions import Role
from fmv.cli import BY, FmvCommand, add_json, parse_days
from robots.errors import UnknownRobot


def token_id(text: str) -> str:
    """Parse an id, or the first 8 or more digits of one."""
    if not re.fullmatch("[0-9a-f]{8,64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an id that `tokens list` prints, nor its first 8 digits")
    return text


def name(text: str) -> str:
    text = text.strip()
    if not 1 <= len(text) <= 100 or not text.isprintable():
        raise argparse.ArgumentTypeError("a name is 1-100 printable characters")
    return text


def as_dict(token: ApiToken) -> dict[str, Any]:
    """Return everything about a token except its text, which is not stored."""
    return {
        "id": token.short_id,
        "user": token.user.username if token.user else None,
        "robot": token.robot,
        "name": token.name,
        "role": token.role or None,
        "state": token.state,
        "created_at": when(token.created_at),
        "expires_at": when(token.expires_at),
        "last_used_at": when(token.last_used_at),
    }


def when(time: Any) -> str | None:
    return localtime(time).isoformat(timespec="seconds").replace("+00:00", "Z") if time else None


class Command(FmvCommand):
    help = (
        "Create, list and revoke API tokens, with which programs and robots' agents sign in. "
        "Ends with 0 when done, 1 if refused, 2 for wrong arguments."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="create|list|revoke")
        create = verbs.add_parser("create", help="create a token and print it; it cannot be printed again")
        self.creating = create
        create.add_argument("user", nargs="?", help="the user in whose name the token acts")
        create.add_argument("name", nargs="?", type=name, help="its purpose: a program, a machine")
        create.add_argument(
            "--robot",
            help="instead of user and name: the robot whose agent the token is for; it allows that agent's routes only",
        )
        create.add_argument(
            "--role",
            choices=Role.values[1:],
            default="",
            help="limits what the token may do (default: the user's role)",
        )
        create.add_argument(
            "--days",
            type=parse_days,
            help="days until it expires (default: FMV_TOKEN_DAYS; for a robot FMV_TOKEN_MAX_DAYS)",
        )
        listing = verbs.add_parser("list", help="list tokens, newest first, without their text")
        listing.add_argument("--user", help="only tokens of this user")
        listing.add_argument("--robot", help="only tokens of this robot")
        revoke = verbs.add_parser("revoke", help="revoke a token now; repeating it is harmless")
        revoke.add_argument(
            "id", type=token_id, help="the id that `tokens list` prints, or at least its first 8 digits"
        )
        for verb in (create, listing, revoke):
            add_json(verb)

    def handle(self, *args: object, verb: str, **options: Any) -> None:
        {"create": self._create, "list": self._list, "revoke": self._revoke}[verb](options)

    def _create(self, options: dict[str, Any]) -> None:
        token = self._new(**{name: options[name] for name in ("user", "name", "robot", "role", "days")})
        if options["json"]:
            self._print({"token": token.text, **as_dict(token)})
        else:
            self.stdout.write(token.text)
            self.stderr.write(f"{token}, valid until {when(token.expires_at)}. It cannot be printed again.")

    def _new(self, *, user: str | None, name: str | None, robot: str | None, role: str, days: float | None) -> ApiToken:
        if robot is not None:
            if user is not None or role:
                self.creating.error("with --robot there is no user, no name and no --role")
            try:
                return robots.services.create_token(robot, by=BY, days=days)
            except UnknownRobot:
                raise CommandError(f"There is no robot {robot!r}.") from None
        if user is None or name is None:
            self.creating.error("a user and a name are required, or --robot")
        token = api_tokens.build(find_user(user), name, role=role, days=days)
        api_tokens.store(token, by=BY)
        return token

    def _list(self, options: dict[str, Any]) -> None:
        tokens = ApiToken.objects.order_by("-created_at").prefetch_related("user")
        if options["user"] is not None:
            tokens = tokens.filter(user=find_user(options["user"]))
        if options["robot"] is not None:
            tokens = tokens.filter(robot=options["robot"])
        rows = [as_dict(token) for token in tokens]
        if options["json"]:
            self._print({"tokens": rows})
            return
        for row in rows:
            role, used = row["role"] or "-", row["last_used_at"] or "never"
            whose = f"{row['user'] or 'robot ' + row['robot']}: {row['name']}"
            self.stdout.write(f"{row['id']}  {row['state']:7}  {role:8}  {row['expires_at']}  used {used}  {whose}")

    def _revoke(self, options: dict[str, Any]) -> None:
        found = list(ApiToken.objects.begins(options["id"])[:2])
        if len(found) != 1:
            raise CommandError(f"{'No token has' if not found else 'Several tokens have'} an id like {options['id']}.")
        revoked = api_tokens.revoke(found[0], by=BY)
        if options["json"]:
            self._print({"revoked": revoked, "id": found[0].short_id})
        else:
            self.stdout.write(f"{found[0]} {'is revoked' if revoked else 'was revoked before'}.")

    def _print(self, data: dict[str, Any]) -> None:
        self.stdout.write(json.dumps(data, indent=2, ensure_ascii=False))


def find_user(username: str) -> User:
    user = User.objects.filter(username=username).first()
    if user is None:
        raise CommandError(f"There is no user {username!r}.")
    return user
