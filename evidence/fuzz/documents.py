"""Readers of `updater`, `manifests` and `delta`: signed documents, state, payloads."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path

import msgspec

from delta.clusters import open_cluster
from delta.frame import apply
from delta.inode_tables import read_tables
from delta.rewrite import apply_rewrite, decode_rewrite
from delta.varint import Reader
from evidence.fuzz.records import in_folder
from evidence.fuzz.target import CORPUS
from manifests.index import OsIndex
from manifests.package_index import PackageRelease
from recovery.device import DeviceConfig
from recovery.errors import OrbitalError
from recovery.state import StateRecord
from updater import budget, journal, policy, seen, verity
from updater.index import decode_delta, decode_index, decode_releases
from updater.packages import associations, offers, parcels, scrape
from updater.plan import choose
from updater.slices import decode_slices

_CONFIG = DeviceConfig("gateway", "1.0", "b", "x86_64", 0, "grub", "", "state", {})
# As code and text of an image: compressible, and the same in each run.
BASE = b"".join(bytes((at * at >> shift) & 255 for at in range(4096)) for shift in (0, 3, 5, 8))


class Base:
    """A base that insists that nothing is read outside of it."""

    size = len(BASE)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the base."""
        if not 0 <= offset <= offset + size <= self.size:
            raise AssertionError(f"read outside of the base: {size} bytes at {offset}")
        return BASE[offset : offset + size]


@functools.cache
def index() -> OsIndex:
    """The index of the published image to which delta and slice map belong."""
    return decode_index((CORPUS / "index" / "published").read_bytes())


@functools.cache
def release() -> PackageRelease:
    """The release of the published package to which its delta belongs."""
    data = (CORPUS / "package-releases" / "published").read_bytes()
    return offers.decode(data, "releases.json").releases[-1]


@functools.cache
def package_base() -> str:
    """The digest of the image that the published delta of a package is from."""
    data = (CORPUS / "package-delta" / "published").read_bytes()
    return str(json.loads(data)["from_digest"])


def os_index(data: bytes) -> None:
    """index.json."""
    found = decode_index(data)
    verity.superblock(found.root)
    verity.tree_size(found.root.hash_offset)


def os_releases(data: bytes) -> None:
    """releases.json of images, and the choice among them."""
    found = decode_releases(data)
    for to in (None, "2.0"):
        try:
            choose(found, _CONFIG, StateRecord(next_generation=2, committed=1), to)
        except OrbitalError:
            continue


def os_delta(data: bytes) -> None:
    """delta-HASH.json."""
    decode_delta(data, index())


def slice_map(data: bytes) -> None:
    """slices.msgpack."""
    decode_slices(data, index())


def package_releases(data: bytes) -> None:
    """packages/NAME/releases.json."""
    offers.decode(data, "packages/x/releases.json")


def package_delta(data: bytes) -> None:
    """packages/NAME/delta-NEW-OLD.json."""
    parcels.decode_delta(data, release(), package_base())


def install_journal(data: bytes) -> None:
    """install.json."""
    in_folder(data, "install.json", journal.load)


def seen_versions(data: bytes) -> None:
    """seen.json."""

    def read(place: Path) -> None:
        found = seen.load(place / "seen.json")
        seen.advance(seen.Seen(), found)
        try:
            seen.advance(found, seen.Seen(root=1, timestamp=1, snapshot=1, targets={"os": 1}))
        except OrbitalError as error:
            str(error).encode()

    in_folder(data, "seen.json", read)


def update_policy(data: bytes) -> None:
    """/etc/orbital/update.json."""
    in_folder(data, str(policy.OVERRIDE), lambda place: policy.load_policy(_CONFIG, place))


def usage_record(data: bytes) -> None:
    """usage.json."""

    def read(place: Path) -> None:
        found = budget.at(budget.load(place / "usage.json"), "2026-11", "x")
        budget.left(budget.Budget(10, 10), found)
        msgspec.json.encode(found)

    in_folder(data, "usage.json", read)


def registry(data: bytes) -> None:
    """associations.json."""

    def read(place: Path) -> None:
        found = associations.load(place)
        associations.handler_of("a.txt", found)

    in_folder(data, "run/orbital/packages/associations.json", read)


def metrics_request(data: bytes) -> None:
    """An HTTP request to the metrics socket."""
    assert scrape.answer(io.BytesIO(data), io.BytesIO(), lambda: "x 1\n") in (200, 400, 404, 405)


def frame(data: bytes) -> None:
    """A frame of a delta: its size (two bytes, little endian) and payload."""
    apply(data[2:], Base(), memoryview(bytearray(int.from_bytes(data[:2], "little"))))


def rewrite(data: bytes) -> None:
    """The rewriting of an executable's old bytes."""
    found = decode_rewrite(data)
    for start in (0, 1, 4000):
        apply_rewrite(found, start, bytearray(BASE[:8192]))


def inode_tables(data: bytes) -> None:
    """Tables that predict inodes."""
    read_tables(Reader(memoryview(data)), [(0, 16384), (32768, 65536)])


def cluster(data: bytes) -> None:
    """A compressed cluster: opened size (three bytes, little endian) and content."""
    open_cluster(data[3:], int.from_bytes(data[:3], "little"))
