"""Checks that no migration has changed since it was added: `make lint` does. A database to which it was applied would
never get the change. With `--add` it records the migrations that are new.

`tests/support/migrations.sha256` has a line for each migration, in the format of sha256sum.
"""

import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("migrations.sha256")


def main() -> int:
    record = read(RECORD)
    found = hashes(ROOT)
    added = {name: digest for name, digest in found.items() if name not in record}
    problems = [
        f"{name}: an applied migration never changes: restore it, and add a new one." for name in changed(record, found)
    ]
    if "--add" in sys.argv[1:]:
        RECORD.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted((record | added).items())))
    else:
        problems += [f"{name} is new: run `python -m tests.support.migration_hashes --add`." for name in sorted(added)]
    print("".join(f"migrations: {problem}\n" for problem in problems), end="", file=sys.stderr)
    return 1 if problems else 0


def read(file: Path) -> dict[str, str]:
    """Return the recorded migrations with their hashes."""
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return {name: digest for digest, name in lines}


def hashes(root: Path) -> dict[str, str]:
    """Return the migrations there are with their hashes."""
    files = [*root.glob("[!.]*/**/migrations/**/[0-9]*.py")]
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def changed(record: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return the recorded migrations that were changed, renamed or removed."""
    return sorted(name for name, digest in record.items() if found.get(name) != digest)


if __name__ == "__main__":
    sys.exit(main())
