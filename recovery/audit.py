"""The audit trail: who asked this device to change what, and what came of it.

    /state/orbital/audit.jsonl     one JSON object a line, oldest first
    /state/orbital/audit.1.jsonl   the lines before those; dropped at the next rotation
    /state/orbital/audit.lock      flock: one writer at a time

Every line names the hash of the line before it (`previous`) and its own
(`hash`, SHA-256 of all its other fields as JSON with sorted keys and no
spaces). Who changes, removes or inserts a line has to make every later line
anew, which shows as soon as anybody remembers one later hash: `verify` prints
the newest, and the journal has it in every message. What a chain without a
secret cannot show: that the newest lines were cut off, or all of it was made
anew by who could write this disk.

A power cut may tear the last line. A line counts when its own hash is right,
with or without its newline; anything else is skipped by the next writer and by
`verify`, as long as the chain goes on without it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from contextlib import contextmanager
from pathlib import Path

from recovery import codec, durable, reading
from recovery.value import Value, fields, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    Result = Literal["started", "done", "failed", "refused"]
else:
    Result = str

RESULTS = ("started", "done", "failed", "refused")
GENESIS = "0" * 64
ROTATE_BYTES = 512 * 1024
"""Size of the file at which a new one begins; at most twice that is kept (about 2,500 lines)."""

_DETAIL = 1000
_WORD = 200
_TAIL = 16 * 1024
# Of a file that we wrote, all of it.
_MOST = 16 << 20

log = logging.getLogger("orbital")


class Entry(Value):
    """One line.

    seq: 1 for the first line of this device, one more for each. time: seconds
    since the epoch. who: the user, or the program that acted by itself. what:
    "package.install", "os.commit"... subject: package, version or generation.
    result: started (an outcome follows, or the power was cut), done, failed
    (tried and taken back), refused (nothing was tried). previous, hash: see
    the module.
    """

    seq: int
    time: int
    boot_id: str
    who: str
    what: str
    subject: str
    result: Result
    detail: str
    previous: str
    hash: str


class Verification(Value):
    """What `verify` found.

    entries: lines that count. first, last: their sequence numbers; 0 when
    there is none. head: hash of the newest. torn: unreadable lines over which
    the chain goes on. broken: "" or why the chain breaks, at file:line.
    """

    entries: int
    first: int
    last: int
    head: str
    torn: int
    broken: str

    @property
    def intact(self) -> bool:
        """Whether nothing that is kept was changed."""
        return not self.broken


class Audit:
    """The trail below root (`/state/orbital`)."""

    def __init__(self, root: Path, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        """Nothing is read or written yet."""
        self.root = root
        self.path = root / "audit.jsonl"
        self.older = root / "audit.1.jsonl"
        self._rotate_bytes = rotate_bytes

    def record(
        self,
        what: str,
        subject: str,
        result: Result,
        *,
        who: str,
        detail: str = "",
        boot_id: str = "",
    ) -> Entry:
        """Appends one entry durably and returns it. Raises OSError when it cannot be written."""
        durable.make_directory(self.root)
        with self._lock():
            head = self._head()
            unsigned = Entry(
                seq=head.seq + 1 if head else 1,
                time=int(time.time()),
                boot_id=boot_id,
                who=who[:_WORD],
                what=what,
                subject=subject[:_WORD],
                result=result,
                detail=detail[:_DETAIL],
                previous=head.hash if head else GENESIS,
                hash="",
            )
            entry = replace(unsigned, hash=_digest(unsigned))
            if _size(self.path) >= self._rotate_bytes:
                # Cut after it: no current file; the head is the last line of the older one.
                durable.rename(self.path, self.older)
            durable.append_line(self.path, _encode(fields(entry)))
        log.info("audit %d %s: %s %s %s by %s", entry.seq, entry.hash, what, subject, result, who)
        return entry

    def note(
        self,
        what: str,
        subject: str,
        result: Result,
        *,
        who: str,
        detail: str = "",
        boot_id: str = "",
    ) -> None:
        """Like `record`, for outcomes that stand whatever happens: a full disk is only logged."""
        try:
            self.record(what, subject, result, who=who, detail=detail, boot_id=boot_id)
        except OSError as error:
            log.error("cannot write the audit trail: %s: %s %s %s", error, what, subject, result)

    def entries(self) -> tuple[Entry, ...]:
        """Every line whose own hash is right, oldest first."""
        found = []
        for path in (self.older, self.path):
            found += [entry for entry in map(_decode, _lines(path)) if entry is not None]
        return tuple(found)

    def _head(self) -> Entry | None:
        for path in (self.path, self.older):
            for line in reversed(_lines(path, _TAIL)):
                entry = _decode(line)
                if entry is not None:
                    return entry
        return None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        fd = reading.open_record(self.root / "audit.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def verify(root: Path) -> Verification:
    """Follows the chain of the trail in root; stops at the first line that breaks it.

    The first kept line may follow one that was rotated away: what it says of
    that is believed. Everything after it is checked.
    """
    audit = Audit(root)
    last: Entry | None = None
    first = entries = torn = 0
    unreadable = ""

    def result(broken: str = "") -> Verification:
        seq, head = (last.seq, last.hash) if last else (0, GENESIS)
        return Verification(entries, first, seq, head, torn, broken)

    for path in (audit.older, audit.path):
        for number, line in enumerate(_lines(path), start=1):
            place = f"{path.name}:{number}"
            entry = _decode(line)
            if entry is None:
                # A prefix of a line is never a JSON object: what is one was not torn.
                if _is_object(line):
                    return result(f"{place}: the line was changed")
                torn, unreadable = torn + 1, unreadable or place
                continue
            broken = _break(last, entry, place, unreadable)
            if broken:
                return result(broken)
            last, first, entries = entry, first or entry.seq, entries + 1
            unreadable = ""
    return result()


def _break(last: Entry | None, entry: Entry, place: str, unreadable: str) -> str:
    """Why entry does not follow last, or ""."""
    if last is None:
        if entry.seq == 1 and entry.previous != GENESIS:
            return f"{place}: entry 1 names an entry before it"
        if entry.seq != 1 and unreadable:
            return f"{unreadable}: the line was changed"
        return ""
    if entry.seq == last.seq + 1 and entry.previous == last.hash:
        return ""
    if unreadable:
        return f"{unreadable}: the line was changed; entry {last.seq + 1} is expected there"
    if entry.seq != last.seq + 1:
        return f"{place}: entry {entry.seq} follows entry {last.seq}"
    return f"{place}: entry {entry.seq} does not follow from the line before it"


def _encode(document: dict[str, object]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _digest(entry: Entry) -> str:
    body = fields(entry)
    del body["hash"]
    return hashlib.sha256(_encode(body)).hexdigest()


def _is_object(line: bytes) -> bool:
    try:
        codec.parse_object(line)
    except ValueError:
        return False
    return True


def _decode(line: bytes) -> Entry | None:
    """The entry, or None when the line is torn, changed, or not ours."""
    try:
        entry = codec.build(
            Entry,
            codec.parse_object(line),
            seq=codec.number,
            time=codec.number,
            boot_id=codec.text,
            who=codec.text,
            what=codec.text,
            subject=codec.text,
            result=codec.one_of(*RESULTS),
            detail=codec.text,
            previous=codec.text,
            hash=codec.text,
        )
    except ValueError:
        return None
    return entry if entry.hash == _digest(entry) else None


def _lines(path: Path, tail: int = 0) -> list[bytes]:
    """The lines of a file, also a last one without newline; with tail, only of its last bytes."""
    try:
        data = reading.read_tail(path, tail or _MOST)
    except FileNotFoundError:
        return []
    return [line for line in data.split(b"\n") if line]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
