"""`orbital board`: the boards that images can be built for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from imager.builddir import open_build
from manifests.board import Board
from manifests.board_problems import Contents, size_problems
from manifests.catalogue import find, load_board, names
from manifests.checking import Checked, check_document
from manifests.document import read_document, refuse
from manifests.sizes import Size, size_text
from orbital.checked import print_checked
from orbital.output import Output
from recovery.errors import ManifestError

_HEADINGS = ("BOARD", "ARCHITECTURE", "FIRMWARE", "BOOT CONTROL", "WATCHDOG", "QEMU", "SUMMARY")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of the group."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    listing = commands.add_parser(
        "list",
        help="list all boards",
        description="Lists the boards in boards/: firmware, what counts tries and chooses the "
        "slot, hardware watchdog, and whether QEMU can boot it (orbital qemu).",
    )
    listing.set_defaults(handler=_list)
    check = commands.add_parser(
        "check",
        help="check boards for mistakes",
        description="Checks boards: every mistake is named with file, line, key and fix. "
        "Exits with 3 when there is one.",
    )
    check.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        metavar="BUILD",
        help="also check that what this build directory holds fits the slots of the board; "
        "may be repeated",
    )
    check.add_argument(
        "board", nargs="*", metavar="BOARD", help="name or YAML file; without one, all boards"
    )
    check.set_defaults(handler=_check)
    show = commands.add_parser(
        "show",
        help="show one board",
        description="Shows firmware, disk layout, watchdog and emulation of a board.",
    )
    show.add_argument("board", metavar="BOARD", help="name or YAML file")
    show.set_defaults(handler=_show)


def _list(args: argparse.Namespace, output: Output) -> int:  # noqa: ARG001
    boards = [load_board(find("board", name)) for name in names("board")]
    rows = [
        {
            "board": board.board,
            "architecture": board.architecture,
            "firmware": board.firmware.kind,
            "boot_control": board.boot_control,
            "watchdog": board.watchdog.driver if board.watchdog else None,
            "qemu": board.qemu is not None,
            "summary": board.summary,
        }
        for board in boards
    ]
    output.result({"boards": rows}, _columns([_HEADINGS, *(_cells(row) for row in rows)]))
    return 0


def _cells(row: Mapping[str, object]) -> list[str]:
    """A row of the listing for people."""
    return [
        ("yes" if value else "no") if isinstance(value, bool) else str(value or "none")
        for value in row.values()
    ]


def _check(args: argparse.Namespace, output: Output) -> int:
    files = [find("board", name) for name in args.board or names("board")]
    checked = [check_document(file) for file in files]
    checked += [_fitting(build, files) for build in args.image]
    return print_checked(checked, output)


def _fitting(build: Path, files: Sequence[Path]) -> Checked:
    """Whether the build directory fits its board, which must be one of those files."""
    from imager.firmware.choose import firmware_of

    kind = "image"
    try:
        image = open_build(build)
        name = image.index.board
        board_file = next((file for file in files if _name(file) == name), None)
        if board_file is None:
            raise ManifestError(
                f"cannot check {build}: it is for board {name}, which is none of those checked",
                resolution=f"check {name}, or build the image for another board",
            )
        board = load_board(board_file)
        loader = build / "loader"
        beside = sum(path.stat().st_size for path in loader.iterdir()) if loader.is_dir() else 0
        contents = Contents(
            name=build.name,
            root=image.root_image.stat().st_size,
            boot=image.boot_artifact.stat().st_size,
            room=firmware_of(board).room_for_artifact(board, beside),
        )
        refuse(str(board_file), read_document(board_file), list(size_problems(board, contents)))
    except ManifestError as error:
        return Checked(build, kind, error)
    return Checked(build, kind)


def _name(file: Path) -> str:
    """The board's name as its file says it, or "" when that cannot be read."""
    try:
        return load_board(file).board
    except ManifestError:
        return ""


def _show(args: argparse.Namespace, output: Output) -> int:
    board = load_board(find("board", args.board))
    data: dict[str, object] = msgspec.to_builtins(board, enc_hook=_bytes)
    output.result(data, describe(board))
    return 0


def describe(board: Board) -> str:
    """A board for people."""
    secure = ", Secure Boot" if board.firmware.secure_boot else ""
    watchdog = board.watchdog
    rows = [
        ("board", f"{board.board} ({board.architecture})"),
        ("summary", board.summary),
        ("firmware", f"{board.firmware.kind}{secure}"),
        ("boot control", board.boot_control),
        ("kernel", board.kernel.package),
        ("console", board.console),
        (
            "watchdog",
            f"{watchdog.driver}, {watchdog.timeout_seconds} s, armed by {watchdog.boot_stage}"
            if watchdog and watchdog.boot_stage != "none"
            else f"{watchdog.driver}, {watchdog.timeout_seconds} s, armed by the initramfs"
            if watchdog
            else "none",
        ),
    ]
    for number, part in enumerate(board.layout.partitions, start=1):
        role = f"slot {part.slot}" if part.slot else part.role
        grows = ", grows" if part.grow else ""
        rows.append(
            (f"partition {number}", f"{part.label:<12} {size_text(part.size):<8} {role}{grows}")
        )
    if board.qemu:
        rows.append(("emulation", f"{board.qemu.binary} -machine {board.qemu.machine}"))
    return _columns(rows)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows with their cells aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _bytes(value: object) -> object:
    """Sizes as a number of bytes, for JSON."""
    if isinstance(value, Size):
        return int(value)
    raise NotImplementedError(type(value))
