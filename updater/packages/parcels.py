"""How each image of a change gets into the store: in full, or by the cheapest delta.

The base of a delta is an image of the same package that the store has, of whichever
version. Signed sizes decide, before anything of either is fetched. Whatever is wrong with a
delta, its document included, the image is fetched in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from manifests.decoding import decode_json
from manifests.package_delta import FORMAT, PackageDelta
from manifests.package_index import PackageRelease
from recovery.errors import OrbitalError
from updater.index import invalid
from updater.runs import Run, cost, frames_problem, parts_problem, patched, single

TYPE_CHECKING = False
if TYPE_CHECKING:
    from updater.packages.known import Known
    from updater.packages.offers import Offers
    from updater.packages.resolve.model import Resolved


@dataclass(frozen=True)
class Parcel:
    """An image to bring into the store. name: of the package. runs: how.

    base: digest of the image in the store that runs are made from, and from_version its
    version; empty when all is fetched in full.
    """

    name: str
    release: PackageRelease
    runs: tuple[Run, ...]
    base: str = ""
    from_version: str = ""

    @property
    def fetch_bytes(self) -> int:
        """Bytes to fetch when nothing can be kept and the delta, if there is one, applies."""
        return cost(self.runs)

    @property
    def full_bytes(self) -> int:
        """Bytes to fetch without a delta."""
        return self.release.stream.stored_size


@dataclass(frozen=True)
class Parcels:
    """What a change fetches; only what the store lacks counts. notes: which deltas cannot be
    used and why, for people."""

    all: tuple[Parcel, ...] = ()
    missing: tuple[Parcel, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fetch_bytes(self) -> int:
        """Bytes to fetch as planned."""
        return sum(parcel.fetch_bytes for parcel in self.missing)

    @property
    def full_bytes(self) -> int:
        """Bytes to fetch without deltas."""
        return sum(parcel.full_bytes for parcel in self.missing)


def pack(wanted: Iterable[Resolved], offers: Offers, known: Known, store: Path) -> Parcels:
    """How to fetch what is wanted. known: what is installed. Never raises for a delta."""
    found, missing = [], []
    notes: list[str] = []
    for item in wanted:
        present = (store / item.release.digest).exists()
        deltas = [] if present else _deltas(item, offers, known, store, notes)
        parcel = cheapest(item.name, item.release, deltas)
        found.append(parcel)
        if not present:
            missing.append(parcel)
    return Parcels(tuple(found), tuple(missing), tuple(notes))


def in_full(name: str, release: PackageRelease) -> Parcel:
    """Every segment fetched as it is."""
    return Parcel(name, release, single(release.stream))


def cheapest(name: str, release: PackageRelease, deltas: Iterable[PackageDelta]) -> Parcel:
    """The way that fetches least. Pure."""
    best = in_full(name, release)
    for delta in deltas:
        runs = patched(release.stream, delta.frames, delta.parts)
        parcel = Parcel(name, release, runs, delta.from_digest, delta.from_version)
        if parcel.fetch_bytes < best.fetch_bytes:
            best = parcel
    return best


def decode_delta(data: bytes, release: PackageRelease, base: str) -> PackageDelta:
    """A delta to the release from the image with the digest base. Raises ManifestError."""
    try:
        delta = decode_json(data, PackageDelta)
    except msgspec.MsgspecError as error:
        raise invalid("the delta", str(error)) from error
    problem = _problem(delta, release, base)
    if problem:
        raise invalid("the delta", problem)
    return delta


def _problem(delta: PackageDelta, release: PackageRelease, base: str) -> str:
    """The first thing that is wrong with a delta, or nothing."""
    if delta.format != FORMAT:
        return f"its format is {delta.format}, expected {FORMAT}"
    if (delta.digest, delta.from_digest) != (release.digest, base):
        return "it is one between other images"
    return parts_problem(delta.parts) or frames_problem(release.stream, delta.frames, delta.parts)


def _deltas(
    item: Resolved, offers: Offers, known: Known, store: Path, notes: list[str]
) -> Sequence[PackageDelta]:
    """The deltas from images of the package that the store has."""
    digests = {digest for digest, facts in known.present.facts.items() if facts.name == item.name}
    digests |= {release.digest for release in offers.releases(item.name)}
    found = []
    for digest in sorted(digests - {item.release.digest}):
        if not (store / digest).exists():
            continue
        try:
            data = offers.delta(item.name, item.release, digest)
            if data is not None:
                found.append(decode_delta(data, item.release, digest))
        except OrbitalError as error:
            notes.append(f"{item.name}: {error.brief}: it is fetched in full")
    return found
