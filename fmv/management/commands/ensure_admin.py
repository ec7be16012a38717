import os
import secrets
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.db import IntegrityError

from fmv.accounts import user_audit
from fmv.accounts.models import User
from fmv.cli import FmvCommand


class Command(FmvCommand):
    help = "Create the first superuser, `admin`, with a random password, and print it. Does nothing if one exists."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--password-file",
            type=Path,
            metavar="PATH",
            help="Also write the password to this file, which only its owner can read.",
        )

    def handle(self, *args: object, password_file: Path | None, **options: Any) -> None:
        if User.objects.filter(is_superuser=True).exists():
            self.stdout.write("There is a superuser already.")
            return
        password = secrets.token_urlsafe(15)
        if password_file:
            _write(password, password_file)
        try:
            user = User.objects.create_superuser("admin", password, name="Administrator")
        except IntegrityError:
            raise CommandError("The user admin exists and is no superuser.") from None
        user_audit.created(user, by="command")
        self.stdout.write(f"Created the superuser admin with the password {password}")


def _write(password: str, path: Path) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(f"{password}\n")
    except OSError as error:
        raise CommandError(f"Cannot write the password to {path}: {error.strerror}.") from None
