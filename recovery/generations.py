"""Generations: one immutable record for each state a device has been asked to run.

    /state/orbital/generations/1.json
    /state/orbital/generations/2.json
    /state/orbital/etc/N/{upper,work}     the /etc layer of generation N

A record is written once, durably, before anything refers to its number. A
record that nothing refers to is harmless and is pruned later.
"""

from __future__ import annotations

from pathlib import Path

from recovery import codec, durable
from recovery.errors import StateError
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Literal

    from recovery.slots import Slot

    Origin = Literal["factory", "update", "rollback"]
else:
    Origin = str

FORMAT = 1


class Generation(Value):
    """What a device runs: the image in a slot, the packages and the /etc layer that go with it.

    number: 1 or more, never used twice. root_hash: dm-verity root hash of the
    image, hex. parent: the generation whose /etc layer this one starts from;
    None for a factory generation. created: seconds since the epoch, by the
    device's clock. requested_by: who asked, e.g. "timer" or "root".
    packages: names of feature packages with versions, "NAME=VERSION".
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
    packages: tuple[str, ...] = ()


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
        origin=codec.one_of("factory", "update", "rollback"),
        requested_by=codec.text,
        packages=codec.several(codec.text),
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
            if path.read_bytes() == data:
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
            generation = decode((self.directory / f"{number}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return generation if generation.number == number else None

    def all(self) -> tuple[Generation, ...]:
        """Every readable record, oldest first."""
        found = (self.load(number) for number in self.numbers())
        return tuple(generation for generation in found if generation is not None)

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

        The layer goes first: a power cut in between leaves a record whose
        layer is made again from its parent if it is ever booted.
        """
        import shutil

        removed = []
        for number in self.numbers():
            if number in keep:
                continue
            shutil.rmtree(self.root / "etc" / str(number), ignore_errors=True)
            durable.remove_file(self.directory / f"{number}.json")
            removed.append(number)
        return tuple(removed)
