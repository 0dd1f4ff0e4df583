"""The install journal: which image a slot is being filled with.

`/state/orbital/install.json`, written durably before the first byte goes into
the slot and removed after the commit point. Its only use is to know, after a
power cut, that looking for pieces in the slot is worth the reading: what is
found counts because of its digest, never because of this file. Without it a
slot holds some old image, of which (file systems shift) next to nothing lies
where the new one has it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from manifests.decoding import decode_json
from recovery import durable
from recovery.reading import read_record
from recovery.slots import Slot

FORMAT = 1


class Journal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """slot is being filled with the image whose index has the digest index_sha256 (hex)."""

    index_sha256: str
    slot: Slot
    version: str
    format: int = FORMAT


def load(root: Path) -> Journal | None:
    """The journal in root (`/state/orbital`), or None when no install was interrupted."""
    try:
        journal = decode_json(read_record(root / "install.json"), Journal)
    except (OSError, msgspec.MsgspecError):
        return None
    return journal if journal.format == FORMAT else None


def save(root: Path, journal: Journal) -> None:
    """Writes the journal durably."""
    durable.replace_file(root / "install.json", msgspec.json.encode(journal) + b"\n")


def clear(root: Path) -> None:
    """Removes the journal durably."""
    durable.remove_file(root / "install.json")
