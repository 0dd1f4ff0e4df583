"""The package set that goes with another OS image: an update of the OS brings it along.

The set is tried in the same trial as the image. What is installed moves to the
newest version that fits the image; where there is none the update is refused,
and says which package stands against it. The newest, not only where the
present one does not fit: a trial is the moment with the best way back, and a
package that fails in it is reverted by itself (`recovery.blame`). What the
image contains itself in that version or a newer one is not layered over it.
"""

from __future__ import annotations

from dataclasses import replace

from manifests.constraints import parse_constraint
from manifests.index import OsIndex
from manifests.package_index import Fit
from recovery.errors import RefusedError
from updater.packages.changes import Change, for_image, installed, kept_wants
from updater.packages.known import Known
from updater.packages.resolve.model import ConflictError, Offers
from updater.packages.resolve.resolver import resolve


def bring_along(known: Known, offers: Offers, index: OsIndex) -> Change:
    """The entries for a trial of the image, and what has to be fetched.

    known: the committed set. Raises RefusedError that names who stands
    against the image, and why; and what offers raise.
    """
    present = replace(known.present, image=index.packages)
    environment = replace(
        known.environment(),
        system=index.system,
        version=index.version,
        packages=index.packages,
        capabilities=frozenset(index.capabilities),
        refused=frozenset(index.refused),
    )
    try:
        resolution = resolve(
            kept_wants(present), offers, environment, installed(present), upgrade=None
        )
    except ConflictError as error:
        raise RefusedError(
            f"cannot install {index.version}: the installed packages do not fit it",
            details="\n".join(part for part in (error.brief, error.details) if part),
            resolution=error.resolution
            or "remove the package, or wait for a version of it that fits",
        ) from error
    fits = {
        digest
        for digest, facts in present.facts.items()
        if fits_image(facts.release.systems, index.system, index.version)
    }
    return for_image(present, resolution, known.moment, fits)


def fits_image(systems: tuple[Fit, ...], system: str, version: str) -> bool:
    """Whether a package made for these systems (none: any) may run on the image."""
    return not systems or any(
        fit.system == system and parse_constraint(fit.versions).allows(version) for fit in systems
    )
