"""A torn ext4 superblock: found by the power-cut campaign, at the first mount of a factory disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery import process
from recovery.early import check_filesystem
from recovery.superblock import OFFSET, SIZE, checksum, reseal, torn


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A file system of one block group, as on a board with a small disk: without a copy."""
    path = tmp_path / "state"
    with path.open("wb") as out:
        out.truncate(64 << 20)
    process.run(["mkfs.ext4", "-q", "-b", "4096", "-O", "metadata_csum", path])
    return path


def _superblock(device: Path) -> bytes:
    return device.read_bytes()[OFFSET : OFFSET + SIZE]


def _tear(device: Path) -> None:
    """The first sector of a newer superblock has arrived, the second has not."""
    first = bytearray(_superblock(device)[:512])
    first[0x2C:0x34] = b"\x80\x70\x60\x50\x80\x70\x60\x50"  # Times of mount and of write.
    first[0x34] += 1  # Mounts since the last check.
    with device.open("r+b") as out:
        out.seek(OFFSET)
        out.write(first)


def test_the_checksum_is_that_of_mkfs(device: Path) -> None:
    whole = _superblock(device)
    assert not torn(whole)
    assert checksum(whole).to_bytes(4, "little") == whole[-4:]
    assert not reseal(device)
    assert _superblock(device) == whole


def test_a_torn_superblock_is_repaired_by_the_check_of_early_boot(device: Path) -> None:
    _tear(device)
    assert torn(_superblock(device))
    assert process.run(["e2fsck", "-f", "-y", device], check=False).returncode >= 8
    assert check_filesystem(device, "-p").endswith(("code 0", "code 1"))
    assert process.run(["e2fsck", "-f", "-n", device], check=False).returncode == 0


def test_what_is_no_ext4_is_left_alone(tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(bytes(range(256)) * 16)
    assert not reseal(noise)
    assert noise.read_bytes() == bytes(range(256)) * 16
    (tmp_path / "short").write_bytes(b"short")
    assert not reseal(tmp_path / "short")
