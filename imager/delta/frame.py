"""Making the payload of one frame: every codec that may win is tried, the smallest wins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from delta import head
from delta.frame import DICTIONARY, FRAME_LIMIT, STORE, VERSION, Base, apply, gaps
from delta.head import Head, Range, Rewriting
from delta.references import read_references
from imager.delta.difference import differences
from imager.delta.head import written
from imager.delta.sections import Effort, quick_size, section, zstd_section

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
) -> bytes:
    """The payload that makes new, the bytes of one frame, out of the base.

    Deterministic, and decoded once before it is returned. copies: in any order, none overlaps
    another, each is true; neighbours may be many small ones. references: at most 16 MiB together
    and within the limits of delta.head; they are concatenated in this order. level: as zstd's;
    from 19 on everything is tried.

    Raises ValueError if copies or references are not as said, and what the base raises.
    """
    effort = Effort(level)
    merged = _merged(new, base, copies)
    places = [head.Copy(copy.at, Range(copy.offset, copy.size)) for copy in merged]
    coded = b"".join(new[start:end] for start, end in gaps(places, len(new)))
    plain = Head(places, (), {})
    full = _with_references(plain, base, references) if coded else plain
    if coded:
        payloads = list(_candidates(coded, base, plain, full, effort))
    else:
        payloads = [_payload(plain, STORE, effort, section(b"", effort))]
    best = min(payloads, key=len)
    _verify(best, base, new)
    return best


def _candidates(
    coded: bytes, base: Base, plain: Head, full: Head, effort: Effort
) -> Iterator[bytes]:
    """Payloads by each codec that may be the best."""
    best: int | None = None
    if full.references:
        references = bytes(read_references(full, base))
        for codec, data in differences(coded, references, effort).items():
            yield (payload := _payload(full, codec, effort, data))
            best = len(payload) if best is None else min(best, len(payload))
        if best is None or quick_size(coded, references) * HOPE < best:
            data = zstd_section(coded, references, effort)
            yield (payload := _payload(full, DICTIONARY, effort, data))
            best = len(payload) if best is None else min(best, len(payload))
    if best is None or quick_size(coded) * HOPE < best:
        yield _payload(plain, STORE, effort, section(coded, effort, code=True))


def _payload(contents: Head, codec: int, effort: Effort, data: bytes) -> bytes:
    return bytes([VERSION, codec]) + written(contents, effort) + data


def _merged(new: bytes, base: Base, copies: Sequence[Copy]) -> list[Copy]:
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
