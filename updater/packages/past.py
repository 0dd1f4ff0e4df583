"""What happened to packages, from the audit trail."""

from __future__ import annotations

from recovery.audit import Entry
from updater.packages.device import PackageDevice
from updater.packages.outcome import CHANGE

_PREFIX = "package."


def events(device: PackageDevice, name: str | None = None) -> tuple[Entry, ...]:
    """Every outcome, oldest first; of one package, or of all."""
    return tuple(
        entry
        for entry in device.audit.entries()
        if entry.what.startswith(_PREFIX)
        and entry.what != CHANGE
        and (name is None or concerns(entry, name))
    )


def concerns(entry: Entry, name: str) -> bool:
    """Whether an entry is about the package. Subjects are "NAME", "NAME SERVICE", "NAME, NAME"
    or "NAME=VERSION"."""
    words = entry.subject.replace(",", " ").replace("=", " ").split()
    return entry.what.startswith(_PREFIX) and name in words
