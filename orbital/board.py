"""`orbital board`: the boards that images can be built for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec

from manifests.board import Board
from manifests.catalogue import find, load_board, names
from manifests.checking import check_document
from manifests.sizes import Size, size_text
from orbital.checked import print_checked
from orbital.output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of the group."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    listing = commands.add_parser(
        "list", help="list all boards", description="Lists the boards in boards/."
    )
    listing.set_defaults(handler=_list)
    check = commands.add_parser(
        "check",
        help="check boards for mistakes",
        description="Checks boards: every mistake is named with file, line, key and fix. "
        "Exits with 3 when there is one.",
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
        (board.board, board.architecture, board.boot_control, board.summary) for board in boards
    ]
    keys = ("board", "architecture", "boot_control", "summary")
    data = {"boards": [dict(zip(keys, row, strict=True)) for row in rows]}
    output.result(data, _columns(rows))
    return 0


def _check(args: argparse.Namespace, output: Output) -> int:
    wanted = args.board or names("board")
    return print_checked([check_document(find("board", name)) for name in wanted], output)


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
