"""Making the payload of one frame: every codec that may win is tried, the smallest wins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from delta import head
from delta.decode import WITH_INODES
from delta.frame import DICTIONARY, FRAME_LIMIT, STORE, VERSION, Base, apply, gaps
from delta.head import Head, Range, Rewriting
from delta.inode_tables import BLOCK, Tables
from delta.inode_tables import Range as Bounds
from delta.inodes import fill, without
from delta.references import read_references
from imager.delta.difference import differences
from imager.delta.head import written
from imager.delta.inode_tables import corrections
from imager.delta.inode_tables import written as written_tables
from imager.delta.sections import BYTES, Effort, quick_size, section, zstd_section

# A codec at full effort is expected to make at least this much of its quick estimate; below that
# it is not tried when another one is better already.
HOPE = 0.5


@dataclass(frozen=True)
class Copy:
    """Bytes of the frame that are in the base as they are. at: position in the frame."""

    at: int
    offset: int
    size: int


@dataclass(frozen=True)
class Reference:
    """A range of the base that is similar to bytes of the frame.

    rewrite: as encoded by imager.delta.executables; start: position of the range in its file.
    """

    offset: int
    size: int
    rewrite: bytes | None = None
    start: int = 0


def encode(
    new: bytes,
    base: Base,
    copies: Sequence[Copy],
    references: Sequence[Reference],
    *,
    level: int = 19,
    inodes: Tables | None = None,
) -> bytes:
    """The payload that makes new, the bytes of one frame, out of the base.

    Deterministic, and decoded once before it is returned. copies: in any order, none overlaps
    another, each is true; neighbours may be many small ones. references: at most 16 MiB together
    and within the limits of delta.head; they are concatenated in this order. level: as zstd's;
    from 19 on everything is tried. inodes: what predicts a part of the rest.

    Raises ValueError if copies or references are not as said, and what the base raises.
    """
    effort = Effort(level)
    merged = merged_copies(new, base, copies)
    places = [head.Copy(copy.at, Range(copy.offset, copy.size)) for copy in merged]
    rest = list(gaps(places, len(new)))
    form = _Form(effort)
    if inodes is not None:
        predicted, rest = _predicted(inodes, base, new, places, effort)
        form = _Form(effort, predicted)
    coded = b"".join(new[start:end] for start, end in rest)
    plain = Head(places, (), {})
    full = _with_references(plain, base, references) if coded else plain
    if coded:
        payloads = list(_candidates(coded, base, plain, full, form))
    else:
        payloads = [form.payload(plain, STORE, section(b"", effort))]
    best = min(payloads, key=len)
    _verify(best, base, new)
    return best


def _candidates(coded: bytes, base: Base, plain: Head, full: Head, form: _Form) -> Iterator[bytes]:
    """Payloads by each codec that may be the best."""
    effort = form.effort
    best: int | None = None
    if full.references:
        references = bytes(read_references(full, base))
        for codec, data in differences(coded, references, effort).items():
            yield (payload := form.payload(full, codec, data))
            best = len(payload) if best is None else min(best, len(payload))
        if best is None or quick_size(coded, references) * HOPE < best:
            data = zstd_section(coded, references, effort)
            yield (payload := form.payload(full, DICTIONARY, data))
            best = len(payload) if best is None else min(best, len(payload))
    if best is None or quick_size(coded) * HOPE < best:
        yield form.payload(plain, STORE, section(coded, effort, code=True))


@dataclass(frozen=True)
class _Form:
    """What the payloads of a frame have in common. inodes: the sections that predict them."""

    effort: Effort
    inodes: bytes = b""

    def payload(self, contents: Head, codec: int, data: bytes) -> bytes:
        """A payload. data: what comes after its head."""
        if not self.inodes:
            return bytes([VERSION, codec]) + written(contents, self.effort) + data
        head = written(contents, self.effort, BLOCK)
        return bytes([WITH_INODES, codec]) + head + self.inodes + data


def _predicted(
    tables: Tables,
    base: Base,
    new: bytes,
    copies: Sequence[head.Copy],
    effort: Effort,
) -> tuple[bytes, list[Bounds]]:
    """The sections that predict inodes, and what of the coded ranges is left."""
    made = memoryview(bytearray(len(new)))
    coded = list(gaps(copies, len(new)))
    filled, holes = fill(tables, base, made, copies)
    sections = (written_tables(tables, coded), *corrections(filled, made, new))
    rest = sorted([*without(coded, tables.ranges), *holes])
    return b"".join(section(part, effort, BYTES) for part in sections), rest


def merged_copies(new: bytes, base: Base, copies: Sequence[Copy]) -> list[Copy]:
    """The copies in order, neighbours in frame and base as one."""
    if len(new) > FRAME_LIMIT:
        raise ValueError(f"a frame has at most {FRAME_LIMIT} bytes, not {len(new)}")
    merged: list[Copy] = []
    end = 0
    for copy in sorted((copy for copy in copies if copy.size), key=lambda copy: copy.at):
        if copy.at < end or copy.size < 0 or copy.at + copy.size > len(new):
            raise ValueError(f"{copy} overlaps another or the end of the frame, {len(new)}")
        if not 0 <= copy.offset <= base.size - copy.size:
            raise ValueError(f"{copy} is not in a base of {base.size}")
        end = copy.at + copy.size
        if base.read(copy.offset, copy.size) != new[copy.at : end]:
            raise ValueError(f"{copy} is not the same in the base")
        if merged:
            last = merged[-1]
            if last.at + last.size == copy.at and last.offset + last.size == copy.offset:
                merged[-1] = Copy(last.at, last.offset, last.size + copy.size)
                continue
        merged.append(copy)
    # What is copied in more places than a head has room for is coded instead.
    largest = sorted(merged, key=lambda copy: (-copy.size, copy.at))[: head.COPIES]
    return sorted(largest, key=lambda copy: copy.at)


def _with_references(plain: Head, base: Base, references: Sequence[Reference]) -> Head:
    ranges = [Range(reference.offset, reference.size) for reference in references]
    full = Head(plain.copies, ranges, _rewritings(references))
    for source in ranges:
        if source.size < 0 or not 0 <= source.offset <= base.size - source.size:
            raise ValueError(f"{source} is not in a base of {base.size}")
    if full.references_size > head.REFERENCES_LIMIT or len(ranges) > head.REFERENCES:
        raise ValueError(
            f"a frame has at most {head.REFERENCES} references of {head.REFERENCES_LIMIT} bytes "
            f"together, not {len(ranges)} of {full.references_size}"
        )
    return full


def _rewritings(references: Sequence[Reference]) -> dict[int, Rewriting]:
    """How references are rewritten, but for those whose rewrites a head has no room for."""
    found: dict[int, Rewriting] = {}
    distinct: set[bytes] = set()
    room, work = head.REWRITES_LIMIT, head.REWRITING_LIMIT
    for number, reference in enumerate(references):
        rewrite = reference.rewrite
        if rewrite is None or len(found) == head.REWRITES:
            continue
        stored = 0 if rewrite in distinct else len(rewrite)
        if stored <= room and len(rewrite) <= work:
            distinct.add(rewrite)
            found[number] = Rewriting(memoryview(rewrite), reference.start)
            room -= stored
            work -= len(rewrite)
    return found


def _verify(payload: bytes, base: Base, new: bytes) -> None:
    """Decodes the payload as a device does: what is published works."""
    into = bytearray(len(new))
    apply(payload, base, memoryview(into))
    if into != new:
        raise AssertionError("a payload decodes to other bytes")
