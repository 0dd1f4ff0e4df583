"""The program `restart` in the initramfs of boards whose firmware takes an argument of reboot(2).

The Raspberry Pi's does: the number of the partition to start from. busybox passes none, and
nothing else in an initramfs can. One source for each architecture.
"""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path

from imager.tools import Tools
from manifests.board import Architecture, Board
from recovery.errors import ManifestError

_TARGETS: dict[Architecture, str] = {"aarch64": "aarch64-linux-gnu"}


def restart_source(board: Board) -> str:
    """Its source; empty for a board that needs none. Raises ManifestError when there is none."""
    if board.boot_control != "tryboot" or board.rescue_partition is None:
        return ""
    if board.architecture not in _TARGETS:
        raise ManifestError(
            f"cannot build for board {board.board}: its initramfs could not ask for rescue",
            details=f"no program that restarts with an argument for {board.architecture}",
            resolution=f"write imager/initramfs/restart.{board.architecture}.s",
        )
    name = f"restart.{board.architecture}.s"
    return resources.files("imager").joinpath("initramfs", name).read_text()


def build_restart(board: Board, tools: Tools) -> bytes:
    """The program, static; empty for a board that needs none. The same source gives the same
    bytes. Raises ManifestError, ToolError."""
    source = restart_source(board)
    if not source:
        return b""
    with tempfile.TemporaryDirectory(prefix="orbital-restart.") as directory:
        where = Path(directory)
        where.joinpath("restart.s").write_text(source)
        target = _TARGETS[board.architecture]
        tools.run("clang", f"--target={target}", "-c", "restart.s", "-o", "restart.o", cwd=where)
        # The tools' lld is called lld-link; its first argument makes it the linker of ELF files.
        tools.run(
            "lld-link", "-flavor", "gnu", "-static", "--strip-all", "--build-id=none",
            "-z", "max-page-size=4096", "-o", "restart", "restart.o",
            cwd=where,
        )  # fmt: skip
        return where.joinpath("restart").read_bytes()
