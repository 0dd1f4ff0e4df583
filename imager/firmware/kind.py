"""What the imager asks of a kind of firmware; one module beside this one for each kind."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from imager.cache import Input
from imager.layout import DiskLayout
from imager.signing import PeSigner
from imager.tools import Tools
from manifests.board import ALIGNMENT, Board
from recovery.device import DeviceConfig
from recovery.errors import ManifestError


@dataclass(frozen=True)
class Ingredients:
    """What a boot artifact is made of.

    linux: the kernel as Debian packs it. device_tree: of the board, None for the
    firmware's own. uname: the kernel's release. os_release: the image's, with
    IMAGE_ID and IMAGE_VERSION. built: seconds since the epoch. firmware_files: by name,
    as `imager.firmware_files` fetched them. packed: the kernel stays or gets compressed, for an
    artifact that no update makes deltas of.
    """

    board: Board
    linux: Path
    initramfs: Path
    command_line: str
    os_release: bytes
    uname: str
    built: int
    device_tree: Path | None = None
    firmware_files: Mapping[str, Path] = field(default_factory=dict)
    packed: bool = False


FIRMWARE_IMAGE = "firmware.img"


@dataclass(frozen=True)
class Factory:
    """What goes onto a factory disk. build: the build directory. work: for scratch files."""

    build: Path
    board: Board
    layout: DiskLayout
    config: DeviceConfig
    work: Path

    @property
    def artifact(self) -> Path:
        """The boot artifact of the image."""
        return self.build / "boot.img"

    @property
    def loader(self) -> Path:
        """What `Firmware.build_loader` made."""
        return self.build / "loader"


class Firmware(Protocol):
    """One kind of firmware with its boot loader.

    artifact_kind: as the index and the device call the boot artifact. packages:
    Debian packages of the tools tree of which something reaches the disk.
    """

    @property
    def artifact_kind(self) -> str: ...

    @property
    def packages(self) -> tuple[str, ...]: ...

    def artifact_inputs(self, signer: PeSigner) -> Mapping[str, Input]:
        """What the artifact depends on besides its ingredients and the tools."""

    def build_artifact(
        self, ingredients: Ingredients, output: Path, signer: PeSigner, tools: Tools
    ) -> None:
        """Writes the boot artifact; the same inputs give the same bytes.

        Raises ManifestError when the board cannot have one, ToolError.
        """

    def loader_inputs(self, board: Board, signer: PeSigner) -> Mapping[str, Input]:
        """What the loader depends on besides the tools."""

    def build_loader(self, board: Board, directory: Path, signer: PeSigner, tools: Tools) -> None:
        """Writes into the directory what the factory puts before the slots; may be nothing."""

    def room_for_artifact(self, board: Board, loader: int) -> int:
        """Bytes that a boot artifact may have. loader: bytes that `build_loader` wrote."""

    def loader_copies(
        self, board: Board, loader: Path, work: Path, tools: Tools, *, built: int
    ) -> Mapping[str, Path | bytes]:
        """What the rescue system can put back in front of the slots, by path.

        Files as they lie on the ESP, or `FIRMWARE_IMAGE`, the whole partition that firmware
        reads. loader: what `build_loader` made. work: for scratch files. May be nothing.
        """

    def write_rescue(
        self, board: Board, artifact: Path, output: Path, tools: Tools, *, built: int
    ) -> None:
        """Writes what the factory puts into the partition rescue.

        artifact: the boot artifact of the rescue system (`build_artifact`). Raises ManifestError
        when it does not fit.
        """

    def boot_partitions(self, factory: Factory, tools: Tools) -> Mapping[str, Path]:
        """Images of the partitions that make a factory device boot slot a, by label."""

    def boot_sector(self, factory: Factory) -> bytes:
        """What goes into the first 440 bytes of the disk: at most so many, or none."""


def raw_rescue(board: Board, artifact: Path, output: Path) -> None:
    """`Firmware.write_rescue` where the partition holds the artifact as it is."""
    check_rescue(board, artifact.stat().st_size)
    shutil.copyfile(artifact, output)


def check_rescue(board: Board, needed: int) -> None:
    """Raises ManifestError when a partition for rescue has less than needed bytes."""
    for part in board.rescue_partitions:
        if needed > part.size:
            raise ManifestError(
                f"cannot put the rescue system of {needed} bytes into the partition {part.label}"
                f" of {part.size} bytes",
                resolution=f'write size "{-(-needed // ALIGNMENT)}MiB" for it in the board file',
            )
