import sys
from argparse import ArgumentParser
from collections import Counter
from itertools import zip_longest
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage

from fmv.cli import FmvCommand, add_json, as_json
from fmv.escaping import visible
from fmv.monitoring import diagnostic_checks
from fmv.monitoring.diagnostics import DiagnosticRun
from tasks.reports import diagnostics as queue_checks

CHECKS = [*diagnostic_checks.CHECKS, *queue_checks.CHECKS]
LABELS = {checks.INFO: "ok     ", checks.WARNING: "WARNING", checks.ERROR: "ERROR  "}
STATUSES = {checks.INFO: 0, checks.WARNING: 1, checks.ERROR: 2}


class Command(FmvCommand):
    help = (
        "Check everything FMV needs, change nothing, and print each problem with a hint what to do. Works whatever is "
        "down, within 15 seconds. "
        "Ends with 0 if all is well, 1 with warnings, 2 with errors (and, like every command, for wrong arguments)."
    )
    examples = """
        doctor
        doctor --json | jq '.[] | select(.ok | not)'
        doctor --quiet || mail -s 'FMV has a problem' operations
    """
    requires_system_checks: list[str] = []  # it reports them itself,
    needs_migrations = False  # and this

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_json(parser, "print a list of {check, ok, severity, message, hint}, severity being info, warning or error")
        parser.add_argument("--quiet", action="store_true", help="print only warnings and errors")

    def handle(self, *args: object, quiet: bool, **options: Any) -> None:
        found = [*DiagnosticRun(CHECKS).messages()]
        shown = [message for message in found if not quiet or message.level > checks.INFO]
        if self.json:
            self.stdout.write(as_json([as_dict(message) for message in shown]))
        else:
            for message, following in zip_longest(shown, shown[1:]):
                self._print(message, says_hint=following is None or not _share_hint(message, following))
            self._print_summary(found)
        self.stdout.flush()
        if status := max((STATUSES[message.level] for message in found), default=0):
            sys.exit(status)

    def _print(self, message: CheckMessage, says_hint: bool) -> None:
        style = {checks.WARNING: self.style.WARNING, checks.ERROR: self.style.ERROR}.get(message.level, str)
        self.stdout.write(LABELS[message.level], style, ending="")
        self.stdout.write(f"  {message.obj:10}  {visible(message.msg)}")
        if message.hint and says_hint and message.level > checks.INFO:
            self.stdout.write(f"{'':21}{visible(message.hint)}")

    def _print_summary(self, found: list[CheckMessage]) -> None:
        counts = Counter(message.level for message in found)
        errors, warnings = counts[checks.ERROR], counts[checks.WARNING]
        if errors or warnings:
            self.stdout.write(f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}.")
        else:
            self.stdout.write("All is well.")


def _share_hint(one: CheckMessage, other: CheckMessage) -> bool:
    """Return whether the hint of the second does for both, because they are of one kind."""
    return (one.obj, one.hint) == (other.obj, other.hint) and other.level > checks.INFO


def as_dict(message: CheckMessage) -> dict[str, Any]:
    return {
        "check": message.obj,
        "ok": message.level == checks.INFO,
        "severity": {checks.INFO: "info", checks.WARNING: "warning", checks.ERROR: "error"}[message.level],
        "message": message.msg,
        "hint": message.hint or "",
    }
