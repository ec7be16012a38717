from typing import Any

from django.core.management import CommandError
from django.core.management.commands.migrate import Command as DjangoCommand
from django.db import DatabaseError
from pymongo.errors import PyMongoError

from fmv.mongodb.migration_state import migration_lock
from fmv.mongodb.server import is_unreachable
from fmv.monitoring.servers import reason


class Command(DjangoCommand):
    """Django's command, of which one runs at a time: each container of a deployment may call it."""

    def handle(self, *args: Any, **options: Any) -> None:
        if options["plan"] or options["check_unapplied"]:
            super().handle(*args, **options)
            return
        try:
            with migration_lock(self.stderr.write):
                super().handle(*args, **options)
        except (DatabaseError, PyMongoError) as error:
            verb = "cannot be reached" if is_unreachable(error) else "refuses"
            raise CommandError(f"MongoDB {verb}: {reason(error)}. What is done stays; run it again.") from error
