"""The two streams of a delta, mapped into memory, and how they are compared."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from imager.delta import anchors
from imager.delta.anchors import Anchors
from imager.delta.elf_kernel import find_kernels
from imager.delta.erofs import Layout, Node, read_layout
from imager.delta.match import Digest, Reason, Span, Unit, match
from imager.delta.plan import Pair
from recovery.errors import ToolError

_ELF = b"\x7fELF"
# Bytes of the streams that stay in memory while all of them are read.
_HELD = 64 << 20
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
    forget: Callable[[], None]
    """Takes what was read out of this process's memory; the page cache keeps what it can."""

    @classmethod
    @contextmanager
    def open(cls, old: Path, old_size: int, new: Path, new_size: int) -> Iterator[Streams]:
        """Maps the first bytes of both files. Raises ToolError when one is shorter."""
        with ExitStack() as stack:
            mappings = [
                stack.enter_context(_mapped(path, size))
                for path, size in ((old, old_size), (new, new_size))
            ]
            views = [stack.enter_context(memoryview(mapping or b"")) for mapping in mappings]

            def forget() -> None:
                for mapping in mappings:
                    if mapping is not None:
                        mapping.madvise(mmap.MADV_DONTNEED)

            yield cls(views[0], views[1], forget)

    def matched(
        self, layouts: tuple[Layout, Layout] | None = None
    ) -> tuple[list[Unit], tuple[CodePair, ...]]:
        """Units of two erofs images, and the pairs of executables that differ.

        layouts: of the old and the new stream, when these are not images themselves. Raises
        ToolError when an image cannot be read.
        """
        old, new = layouts or self.layouts()
        units = match(old, new, self._digest(self.old), self._digest(self.new))
        self.forget()
        if new.size < len(self.new):
            units.append(Unit(Span(new.size, len(self.new) - new.size), Reason.NONE))
        units = self._searched(units)
        return units, tuple(self._code(units, old, new))

    def layouts(self) -> tuple[Layout, Layout]:
        """Where things lie in two erofs images. Raises ToolError when one cannot be read."""
        return read_layout(self.old), read_layout(self.new)

    def compared(self) -> tuple[list[Unit], tuple[CodePair, ...]]:
        """Units of two streams of unknown content: what is equal, wherever it is, and the rest.

        And the pairs of kernels in them, which lie open in a boot artifact.
        """
        code = tuple(self._kernels())
        known = anchors.index(self.old, self._old_parts())
        equal = list(anchors.equal_ranges(known, self.old, self.new))
        units: list[Unit] = []
        at = 0
        for pair in code:
            span = Span(pair.new.data, pair.new.size)
            units.extend(self._between(Span(at, span.offset - at), equal, known))
            old = Span(pair.old.data, pair.old.size)
            units.append(Unit(span, Reason.PATH, (old,), pair.numbers))
            at = span.end
        units.extend(self._between(Span(at, len(self.new) - at), equal, known))
        return units, code

    def _between(
        self, span: Span, equal: Sequence[tuple[int, int, int]], known: Anchors
    ) -> Iterator[Unit]:
        """Units of a range of the new stream."""
        at = span.offset
        for new_at, old_at, size in equal:
            start, end = max(at, new_at), min(span.end, new_at + size)
            if start < end:
                yield from self._similar(Span(at, start - at), known)
                same = Span(old_at + start - new_at, end - start)
                yield Unit(Span(start, end - start), Reason.SAME, (same,))
                at = end
        yield from self._similar(Span(at, span.end - at), known)

    def _kernels(self) -> Iterator[CodePair]:
        """The first kernel of the one and of the other, unless they are the same."""
        nodes = []
        for stream in (self.old, self.new):
            found = find_kernels(stream)
            self.forget()
            if not found:
                return
            at, size = found[0]
            nodes.append(Node("kernel", "file", size, 0, 0, at, size))
        old, new = nodes
        if self._digest(self.old)(old.data, old.size) != self._digest(self.new)(new.data, new.size):
            yield CodePair((0, 0), old, new)

    def _old_parts(self) -> Iterator[Span]:
        """All of the old stream, of which only a part is held at a time."""
        for start in range(0, len(self.old), _HELD):
            yield Span(start, min(_HELD, len(self.old) - start))
            self.forget()

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
            known = anchors.index(self.old, self._old_parts())
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

    def _digest(self, stream: memoryview) -> Digest:
        read = 0

        def digest(offset: int, size: int) -> bytes:
            nonlocal read
            read += size
            if read > _HELD:
                self.forget()
                read = 0
            return hashlib.sha256(stream[offset : offset + size]).digest()

        return digest

    @staticmethod
    def _is_elf(stream: memoryview, at: int) -> bool:
        return stream[at : at + len(_ELF)] == _ELF


@contextmanager
def _mapped(path: Path, size: int) -> Iterator[mmap.mmap | None]:
    """The first bytes of the file; None of no bytes, which cannot be mapped."""
    length = path.stat().st_size
    if length < size:
        raise ToolError(
            f"cannot make a delta: {path} is too short",
            details=f"{size} bytes were expected, it has {length}",
        )
    if not size:
        yield None
        return
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapping,
    ):
        yield mapping
