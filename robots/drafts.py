"""Robots of a file that somebody uploads: a draft first, which shows what would happen, then the import.

Nothing of a draft is trusted: the file is kept as it came, and read, checked and compared again when it is confirmed.
"""

import datetime as dt
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO

from fmv import audit
from fmv.mongodb.server import stored_now
from robots.errors import DraftOver
from robots.models import ImportDraft
from robots.transfer import READERS, Fault, Import, Planned, WrongFile, format_of

LIFETIME = dt.timedelta(hours=1)
MAX_BYTES = 1024 * 1024
MAX_ROBOTS = 1000


@dataclass(frozen=True)
class Preview:
    """What an import would do now."""

    planned: list[Planned] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def faulty_lines(self) -> int:
        return len({fault.line for fault in self.faults})

    @property
    def new(self) -> int:
        return sum(each.is_new for each in self.planned)

    @property
    def changed(self) -> int:
        return sum(bool(each.differences) for each in self.planned)

    @property
    def unchanged(self) -> int:
        return len(self.planned) - self.new - self.changed


def keep(file: str, content: bytes, *, by: str) -> ImportDraft:
    """Keep the file for an hour, and return the draft. Raises WrongFile if it has no robots that could be read."""
    if len(content) > MAX_BYTES:
        raise WrongFile(f"The file is larger than {MAX_BYTES // 1024**2} MiB. Use the command import_robots for it.")
    draft = ImportDraft(file=file[-200:], content=content, by=by, expires_at=stored_now() + LIFETIME)
    found = preview(draft)
    if not found.planned and not found.faults:
        raise WrongFile("The file has no robots.")
    draft.save(force_insert=True)
    return draft


def get(id: str, *, by: str) -> ImportDraft:
    """Return the user's draft. Raises DraftOver."""
    draft = ImportDraft.objects.filter(pk=id, by=by, expires_at__gt=stored_now()).first()
    if draft is None:
        raise DraftOver
    return draft


def preview(draft: ImportDraft) -> Preview:
    """Return what the import would do now. Raises WrongFile."""
    with closing(Import()) as robots:
        faults = _read(robots, draft)
        return Preview(list(robots.plan()), faults)


def confirm(draft: ImportDraft, *, replace: bool) -> Counter[str]:
    """Store the draft's good robots, and with `replace` also those that exist; return how many were "added" and so on.

    A draft is confirmed once: the second time raises DraftOver. If this process dies meanwhile, the same file can be
    uploaded again: robots that are stored already count as unchanged.
    """
    if not ImportDraft.objects.filter(pk=draft.pk).delete()[0]:
        raise DraftOver
    with closing(Import()) as robots:
        faulty = len({fault.line for fault in _read(robots, draft)})
        for _ in robots.store(by=draft.by, replace=replace):
            pass
        outcome = robots.outcome + Counter({"faulty": faulty})
    text = ", ".join(f"{count} {name}" for name, count in outcome.items() if count)
    audit.record("robot.import", by=draft.by, kind="file", key=draft.file, text=text or "no robots")
    return outcome


def _read(robots: Import, draft: ImportDraft) -> list[Fault]:
    """Read and check the file; return the faults. Raises WrongFile."""
    content = bytes(draft.content)
    records = READERS[format_of(draft.file, content)](BytesIO(content))
    faults: list[Fault] = []
    for number, found in enumerate(robots.read(records), start=1):
        faults += found
        if number > MAX_ROBOTS:
            raise WrongFile(f"The file has more than {MAX_ROBOTS:,} robots. Use the command import_robots for it.")
    return faults


def forget_old() -> None:
    """Delete the drafts that were not confirmed in time."""
    ImportDraft.objects.filter(expires_at__lt=stored_now()).delete()
