from typing import Any

from django.core.management.commands.migrate import Command as DjangoCommand

from fmv.mongodb.migration_state import migration_lock


class Command(DjangoCommand):
    """Django's command, of which one runs at a time: each container of a deployment may call it."""

    def handle(self, *args: Any, **options: Any) -> None:
        if options["plan"] or options["check_unapplied"]:
            super().handle(*args, **options)
            return
        with migration_lock(self.stderr.write):
            super().handle(*args, **options)
