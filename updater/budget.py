"""How many bytes updates may fetch: for one update, and in a calendar month (UTC).

`/state/orbital/usage.json` has what was fetched. It is written before a further
STEP bytes are asked for, so a power cut makes the count too high by less than
STEP and never too low. A clock that goes back does not begin an earlier month
again; one that is years ahead ends the budget's memory, not the device's safety.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from manifests.decoding import decode_json
from recovery import durable
from recovery.errors import RefusedError
from recovery.reading import read_record
from updater.source import NoRangesError, Source

FORMAT = 1
STEP = 1 << 20


@dataclass(frozen=True)
class Budget:
    """Bytes that may be fetched. per_update, per_month: 0 is without limit."""

    per_update: int = 0
    per_month: int = 0


UNLIMITED = Budget()


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was fetched. month: "2026-11"; update: digest of the index of the image that
    update_bytes were fetched for, hex."""

    month: str = ""
    month_bytes: int = 0
    update: str = ""
    update_bytes: int = 0
    format: int = FORMAT


def load(path: Path) -> Usage:
    """The record; an empty one when there is none, or none that can be read: what it
    protects is a bill, and a device must not stop updating for it."""
    try:
        usage = decode_json(read_record(path), Usage)
    except (OSError, msgspec.MsgspecError):
        return Usage()
    return usage if usage.format == FORMAT else Usage()


def at(usage: Usage, month: str, update: str) -> Usage:
    """The record as it counts in a month, for an update. Pure."""
    if month > usage.month:
        usage = msgspec.structs.replace(usage, month=month, month_bytes=0)
    if update != usage.update:
        usage = msgspec.structs.replace(usage, update=update, update_bytes=0)
    return usage


def left(budget: Budget, usage: Usage) -> int | None:
    """Bytes that may still be fetched; None without limit. Pure."""
    limits = []
    if budget.per_update:
        limits.append(budget.per_update - usage.update_bytes)
    if budget.per_month:
        limits.append(budget.per_month - usage.month_bytes)
    return max(0, min(limits)) if limits else None


class Metered:
    """A source (`updater.source.Source`) that counts and stops when the budget is used up."""

    def __init__(self, source: Source, budget: Budget, path: Path, now: float) -> None:
        """path: of the record. now: seconds since the epoch."""
        self._source = source
        self._budget = budget
        self._path = path
        self._month = time.strftime("%Y-%m", time.gmtime(now))
        known = load(path)
        self._usage = at(known, self._month, known.update)
        self._charged = 0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Of the source."""
        return self._source.name

    def begin(self, update: str, expected: int, version: str) -> None:
        """From here on it is for this update.

        update: digest of the image's index. expected: bytes to fetch when nothing is in
        place yet. Raises RefusedError when that is over the budget, with nothing fetched.
        """
        with self._lock:
            self._usage = at(self._usage, self._month, update)
            rest = left(self._budget, self._usage)
            needed = max(0, expected - self._usage.update_bytes)
            if rest is not None and needed > rest:
                raise self._used_up(version, needed, rest)
            # From now on the record says for which update the bytes were.
            self._ahead()

    def open(self, path: str, max_size: int) -> Iterator[bytes]:
        """The bytes of a file; see Source. Raises RefusedError when the budget is used up."""
        yield from self._charged_for(self._source.open(path, max_size))

    def open_range(self, path: str, offset: int, size: int) -> Iterator[bytes]:
        """Bytes of a file; see Source. Raises RefusedError when the budget is used up."""
        yield from self._charged_for(self._source.open_range(path, offset, size))

    def close(self) -> None:
        """Writes what was really fetched, and gives up the source's connections."""
        with self._lock:
            self._save(self._usage)
            self._charged = 0
        self._source.close()

    def _charged_for(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            for block in blocks:
                self._charge(len(block))
                yield block
        except NoRangesError as error:
            self._charge(len(error.whole))
            raise

    def _charge(self, size: int) -> None:
        with self._lock:
            rest = left(self._budget, self._usage)
            if rest is not None and size > rest:
                raise self._used_up("", size, rest)
            usage = self._usage
            self._usage = msgspec.structs.replace(
                usage,
                month_bytes=usage.month_bytes + size,
                update_bytes=usage.update_bytes + size,
            )
            self._charged -= size
            if self._charged < 0:
                self._ahead()

    def _ahead(self) -> None:
        """Counts the next STEP bytes before they are fetched."""
        self._charged = STEP
        self._save(
            msgspec.structs.replace(
                self._usage,
                month_bytes=self._usage.month_bytes + STEP,
                update_bytes=self._usage.update_bytes + STEP,
            )
        )

    def _save(self, usage: Usage) -> None:
        durable.replace_file(self._path, msgspec.json.encode(usage) + b"\n")

    def _used_up(self, version: str, needed: int, rest: int) -> RefusedError:
        what = f"install {version}" if version else "go on with the update"
        return RefusedError(
            f"cannot {what}: the budget for updates is used up",
            details=f"{needed} bytes are needed, {rest} are left of {self._limits()}",
            resolution="wait for the next month, use a stick, or say --ignore-budget; what was "
            "fetched is kept",
        )

    def _limits(self) -> str:
        parts = []
        if self._budget.per_update:
            parts.append(f"{self._budget.per_update} for an update")
        if self._budget.per_month:
            parts.append(f"{self._budget.per_month} in {self._usage.month}")
        return " and ".join(parts)
