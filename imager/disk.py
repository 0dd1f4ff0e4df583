"""The factory disk: a GPT image with slot a filled, slot b empty, ESP and state.

No loop devices, no mounts, no root: file systems are made in files and copied
to their places. The same inputs give the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from imager.firmware.choose import firmware_of
from imager.firmware.kind import Factory
from imager.layout import DiskLayout, plan_layout, sfdisk_script, stable_uuid
from imager.tools import Tools
from manifests.board import Board
from recovery.device import decode
from recovery.errors import ManifestError, SpaceError
from recovery.reporter import Reporter
from recovery.rescue.statefs import MKFS_OPTIONS

_CHUNK = 4 << 20
# What of the first sector is not the partition table.
_BOOT_SECTOR = 440


def build_factory_disk(
    build: Path,
    board: Board,
    output: Path,
    tools: Tools,
    *,
    reporter: Reporter,
    size: int | None = None,
    compress: bool = False,
) -> list[Path]:
    """Writes the disk image (and OUTPUT.bmap, and OUTPUT.zst with compress instead of OUTPUT).

    build: a build directory of `imager.image`. size: of the disk in bytes, None
    for the smallest. Returns the files written.

    Raises ManifestError when the image does not fit the board, SpaceError when
    the host's disk is full; then no output appears.
    """
    config = decode((build / "device.json").read_bytes(), str(build / "device.json"))
    layout = plan_layout(board, size)
    firmware = firmware_of(board)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as directory:
            work = Path(directory)
            factory = Factory(build, board, layout, config, work)
            _check(factory)
            disk = work / "disk"
            reporter.stage("partition table")
            _make_table(disk, layout, tools)
            reporter.stage("boot partitions")
            for label, image in firmware.boot_partitions(factory, tools).items():
                _place(image, disk, layout.extent(label).start)
            for rescue in board.rescue_partitions:
                _place(build / "rescue.img", disk, layout.extent(rescue.label).start)
            _place_boot_sector(firmware.boot_sector(factory), disk)
            reporter.stage("slot a")
            _place(build / "root.img", disk, layout.extent(board.slot_partition("a").label).start)
            reporter.stage("state partition")
            state = _make_state(factory, tools)
            _place(state, disk, layout.extent(board.state_partition.label).start)
            return _finish(work, disk, output, tools, reporter, compress=compress)
    except OSError as error:
        raise SpaceError(
            f"cannot write {output}: {error.strerror}",
            resolution="make room or choose another --output",
        ) from error


def _check(factory: Factory) -> None:
    build, board, layout, config = factory.build, factory.board, factory.layout, factory.config
    if config.board != board.board:
        raise ManifestError(
            f"cannot make a disk for board {board.board} from {build}:"
            f" the image is for board {config.board}",
            resolution=f"use --board {config.board}, or build the image for {board.board}",
        )
    if board.rescue_partition is not None and not (build / "rescue.img").is_file():
        raise ManifestError(
            f"cannot make a disk from {build}: it has no rescue.img",
            details=f"board {board.board} has a partition with role rescue",
            resolution="build the image again, without --no-rescue",
        )
    slot = layout.extent(board.slot_partition("a").label)
    length = (build / "root.img").stat().st_size
    if length > slot.size:
        raise ManifestError(
            f"cannot put the image of {length >> 20} MiB into slot {slot.partition.label}"
            f" of {slot.size >> 20} MiB",
            resolution="make both slots larger in the board file, or the image smaller",
        )


def _make_table(disk: Path, layout: DiskLayout, tools: Tools) -> None:
    with disk.open("wb") as out:
        out.truncate(layout.size)
    tools.run("sfdisk", "--quiet", disk, stdin=sfdisk_script(layout))


def _place_boot_sector(code: bytes, disk: Path) -> None:
    if len(code) > _BOOT_SECTOR:
        raise ValueError(f"{len(code)} bytes do not fit before the partition table")
    with disk.open("r+b") as out:
        out.write(code)


def _make_state(factory: Factory, tools: Tools) -> Path:
    """An empty ext4; the first boot creates what it needs in it.

    The verity feature is for signed packages (fs-verity) and can stay unused.
    """
    board, config = factory.board, factory.config
    image = factory.work / "state"
    extent = factory.layout.extent(board.state_partition.label)
    with image.open("wb") as out:
        out.truncate(extent.size)
    identity = stable_uuid(board.board, "state")
    tools.run(
        "mkfs.ext4", *MKFS_OPTIONS, "-U", identity,
        # root_owner: the builder need not be root. lazy_*_init off: nothing is left
        # to write at the first mount, and the bytes do not depend on the kernel.
        "-E", f"hash_seed={identity},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0",
        image,
        env={"E2FSPROGS_FAKE_TIME": str(config.built), "SOURCE_DATE_EPOCH": str(config.built)},
    )  # fmt: skip
    return image


def _place(source: Path, disk: Path, offset: int) -> None:
    """Copies the data of a sparse file into the disk at offset; holes stay holes."""
    with source.open("rb") as src, disk.open("r+b") as out:
        position = 0
        while True:
            try:
                start = os.lseek(src.fileno(), position, os.SEEK_DATA)
            except OSError:
                return  # only a hole is left
            end = os.lseek(src.fileno(), start, os.SEEK_HOLE)
            position = start
            while position < end:
                data = os.pread(src.fileno(), min(_CHUNK, end - position), position)
                if any(data):
                    os.pwrite(out.fileno(), data, offset + position)
                position += len(data)


def _finish(
    work: Path, disk: Path, output: Path, tools: Tools, reporter: Reporter, *, compress: bool
) -> list[Path]:
    reporter.stage("block map")
    bmap = work / "bmap"
    tools.run("bmaptool", "--quiet", "create", "--output", bmap, disk)
    results = [(bmap, Path(f"{output}.bmap"))]
    if compress:
        reporter.stage("compress")
        packed = work / "disk.zst"
        tools.run("zstd", "-q", "-T0", "-9", disk, "-o", packed)
        results.append((packed, Path(f"{output}.zst")))
    else:
        results.append((disk, output))
    # The disk appears last: whoever sees it finds its map beside it.
    for source, target in results:
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        source.rename(target)
    return [target for _, target in results]
