"""The two streams of a delta, mapped into memory, and how they are compared."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from imager.delta import anchors
from imager.delta.anchors import Anchors
from imager.delta.erofs import Layout, Node, read_layout
from imager.delta.match import Reason, Span, Unit, match
from imager.delta.plan import Pair
from recovery.errors import ToolError

_ELF = b"\x7fELF"
# Old ranges by content for a unit that has no counterpart.
_BY_CONTENT = 4 << 20
# What is shorter compresses as well without a search through the whole old stream.
_WORTH_SEARCHING = 16 << 10


@dataclass(frozen=True)
class CodePair:
    """An executable that changed. numbers: of the new and the old file in their layouts."""

    numbers: Pair
    old: Node
    new: Node


@dataclass(frozen=True)
class Streams:
    """Both streams, as they lie in their files."""

    old: memoryview
    new: memoryview

    @classmethod
    @contextmanager
    def open(cls, old: Path, old_size: int, new: Path, new_size: int) -> Iterator[Streams]:
        """Maps the first bytes of both files. Raises ToolError when one is shorter."""
        with ExitStack() as stack:
            yield cls(
                stack.enter_context(_mapped(old, old_size)),
                stack.enter_context(_mapped(new, new_size)),
            )

    def matched(self) -> tuple[list[Unit], tuple[CodePair, ...]]:
        """Units of two erofs images, and the pairs of executables that differ.

        Raises ToolError when an image cannot be read.
        """
        old, new = read_layout(self.old), read_layout(self.new)
        units = match(old, new, _Digest(self.old), _Digest(self.new))
        if new.size < len(self.new):
            units.append(Unit(Span(new.size, len(self.new) - new.size), Reason.NONE))
        units = self._searched(units)
        return units, tuple(self._code(units, old, new))

    def compared(self) -> list[Unit]:
        """Units of two streams of unknown content: what is equal, wherever it is, and the rest."""
        known = anchors.index(self.old, [Span(0, len(self.old))])
        units: list[Unit] = []
        at = 0
        for new_at, old_at, size in anchors.equal_ranges(known, self.old, self.new):
            units.extend(self._similar(Span(at, new_at - at), known))
            units.append(Unit(Span(new_at, size), Reason.SAME, (Span(old_at, size),)))
            at = new_at + size
        units.extend(self._similar(Span(at, len(self.new) - at), known))
        return units

    def _similar(self, span: Span, known: Anchors) -> Iterator[Unit]:
        for start in range(span.offset, span.end, _BY_CONTENT):
            size = min(_BY_CONTENT, span.end - start)
            # Without any content in common, the same place is as good as another.
            place = min(start, max(len(self.old) - size, 0))
            there = Span(place, min(size, len(self.old)))
            found = self._by_content(Span(start, size), known) or (there,)
            yield Unit(Span(start, size), Reason.CONTENT, found)

    def _searched(self, units: Sequence[Unit]) -> list[Unit]:
        """The units, with references by content for those that have none."""
        lost = [
            number
            for number, unit in enumerate(units)
            if not unit.old and unit.span.size >= _WORTH_SEARCHING
        ]
        found = list(units)
        if lost:
            known = anchors.index(self.old, [Span(0, len(self.old))])
            for number in lost:
                spans = self._by_content(units[number].span, known)
                if spans:
                    found[number] = replace(units[number], reason=Reason.CONTENT, old=spans)
        return found

    def _by_content(self, span: Span, known: Anchors) -> tuple[Span, ...]:
        data = self.new[span.offset : span.end]
        return anchors.references(known, data, len(self.old), _BY_CONTENT)

    def _code(self, units: Sequence[Unit], old: Layout, new: Layout) -> Iterator[CodePair]:
        for unit in units:
            if unit.pair is None:
                continue
            after, before = new.nodes[unit.pair[0]], old.nodes[unit.pair[1]]
            if self._is_elf(self.old, before.data) and self._is_elf(self.new, after.data):
                yield CodePair(unit.pair, before, after)

    @staticmethod
    def _is_elf(stream: memoryview, at: int) -> bool:
        return stream[at : at + len(_ELF)] == _ELF


class _Digest:
    def __init__(self, stream: memoryview) -> None:
        self._stream = stream

    def __call__(self, offset: int, size: int) -> bytes:
        return hashlib.sha256(self._stream[offset : offset + size]).digest()


@contextmanager
def _mapped(path: Path, size: int) -> Iterator[memoryview]:
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        length = path.stat().st_size
        if length < size:
            raise ToolError(
                f"cannot make a delta: {path} is too short",
                details=f"{size} bytes were expected, it has {length}",
            )
        if not size:
            yield memoryview(b"")
            return
        mapping = stack.enter_context(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
        with memoryview(mapping) as view:
            yield view
