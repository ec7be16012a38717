import sys
from argparse import ArgumentParser
from collections import Counter
from typing import Any

from fmv.cli import FmvCommand, add_json, as_json, printable
from fmv.monitoring.diagnostics import Finding, Severity, Visit

SIGNS = {Severity.INFO: "ok     ", Severity.WARNING: "WARNING", Severity.ERROR: "ERROR  "}


class Command(FmvCommand):
    help = (
        "Look at everything FMV needs, change nothing, and say what is wrong and what to do. Works whatever is down, "
        "within 15 seconds. "
        "Ends with 0 when all is well, 1 with warnings, 2 with errors (and, as every command, for wrong arguments)."
    )
    examples = """
        doctor
        doctor --json | jq '.[] | select(.ok | not)'
        doctor --quiet || mail -s 'FMV is ill' operations
    """
    requires_system_checks: list[str] = []  # it reports them itself

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_json(parser, "print a list of {check, ok, severity, message, hint}, severity being info, warning or error")
        parser.add_argument("--quiet", action="store_true", help="tell only what is not well")

    def handle(self, *args: object, quiet: bool, **options: Any) -> None:
        found = [*Visit().findings()]
        worst = max((finding.severity for finding in found), default=Severity.INFO)
        shown = [finding for finding in found if not quiet or finding.severity > Severity.INFO]
        if self.json:
            self.stdout.write(as_json([finding.as_dict() for finding in shown]))
        else:
            for finding in shown:
                self._tell(finding)
            self._sum_up(found, worst)
        self.stdout.flush()
        if worst:
            sys.exit(worst)

    def _tell(self, finding: Finding) -> None:
        style = {Severity.WARNING: self.style.WARNING, Severity.ERROR: self.style.ERROR}.get(finding.severity, str)
        self.stdout.write(f"{style(SIGNS[finding.severity])}  {finding.check:10}  {printable(finding.message)}")
        if finding.hint and finding.severity > Severity.INFO:
            self.stdout.write(f"{'':21}{printable(finding.hint)}")

    def _sum_up(self, found: list[Finding], worst: Severity) -> None:
        counts = Counter(finding.severity for finding in found)
        errors, warnings = counts[Severity.ERROR], counts[Severity.WARNING]
        if worst is Severity.INFO:
            self.stdout.write("All is well.")
        else:
            self.stdout.write(f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}.")
