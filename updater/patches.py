"""Making runs from the base image with the payloads of a delta.

Every way in which this can fail ends in the run being fetched in full: the part
is not there, damaged, not decodable, the base cannot be read, or the result
is not what was signed. What failed attempts cost is bounded: one that could take
the whole over LIMIT more than a full download is not begun. What has been saved may
be risked: then the whole is less all the same.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable

from delta.errors import DeltaError
from delta.frame import Base, apply
from manifests.delta import Part
from manifests.index import chunk_path
from updater.runs import Payload, Run
from updater.source import NotFoundError, Source

LIMIT = 0.02
"""What failed attempts may cost beyond a full download, as a share of it."""


class Patches:
    """The payloads of one update. Usable from several threads; one makes a run at a time,
    so that memory is bounded by one run, its references and the parts in use.

    fetched: bytes of parts. wasted: those of attempts that failed. made: bytes that came from
    the base; spared: bytes that need not be fetched for it. elsewhere: what other attempts,
    which share the limit, have cost beyond what they spared. notes: what failed and why, for
    people.
    """

    def __init__(self, source: Source, runs: Iterable[Run], full_size: int) -> None:
        """runs: all that will be asked for, of all streams. full_size: bytes in full."""
        self._source = source
        self._limit = int(full_size * LIMIT)
        self._users = Counter(run.payload.part.sha256 for run in runs if run.payload)
        self._parts: dict[str, bytes] = {}
        self._failed: set[str] = set()
        self._lock = threading.Lock()
        self.fetched = 0
        self.wasted = 0
        self.made = 0
        self.spared = 0
        self.elsewhere = 0
        self.notes: list[str] = []

    def make(self, run: Run, base: Base, into: memoryview, instead: int) -> bool:
        """Fills into, which has the run's size; False when the run has to be fetched in full.

        instead: bytes to fetch without it, for what of the run is not in place yet.
        Raises FetchError when the source is gone: then it is gone for a full fetch, too.
        """
        payload = run.payload
        if payload is None:
            return False
        with self._lock:
            try:
                content = self._payload(payload)
                if content is None:
                    return False
                problem = _fill(run, content, base, into)
            finally:
                self._release(payload.part)
            if problem:
                self.wasted += payload.size
                self._note(f"bytes {run.offset} to {run.offset + run.size}: {problem}")
                return False
            self.made += run.size
            self.spared += instead
            return True

    def skip(self, run: Run) -> None:
        """Says that the run will not be asked for: it is in place."""
        if run.payload is not None:
            with self._lock:
                self._release(run.payload.part)

    def _payload(self, payload: Payload) -> bytes | None:
        """The payload's bytes; None when its part cannot be used."""
        part = payload.part
        if part.sha256 in self._failed:
            return None
        if part.sha256 not in self._parts:
            content = self._fetch(part)
            if content is None:
                self._failed.add(part.sha256)
                return None
            self._parts[part.sha256] = content
        return self._parts[part.sha256][payload.offset : payload.offset + payload.size]

    def _fetch(self, part: Part) -> bytes | None:
        name = chunk_path(part.sha256)
        risk = min(self.wasted, self.fetched - self.spared) + self.elsewhere
        if risk + part.size > self._limit:
            self._note(f"{name} is not tried: failed attempts may cost {self._limit} bytes at most")
            return None
        try:
            content = b"".join(self._source.open(name, part.size))
        except NotFoundError as error:
            self._note(error.brief)
            return None
        self.fetched += len(content)
        if len(content) != part.size or hashlib.sha256(content).hexdigest() != part.sha256:
            self.wasted += len(content)
            self._note(f"{name} is damaged or tampered with")
            return None
        return content

    def _release(self, part: Part) -> None:
        self._users[part.sha256] -= 1
        if not self._users[part.sha256]:
            self._parts.pop(part.sha256, None)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _fill(run: Run, payload: bytes, base: Base, into: memoryview) -> str:
    """Makes the run; what is wrong with the result, or nothing."""
    try:
        apply(payload, base, into)
    except DeltaError as error:
        return f"the delta cannot be decoded: {error}"
    except OSError as error:
        return f"the base image cannot be read: {error.strerror}"
    for piece in run.pieces:
        start = piece.offset - run.offset
        made = into[start : start + piece.segment.size]
        if hashlib.sha256(made).hexdigest() != piece.segment.sha256:
            return "what the delta makes of the base image is not what was signed"
    return ""
