"""Making runs from the base image with the payloads of a delta.

Every way in which this can fail ends in the run being fetched in full: the part
is not there, damaged, not decodable, the base cannot be read, or the result
is not what was signed. What failed attempts cost is bounded (`updater.ledger`).
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
from updater.ledger import Ledger
from updater.runs import Payload, Run
from updater.source import NotFoundError, Source


class Patches:
    """The payloads of one update. Usable from several threads; one makes a run at a time,
    so that memory is bounded by one run, its references and the parts in use.

    made: bytes that came from the base. notes: what failed and why, for people.
    """

    def __init__(self, source: Source, runs: Iterable[Run], ledger: Ledger) -> None:
        """runs: all that will be asked for, of all streams."""
        self._source = source
        self._ledger = ledger
        self._users = Counter(run.payload.part.sha256 for run in runs if run.payload)
        self._parts: dict[str, bytes] = {}
        self._failed: set[str] = set()
        self._lock = threading.Lock()
        self.made = 0
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
                self._ledger.add(wasted=payload.size)
                self._note(f"bytes {run.offset} to {run.offset + run.size}: {problem}")
                return False
            self.made += run.size
            self._ledger.add(spared=instead)
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
        ledger = self._ledger
        if not ledger.allows(part.size):
            self._note(
                f"{name} is not tried: failed attempts may cost {ledger.limit} bytes at most"
            )
            return None
        try:
            content = b"".join(self._source.open(name, part.size))
        except NotFoundError as error:
            self._note(error.brief)
            return None
        ledger.add(fetched=len(content))
        if len(content) != part.size or hashlib.sha256(content).hexdigest() != part.sha256:
            ledger.add(wasted=len(content))
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
