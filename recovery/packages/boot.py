"""Packages at boot: the keyring of publishers, then the generation's packages.

Called by `recovery.early` (PID 1) before systemd starts, so the units are
there when systemd reads its own. Nothing here may fail a boot: what goes
wrong is a note, and a package that is left out.
"""

from __future__ import annotations

from pathlib import Path

from recovery.packages import keyring, trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.generations import Generation
    from recovery.packages.active import Changes
    from recovery.packages.paths import Paths
    from recovery.state import StateStore


def activate_at_boot(
    store: StateStore, generation: Generation, root: Path, notes: list[str]
) -> None:
    """Fills and locks the keyring, then activates; appends to notes. Never raises Exception."""
    try:
        # Also without packages: nobody may add a key in this boot.
        notes += keyring.fill(trust.certificates(root), root)
        if generation.packages:
            _activate(store, generation, root, notes)
    except Exception as error:  # the boot goes on, without packages
        notes.append(f"packages: {str(error).splitlines()[0] if str(error) else repr(error)}")


def _activate(store: StateStore, generation: Generation, root: Path, notes: list[str]) -> None:
    # Not for a device without packages: imports are most of what this costs.
    from recovery.packages import capabilities
    from recovery.packages.activate import Activator
    from recovery.packages.paths import Paths

    parent = store.generations.load(generation.parent) if generation.parent is not None else None
    paths = Paths(root)
    activator = Activator(paths, generation, parent, capabilities.load(root), trust.load(root))
    _, changes = activator.run()
    notes += [f"package {package}: {why}" for package, _, why in changes.news]
    notes += activator.notes
    tell(paths, changes, "boot")


def tell(paths: Paths, changes: Changes, who: str) -> None:
    """Writes what is new into the audit trail; a trail that cannot be written stops nothing."""
    if not changes.news:
        return
    from recovery.audit import Audit

    trail = Audit(paths.state)
    for package, what, why in changes.news:
        try:
            trail.record(what, package, "refused", who=who, detail=why)
        except OSError:
            return
