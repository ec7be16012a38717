"""Looks for known vulnerabilities of what is installed: `make lint` does. Where pip-audit's source of advisories cannot
be reached, it says so and lets that pass.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = [str(Path(sys.executable).with_name("pip-audit")), "--local", "--progress-spinner", "off", "--format", "json"]


def main() -> int:
    audited = [package for package in audit() if "vulns" in package]
    if not audited:
        print("pip-audit: left out, for its source of advisories cannot be reached.")
        return 0
    vulnerable = [package for package in audited if package["vulns"]]
    for package in vulnerable:
        names = ", ".join(vulnerability["id"] for vulnerability in package["vulns"])
        print(f"pip-audit: {package['name']} {package['version']}: {names}", file=sys.stderr)
    return 1 if vulnerable else 0


def audit() -> list[dict[str, Any]]:
    """Return what pip-audit found out about each package, none when it could not ask at all."""
    ended = subprocess.run(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(ended.stdout)["dependencies"]
    except ValueError:
        return []
    return found


if __name__ == "__main__":
    sys.exit(main())
