"""Boot artifacts that are whole, and the same with any of their bytes damaged."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

import pytest

from recovery.artifacts.check import check
from recovery.artifacts.content import Artifact, Checked, DamageError
from tests.recovery.artifacts import (
    make_artifact,
    make_cpio,
    make_fit,
    make_uki,
    sign_pe,
)

WORDS = "orbital.roothash=" + "ab" * 32 + " orbital.hashoffset=4096 ro"
PAYLOAD = bytes(range(256)) * 3 + b"kernel"
KINDS = ("uki", "cpio", "fit")
FILES = {"boot.cfg": b"boot", "initrd": b"files", "vmlinuz": b"kernel"}
# Of the program's headers.
CHECKSUM, CERTIFICATES = 64 + 24 + 64, 64 + 24 + 144


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind that can be checked."""
    name: str = request.param
    return name


def damage(kind: str, data: bytes, **options: bool) -> str:
    """What is wrong; empty when nothing is."""
    try:
        check(kind, Artifact.of(data), **options)
    except DamageError as error:
        return str(error)
    return ""


def test_what_is_whole_is_whole(kind: str) -> None:
    data = make_artifact(kind, WORDS, PAYLOAD)
    assert check(kind, Artifact.of(data), must_be_signed=True) == Checked(len(data))


def test_what_lies_behind_it_in_its_partition_does_not_matter(kind: str) -> None:
    data = make_artifact(kind, WORDS, PAYLOAD)
    behind = data + make_artifact(kind, WORDS, PAYLOAD * 2)[len(data) :] + b"\xa5" * 5000
    if kind == "uki":
        # A file has its size; the firmware would count what follows into the digest.
        assert "header" in damage(kind, behind)
    else:
        assert check(kind, Artifact.of(behind)) == Checked(len(data))


def must_be_seen(kind: str, data: bytes) -> set[int]:
    """Bytes of which every wrong one is found.

    Not: the checksum, which no firmware looks at, and words within the signature (UKI); the
    header of the seal and what follows it (archive); padding, descriptions, and the names of
    nodes (FIT).
    """
    if kind == "uki":
        start, _ = struct.unpack_from("<II", data, CERTIFICATES)
        return set(range(start)) - set(range(CHECKSUM, CHECKSUM + 4))
    if kind == "cpio":
        at = data.index(b"sha256\0")
        return set(range(at - 110)) | set(range(at + 10, at + 10 + 65))
    pieces = (PAYLOAD, PAYLOAD[:99], f"setenv bootargs '{WORDS}'\n".encode())
    needed = (*pieces, *(hashlib.sha256(piece).digest() for piece in pieces))
    found = set(range(16)) | set(range(20, 27))
    for piece in (*needed, b"load\0entry", b"os\0", b"type", b"\x40\x40\0\0"):
        at = data.index(piece)
        found |= set(range(at, at + len(piece)))
    return found


def test_a_wrong_bit_in_any_byte_is_seen(kind: str) -> None:
    data = make_artifact(kind, WORDS, PAYLOAD)
    unseen = set()
    for at, byte in enumerate(data):
        changed = byte ^ (0x01, 0x80, 0xFF)[at % 3]
        if not damage(kind, data[:at] + bytes([changed]) + data[at + 1 :]):
            unseen.add(at)
    assert not unseen & must_be_seen(kind, data)
    assert len(unseen) < 200


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\xa5"])
@pytest.mark.parametrize("size", [16, 512, 2048])
def test_a_range_that_is_overwritten_is_seen(kind: str, fill: bytes, size: int) -> None:
    data = make_artifact(kind, WORDS, PAYLOAD)
    seen = must_be_seen(kind, data)
    for at in range(0, len(data), size // 4):
        changed = data[:at] + (fill * size)[: len(data) - at] + data[at + size :]
        if any(changed[place] != data[place] for place in seen):
            assert damage(kind, changed), at


def test_what_is_cut_short_is_seen(kind: str) -> None:
    data = make_artifact(kind, WORDS, PAYLOAD)
    for size in range(0, len(data), 37):
        assert damage(kind, data[:size]), size
        assert damage(kind, data[:size].ljust(len(data), b"\0")), size


@pytest.mark.parametrize("size", [0, 1, 40, 5000])
def test_noise_is_no_artifact(kind: str, size: int) -> None:
    assert damage(kind, b"\xa5" * size)


def test_an_unsigned_program_is_held_against_its_headers_only() -> None:
    data = make_uki(WORDS, PAYLOAD)
    assert "no signature" in check("uki", Artifact.of(data)).unchecked
    assert "is not signed" in damage("uki", data, must_be_signed=True)
    assert "cut short" in damage("uki", data[:-1])


def test_a_signature_of_which_the_header_says_nothing_is_damage() -> None:
    data = bytearray(make_artifact("uki", WORDS, PAYLOAD))
    data[CERTIFICATES : CERTIFICATES + 8] = bytes(8)
    assert "header" in damage("uki", bytes(data))


def test_a_signature_of_another_program_is_damage() -> None:
    mine, other = make_artifact("uki", WORDS, PAYLOAD), make_artifact("uki", WORDS, PAYLOAD[::-1])
    start, _ = struct.unpack_from("<II", mine, CERTIFICATES)
    assert len(mine) == len(other)
    assert "what its signature says" in damage("uki", mine[:start] + other[start:])


def test_an_archive_built_before_there_was_a_hash_may_be_damaged() -> None:
    data = make_cpio(FILES, sealed=False)
    assert "no hash" in check("cpio", Artifact.of(data)).unchecked
    assert "cut short" in damage("cpio", data[:-200])


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_cpio({name: b"" for name in FILES if name != "vmlinuz"}),
        lambda: make_cpio({**FILES, "other": b""}),
        lambda: make_cpio(FILES)[:-124] + make_cpio({"initrd": b"x"}, sealed=False),
    ],
    ids=["one is missing", "one too much", "behind the seal"],
)
def test_an_archive_with_other_files_is_damaged(make: Callable[[], bytes]) -> None:
    assert damage("cpio", make())


def test_a_fit_needs_its_hashes_and_parts() -> None:
    parts = {"kernel": b"k", "ramdisk": b"r", "arguments": b"a"}
    assert not damage("fit", make_fit(parts))
    assert not damage("fit", make_fit({**parts, "fdt": b"f"}))
    assert "no hash" in damage("fit", make_fit(parts, hashed=False))
    assert "no part arguments" in damage("fit", make_fit({"kernel": b"k", "ramdisk": b"r"}))


def test_of_other_kinds_nothing_is_known() -> None:
    assert "nothing is known" in check("fat", Artifact.of(b"x")).unchecked


def test_a_signed_program_stays_small_enough_to_be_a_seed() -> None:
    assert len(sign_pe(make_uki("x", b"k"))) < 4096
