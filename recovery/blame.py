"""Whom a failed check in a trial of the OS is put down to. Pure.

A trial may bring a new image and new versions of packages. A package that
fails and was changed by the trial is reverted first, in the same trial; only
what cannot be put down to a change of a package is put down to the image.
"""

from __future__ import annotations

from recovery.generations import Earlier, Generation, PackageEntry
from recovery.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def reverted(
    trial: Generation,
    committed: Generation,
    failing: Collection[str],
    depends: Mapping[str, Collection[str]],
    number: int,
) -> Generation | None:
    """The trial's generation with the failing packages as they were, or None if that cannot be.

    committed: the generation that the device goes back to. depends: names that
    a package depends on, by name. number: of the new generation.

    Packages that the trial changed and that depend on each other go back
    together: their versions were chosen for each other. None when a failing
    package was not changed by the trial, or when one of those that would go back
    does not fit the new image: then the image is to blame.
    """
    before = {entry.name: entry for entry in committed.packages}
    changed = {
        entry.name
        for entry in trial.packages
        if entry.name in before and before[entry.name].version != entry.version
    }
    if not failing or not changed.issuperset(failing):
        return None
    together = _connected(failing, changed, depends)
    packages = []
    for entry in trial.packages:
        if entry.name not in together:
            packages.append(entry)
            continue
        if entry.earlier is None or not entry.earlier.fits:
            return None
        packages.append(_restored(entry, entry.earlier, before[entry.name], number))
    return replace(
        trial,
        number=number,
        # State is copied from what the committed generation left, not from the failed try.
        parent=committed.number,
        etc=trial.etc_layer,
        packages=tuple(packages),
    )


def _restored(
    entry: PackageEntry, earlier: Earlier, old: PackageEntry, number: int
) -> PackageEntry:
    return replace(
        entry,
        version=earlier.version,
        digest=earlier.digest,
        uses=earlier.uses,
        state=number,
        updated=old.updated,
        earlier=old.earlier,
    )


def _connected(
    start: Collection[str], among: Collection[str], depends: Mapping[str, Collection[str]]
) -> set[str]:
    """Those among the names that are linked with start by dependencies, in either direction."""
    found, waiting = set(start), list(start)
    while waiting:
        name = waiting.pop()
        for other in among:
            linked = other in depends.get(name, ()) or name in depends.get(other, ())
            if linked and other not in found:
                found.add(other)
                waiting.append(other)
    return found
