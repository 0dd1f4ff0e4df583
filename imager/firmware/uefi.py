"""UEFI: systemd-boot, one signed UKI for each slot on the ESP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from imager import bzimage, signing
from imager.cache import Input
from imager.firmware import efi_driver, systemd_boot, uki
from imager.firmware.efi_driver import (
    DRIVERS,
    TARGETS,
    build_loads_driver,
    build_watchdog_driver,
)
from imager.firmware.fat import make_fat
from imager.firmware.kind import Factory, Ingredients, check_rescue
from imager.firmware.systemd_boot import (
    LOADER_CONF,
    LOADER_PATHS,
    RESCUE_ENTRY,
    driver_path,
    loader_source,
    rescue_entry,
)
from imager.firmware.uki import build_uki
from imager.signing import PeSigner
from imager.tools import Tools
from manifests.board import Board
from recovery.bootcontrol.systemd_boot import entry_text

# Entries, and FAT's own tables.
_MARGIN = 4 << 20
_RESCUE_MARGIN = 2 << 20


class Uefi:
    """See `imager.firmware.kind.Firmware`."""

    artifact_kind = "uki"
    packages = ("systemd-boot-efi",)

    def artifact_inputs(self, signer: PeSigner) -> Mapping[str, Input]:
        """The signature."""
        return {
            "signer": signer.identity,
            "code": [Path(str(module.__file__)) for module in (uki, bzimage, signing)],
        }

    def build_artifact(
        self, ingredients: Ingredients, output: Path, signer: PeSigner, tools: Tools
    ) -> None:
        """A signed UKI."""
        build_uki(
            architecture=ingredients.board.architecture,
            linux=ingredients.linux,
            initramfs=ingredients.initramfs,
            command_line=ingredients.command_line,
            os_release=ingredients.os_release,
            uname=ingredients.uname,
            signer=signer,
            output=output,
            tools=tools,
            packed=ingredients.packed,
        )

    def loader_inputs(self, board: Board, signer: PeSigner) -> Mapping[str, Input]:
        """Architecture, watchdog, signature."""
        code = Path(str(efi_driver.__file__))
        return {
            "architecture": board.architecture,
            "watchdog": repr(board.watchdog),
            "rescue": repr(board.rescue_partition),
            "signer": signer.identity,
            "code": [
                code,
                code.parent / "efi",
                Path(str(signing.__file__)),
                Path(str(systemd_boot.__file__)),
            ],
        }

    def build_loader(self, board: Board, directory: Path, signer: PeSigner, tools: Tools) -> None:
        """loader.efi and drivers, signed: watchdog.efi if the board arms one, loads.efi if rescue
        is there to be started by it."""
        signer.sign(tools.file(loader_source(board.architecture)), directory / "loader.efi")
        if board.watchdog and board.watchdog.boot_stage == "efi-driver":
            build_watchdog_driver(
                board.watchdog, board.architecture, signer, directory / "watchdog.efi", tools
            )
        if board.rescue_partition and board.architecture in TARGETS:
            build_loads_driver(board.architecture, signer, directory / "loads.efi", tools)

    def room_for_artifact(self, board: Board, loader: int) -> int:
        """One artifact a slot, and a third while an update stages its own."""
        return (board.boot_partition.size - loader - _MARGIN) // 3

    def loader_copies(
        self, board: Board, loader: Path, _work: Path, _tools: Tools, *, built: int
    ) -> Mapping[str, Path | bytes]:
        """The ESP but for artifacts and entries."""
        del built
        return _loader_files(board, loader)

    def write_rescue(
        self, board: Board, artifact: Path, output: Path, tools: Tools, *, built: int
    ) -> None:
        """A FAT with the artifact where firmware looks by itself, and an entry for systemd-boot.

        The loader reads the entry because of the partition's type (XBOOTLDR); the firmware finds
        the artifact, named like a loader, when the ESP's is gone.
        """
        part = board.rescue_partition
        assert part is not None  # The caller builds rescue for boards with one.
        check_rescue(board, artifact.stat().st_size + _RESCUE_MARGIN)
        path = LOADER_PATHS[board.architecture]
        files: dict[str, Path | bytes] = {
            path: artifact,
            f"loader/entries/{RESCUE_ENTRY}": rescue_entry(path).encode(),
            "loader/entries.srel": b"type1\n",
        }
        make_fat(output, part.size, files, tools, name="RESCUE", built=built)

    def boot_partitions(self, factory: Factory, tools: Tools) -> Mapping[str, Path]:
        """The ESP: loader, drivers, artifact and entry of slot a."""
        board = factory.board
        files: dict[str, Path | bytes] = {
            **_loader_files(board, factory.loader),
            # The factory's generation is committed: no tries to count. 1 is the first
            # activation number.
            "loader/entries/orbital-a.conf": entry_text("a", 1).encode(),
            "EFI/orbital/a.efi": factory.artifact,
        }
        label = board.boot_partition.label
        image = factory.work / label
        size = factory.layout.extent(label).size
        make_fat(image, size, files, tools, name="ESP", built=factory.config.built)
        return {label: image}

    def boot_sector(self, _factory: Factory) -> bytes:
        """Firmware reads the ESP."""
        return b""


def _loader_files(board: Board, loader: Path) -> dict[str, Path | bytes]:
    """What lies on every ESP of the board, whatever is in the slots."""
    files: dict[str, Path | bytes] = {
        "loader/loader.conf": LOADER_CONF.encode(),
        "loader/entries.srel": b"type1\n",
        LOADER_PATHS[board.architecture]: loader / "loader.efi",
    }
    for name in DRIVERS:
        if (loader / f"{name}.efi").exists():
            files[driver_path(name, board.architecture)] = loader / f"{name}.efi"
    return files
