"""Generations: one immutable record for each state a device has been asked to run.

    /state/orbital/generations/1.json
    /state/orbital/generations/2.json
    /state/orbital/etc/N/{upper,work}     the /etc layer of generation N
    /state/orbital/layers/NAME/N/         state layer of a package: recovery.packages.layers

A record is written once, durably, before anything refers to its number. A
record that nothing refers to is harmless and is pruned later.
"""

from __future__ import annotations

from pathlib import Path

from recovery import codec, durable, reading
from recovery.errors import StateError
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Literal

    from recovery.packages.model import Kind
    from recovery.slots import Slot

    Origin = Literal["factory", "update", "rollback", "package"]
else:
    Origin = Kind = str

FORMAT = 1
ORIGINS = ("factory", "update", "rollback", "package")
_KINDS = ("system", "feature", "library", "suite")


class Earlier(Value):
    """The version of a package before the present one: what its rollback goes back to.

    state: its state layer as it was left. uses: as in `PackageEntry`. fits:
    whether it may run on this generation's image.
    """

    version: str
    digest: str
    state: int
    uses: tuple[str, ...] = ()
    fits: bool = True


class PackageEntry(Value):
    """A package in a generation.

    Entries are unique by name and version; only libraries have several
    versions of a name. digest: fs-verity digest of its image, hex; the name of
    its file in the store. enabled: its services run. requested: somebody asked
    for it by name, so it stays when nothing needs it. uid: first of the 16
    user ids of its services. state: number of the generation that made its
    state layer. uses: digests of the packages below it in its view, nearest
    first. installed, updated: seconds since the epoch. earlier: None when
    there was no other version.
    """

    name: str
    version: str
    kind: Kind
    digest: str
    uid: int
    state: int
    installed: int
    updated: int
    enabled: bool = True
    requested: bool = True
    uses: tuple[str, ...] = ()
    earlier: Earlier | None = None


class Generation(Value):
    """What a device runs: the image in a slot, with its packages, their state and an /etc layer.

    number: 1 or more, never used twice. root_hash: dm-verity root hash of the
    image, hex. parent: the generation whose /etc layer this one starts from;
    None for a factory generation. created: seconds since the epoch, by the
    device's clock. requested_by: who asked, e.g. "timer" or "root".
    packages: sorted by name and version. etc: number of the generation that
    made its /etc layer; 0 for its own. Generations that differ only in their
    packages share one.
    """

    number: int
    slot: Slot
    system: str
    version: str
    root_hash: str
    parent: int | None
    created: int
    origin: Origin
    requested_by: str
    packages: tuple[PackageEntry, ...] = ()
    etc: int = 0

    @property
    def etc_layer(self) -> int:
        """Number of the /etc layer."""
        return self.etc or self.number

    def package(self, name: str) -> PackageEntry | None:
        """The entry of that name (of a library: of its newest entry), or None."""
        return next((entry for entry in reversed(self.packages) if entry.name == name), None)

    def digests(self) -> frozenset[str]:
        """Store files that this generation needs, those it may roll back to included."""
        found = {entry.digest for entry in self.packages}
        for entry in self.packages:
            found.update(entry.uses)
            if entry.earlier is not None:
                found.update((entry.earlier.digest, *entry.earlier.uses))
        return frozenset(found)

    def state_layers(self) -> frozenset[tuple[str, int]]:
        """State layers that this generation needs, as (package, number)."""
        found = {(entry.name, entry.state) for entry in self.packages}
        found.update(
            (entry.name, entry.earlier.state)
            for entry in self.packages
            if entry.earlier is not None
        )
        return frozenset(found)


def encode(generation: Generation) -> bytes:
    """The record as deterministic JSON."""
    return codec.encode(generation, format=FORMAT)


def decode(data: bytes) -> Generation:
    """The record read back. Raises ValueError."""
    document = codec.parse_object(data)
    if document.pop("format", None) != FORMAT:
        raise ValueError(f"format is not {FORMAT}")
    return codec.build(
        Generation,
        document,
        number=codec.number,
        slot=codec.one_of("a", "b"),
        system=codec.text,
        version=codec.text,
        root_hash=codec.text,
        parent=codec.optional(codec.number),
        created=codec.number,
        origin=codec.one_of(*ORIGINS),
        requested_by=codec.text,
        packages=codec.several(_entry),
        etc=codec.number,
    )


def _entry(document: object) -> PackageEntry:
    return codec.build(
        PackageEntry,
        document,
        name=codec.text,
        version=codec.text,
        kind=codec.one_of(*_KINDS),
        digest=codec.text,
        uid=codec.number,
        state=codec.number,
        installed=codec.number,
        updated=codec.number,
        enabled=codec.truth,
        requested=codec.truth,
        uses=codec.several(codec.text),
        earlier=codec.optional(_earlier),
    )


def _earlier(document: object) -> Earlier:
    return codec.build(
        Earlier,
        document,
        version=codec.text,
        digest=codec.text,
        state=codec.number,
        uses=codec.several(codec.text),
        fits=codec.truth,
    )


class GenerationStore:
    """The directory of records below root (`/state/orbital`)."""

    def __init__(self, root: Path) -> None:
        """Nothing is read or written yet."""
        self.root = root
        self.directory = root / "generations"

    def write(self, generation: Generation) -> None:
        """Writes the record durably. Raises StateError when the number is taken by another."""
        path = self.directory / f"{generation.number}.json"
        data = encode(generation)
        if path.exists():
            if reading.read_record(path) == data:
                return
            if self.load(generation.number) is not None:
                raise StateError(
                    f"cannot write generation {generation.number}: the number is in use",
                    details=str(path),
                )
        durable.make_directory(self.directory)
        durable.replace_file(path, data)

    def load(self, number: int) -> Generation | None:
        """The record, or None when it is absent or unreadable."""
        try:
            generation = decode(reading.read_record(self.directory / f"{number}.json"))
        except (OSError, ValueError):
            return None
        return generation if generation.number == number else None

    def all(self) -> tuple[Generation, ...]:
        """Every readable record, oldest first."""
        found = (self.load(number) for number in self.numbers())
        return tuple(generation for generation in found if generation is not None)

    def _prune_layers(self, keep: Collection[int]) -> None:
        import shutil

        try:
            names = [path.name for path in (self.root / "etc").iterdir()]
        except FileNotFoundError:
            return
        for name in names:
            if not name.isdigit() or int(name) not in keep:
                shutil.rmtree(self.root / "etc" / name, ignore_errors=True)

    def numbers(self) -> tuple[int, ...]:
        """The numbers of all files, readable or not, in order: none of them is free."""
        try:
            names = [path.name for path in self.directory.iterdir()]
        except FileNotFoundError:
            return ()
        stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return tuple(sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit()))

    def prune(self, keep: Collection[int]) -> tuple[int, ...]:
        """Removes the records and /etc layers of all other generations; returns their numbers.

        An /etc layer stays while a generation that is kept has it. The layer
        goes first: a power cut in between leaves a record whose layer is made
        again from its parent if it is ever booted.
        """
        kept = [self.load(number) for number in keep]
        layers = {generation.etc_layer for generation in kept if generation is not None}
        self._prune_layers(layers)
        removed = []
        for number in self.numbers():
            if number in keep:
                continue
            durable.remove_file(self.directory / f"{number}.json")
            removed.append(number)
        return tuple(removed)
