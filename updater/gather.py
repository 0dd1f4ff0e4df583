"""Making segments from slices: those that the running image has, and others out of packs.

A segment counts by its signed digest. If that is wrong, slices from the base are judged by their
own, and those that are wrong are fetched like those that are missing. Whatever goes wrong ends
in the segment being fetched in full; what failed attempts cost is bounded (`updater.ledger`).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import zstandard

from delta.frame import Base
from manifests.delta import Part
from manifests.index import chunk_path
from manifests.slices import digest_of
from updater.ledger import Ledger
from updater.runs import Run, Slice
from updater.source import NoRangesError, NotFoundError, Source, read

GAP = 4096
"""Bytes between two slices of a pack that are fetched along rather than with two requests."""
_PACKS = 4


@dataclass(frozen=True)
class _Range:
    """Slices that lie side by side in a pack: its bytes offset to end."""

    part: Part
    offset: int
    end: int
    slices: tuple[Slice, ...]


class _Failed(Exception):
    """A segment cannot be made from slices."""


class Gather:
    """The slices of one update. Usable from several threads; one makes a run at a time, so
    that memory is bounded by one run and a few packs.

    made: bytes that came from the base. notes: what failed and why, for people.
    """

    def __init__(self, source: Source, ledger: Ledger) -> None:
        self._source = source
        self._ledger = ledger
        self._packs: dict[str, bytes] = {}
        self._ranges = True
        # What the attempt that is being made has fetched.
        self._fetched = 0
        self._lock = threading.Lock()
        self.made = 0
        self.notes: list[str] = []

    def make(self, run: Run, base: Base, into: memoryview) -> bool:
        """Fills into, which has the run's size; False when the run has to be fetched in full.

        run: with slices, of one piece. Raises FetchError when the source is gone: then it is
        gone for a full fetch, too.
        """
        with self._lock:
            self._fetched = 0
            try:
                self._fill(run, base, into)
            except _Failed as error:
                self._ledger.add(wasted=self._fetched)
                self._note(f"some segments are fetched whole: {error}")
                return False
            self._ledger.add(spared=run.full_size)
            return True

    def _fill(self, run: Run, base: Base, into: memoryview) -> None:
        missing = [item for item in run.slices if not _copied(item, run, base, into)]
        self._fetch(missing, run, into)
        if not _whole(run, into):
            # Only now: to look at each slice costs as much again as to look at the segment.
            wrong = [
                item for item in run.slices if digest_of(_place(item, run, into)) != item.digest
            ]
            self._fetch(wrong, run, into)
            missing += wrong
            if not wrong or not _whole(run, into):
                raise _Failed("what its slices make is not what was signed")
        self.made += run.size - sum(item.size for item in missing)

    def _fetch(self, missing: Sequence[Slice], run: Run, into: memoryview) -> None:
        """Puts slices out of packs into place."""
        ranges = list(_ranges(missing))
        cost = sum(self._cost(item) for item in ranges)
        if cost and self._fetched + cost >= run.full_size:
            raise _Failed("their slices cost more")
        if not self._ledger.allows(cost):
            raise _Failed(f"failed attempts may cost {self._ledger.limit} bytes at most")
        for found in ranges:
            content = self._content(found)
            for item in found.slices:
                start = item.stored.offset - found.offset
                _decode(content[start : start + item.stored.size], item, run, into)

    def _cost(self, found: _Range) -> int:
        """Bytes to fetch for it now."""
        if found.part.sha256 in self._packs:
            return 0
        return found.end - found.offset if self._ranges else found.part.size

    def _content(self, found: _Range) -> bytes:
        """The bytes of the range."""
        part = found.part
        path = chunk_path(part.sha256)
        size = found.end - found.offset
        try:
            if self._ranges and size < part.size:
                try:
                    content = b"".join(self._source.open_range(path, found.offset, size))
                    self._count(content)
                    return content
                except NoRangesError as error:
                    self._ranges = False
                    if not error.whole:
                        raise _Failed("the server gives only whole files") from error
                    self._take(part, path, error.whole)
            elif part.sha256 not in self._packs:
                self._take(part, path, read(self._source, path, part.size))
            return self._packs[part.sha256][found.offset : found.end]
        except NotFoundError as error:
            raise _Failed(error.brief) from error

    def _take(self, part: Part, path: str, content: bytes) -> None:
        """Keeps a whole pack, as the last few, for neighbours need them as well."""
        self._count(content)
        if len(content) != part.size or hashlib.sha256(content).hexdigest() != part.sha256:
            raise _Failed(f"{path} is damaged or tampered with")
        while len(self._packs) >= _PACKS:
            del self._packs[next(iter(self._packs))]
        self._packs[part.sha256] = content

    def _count(self, content: bytes) -> None:
        self._fetched += len(content)
        self._ledger.add(fetched=len(content))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _whole(run: Run, into: memoryview) -> bool:
    """Whether into is the segment that was signed."""
    return hashlib.sha256(into).hexdigest() == run.pieces[0].segment.sha256


def _place(item: Slice, run: Run, into: memoryview) -> memoryview:
    start = item.offset - run.offset
    return into[start : start + item.size]


def _copied(item: Slice, run: Run, base: Base, into: memoryview) -> bool:
    """Whether the slice was copied from the base. Its digest was right when it was found."""
    if item.local is None:
        return False
    try:
        data = base.read(item.local, item.size)
    except OSError:
        return False
    if len(data) != item.size:
        return False
    _place(item, run, into)[:] = data
    return True


def _ranges(missing: Sequence[Slice]) -> Iterator[_Range]:
    """What to fetch, with as few requests as are worth it."""
    ordered = sorted(missing, key=lambda item: (item.stored.part.sha256, item.stored.offset))
    group: list[Slice] = []
    end = 0
    for item in ordered:
        stored = item.stored
        if group and (group[0].stored.part != stored.part or stored.offset > end + GAP):
            yield _Range(group[0].stored.part, group[0].stored.offset, end, tuple(group))
            group, end = [], 0
        group.append(item)
        end = max(end, stored.offset + stored.size)
    if group:
        yield _Range(group[0].stored.part, group[0].stored.offset, end, tuple(group))


def _decode(stored: bytes, item: Slice, run: Run, into: memoryview) -> None:
    """Puts the slice in place. Raises _Failed when it is not what the map says."""
    place = _place(item, run, into)
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(stored) as reader:
            size = reader.readinto(place)
            more = reader.read(1)
    except zstandard.ZstdError as error:
        raise _Failed(f"a slice cannot be decompressed: {error}") from error
    if size != item.size or more or digest_of(place) != item.digest:
        raise _Failed("a slice is not what its map says")
