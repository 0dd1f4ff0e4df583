"""The state of a package that came with a trial, before its services start."""

from __future__ import annotations

from pathlib import Path

from recovery.boot import load_report, running_record
from recovery.packages.system import SystemHost
from recovery.state import STATE_ROOT, StateStore


def migrate(name: str, root: Path = Path("/")) -> None:
    """Brings a package's state to the schema of its version in the running generation.

    Without the lock: whoever starts the services may hold it. Raises OrbitalError, OSError.
    """
    store = StateStore(root / STATE_ROOT.relative_to("/"))
    running = running_record(load_report(root), store.load(), store.generations.all())
    SystemHost(root, "orbital recovery").migrate_pending(running, name)
