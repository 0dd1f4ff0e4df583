"""`orbital qemu`: boots images on the emulated board, on the terminal or for one command."""

from __future__ import annotations

import argparse
import os
import select
import shutil
import sys
import tempfile
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from imager.cache import Cache, default_directory
from imager.secureboot import write_variable_store
from imager.tools import prepare_tools
from manifests.board import Board
from manifests.catalogue import find, load_board
from manifests.sizes import Size
from orbital.output import Output
from qemu.hardware import Forward, Hardware, of_board
from qemu.machine import Machine
from recovery.errors import ManifestError, RefusedError

_ESCAPE = b"\x01"
_KEYS = "Ctrl-A x switches off, Ctrl-A r resets, Ctrl-A a types Ctrl-A"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of the group."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="boot a disk image with its console on the terminal",
        description="Boots a disk image on the emulated board, its serial console on the "
        f"terminal, until it powers off. {_KEYS}. The image itself is never written.",
    )
    _add_machine_options(run)
    run.set_defaults(handler=_run)
    execute = commands.add_parser(
        "exec",
        help="boot a disk image and run one command in it",
        description="Boots a disk image, runs a command in it as root and exits with the "
        "command's exit code. The root shell comes from the machine (a systemd credential), "
        "so the image needs nothing for it.",
    )
    _add_machine_options(execute)
    execute.add_argument("command", metavar="COMMAND", help="a shell script, as one word")
    execute.add_argument(
        "--timeout",
        type=float,
        default=300,
        metavar="SECONDS",
        help="for the boot and the command together (default %(default)s)",
    )
    execute.set_defaults(handler=_execute)


def _add_machine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("disk", type=Path, metavar="DISK", help="disk image, raw or qcow2")
    parser.add_argument(
        "--board", default="qemu-x86_64", help="name or path of the board (default %(default)s)"
    )
    parser.add_argument(
        "--keys", type=Path, metavar="DIR", help="keys of 'orbital keys make' to enroll"
    )
    parser.add_argument(
        "--no-secure-boot", action="store_true", help="boot with no keys enrolled, signed or not"
    )
    parser.add_argument("--no-network", action="store_true", help="leave the network card out")
    parser.add_argument(
        "--forward",
        type=_forward,
        action="append",
        default=[],
        metavar="HOST:GUEST",
        help="lead a TCP port of the host's loopback to a port of the guest",
    )
    parser.add_argument(
        "--disk-size", type=_size, metavar="SIZE", help="make the disk larger, e.g. 8GiB"
    )
    parser.add_argument(
        "--memory", type=_size, metavar="SIZE", help="instead of the board's, e.g. 2GiB"
    )
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="keep the machine's disk, variables and logs here for the next run "
        "(default: changes are thrown away)",
    )


def _forward(text: str) -> Forward:
    host, _, guest = text.partition(":")
    try:
        ports = int(host), int(guest)
    except ValueError:
        ports = 0, 0
    if not all(0 < port < 65536 for port in ports):
        raise argparse.ArgumentTypeError(f"expected two ports like 8080:80, got {text!r}")
    return Forward(*ports)


def _size(text: str) -> int:
    try:
        return Size.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a size like 8GiB, got {text!r}") from None


@contextmanager
def _machine(args: argparse.Namespace, output: Output, *, with_shell: bool) -> Iterator[Machine]:
    """The machine, off, in its directory."""
    if not args.disk.is_file():
        raise ManifestError(
            f"cannot boot {args.disk}: no such file",
            resolution="make a disk image with 'orbital image factory'",
        )
    board = load_board(find("board", args.board))
    _check_keys(board, args)
    tools = prepare_tools(Cache(default_directory(), output.reporter))
    hardware = _hardware(of_board(board, tools.directory / "tree"), args)
    directory: Path = args.directory or Path(tempfile.mkdtemp(prefix="orbital-qemu-"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        variables = hardware.firmware_variables
        if variables and args.keys and not args.no_secure_boot:
            enrolled = directory / "enrolled.fd"
            write_variable_store(tools, variables, args.keys, enrolled)
            variables = enrolled
        yield Machine(
            hardware,
            args.disk,
            directory,
            variables=variables,
            disk_size=args.disk_size,
            network=not args.no_network,
            forwards=args.forward,
            shell=with_shell,
        )
    finally:
        if not args.directory:
            shutil.rmtree(directory, ignore_errors=True)


def _check_keys(board: Board, args: argparse.Namespace) -> None:
    if board.firmware.secure_boot and not args.keys and not args.no_secure_boot:
        raise RefusedError(
            f"cannot boot {args.disk}: board {board.board} has Secure Boot and no keys are given",
            resolution="add --keys DIR to enroll the image's keys, or --no-secure-boot",
        )


def _hardware(hardware: Hardware, args: argparse.Namespace) -> Hardware:
    return replace(hardware, memory=args.memory >> 20) if args.memory else hardware


def _run(args: argparse.Namespace, output: Output) -> int:
    with _machine(args, output, with_shell=False) as machine:
        # With --json stdout is for the document.
        screen = sys.stderr.buffer if output.json else sys.stdout.buffer

        def show(data: bytes) -> None:
            screen.write(data)
            screen.flush()

        machine.console_listener = show
        output.line(_KEYS)
        with machine, _raw_terminal() as keyboard:
            converse(machine, keyboard)
            seconds = round(machine.uptime, 1)
        output.result(
            {"disk": str(args.disk), "seconds": seconds},
            f"\nthe machine is off after {seconds:g} s",
        )
    return 0


def converse(machine: Machine, keyboard: int | None) -> None:
    """Types what the user types until the machine ends or is switched off."""
    escaped = False
    while machine.running:
        if keyboard is None:
            select.select([], [], [], 0.2)
            continue
        if not select.select([keyboard], [], [], 0.2)[0]:
            continue
        data = os.read(keyboard, 1024)
        if not data:
            keyboard = None
        for key in (data[index : index + 1] for index in range(len(data))):
            if escaped and key == b"x":
                return
            if escaped and key == b"r":
                machine.reset()
            elif key == _ESCAPE and not escaped:
                escaped = True
                continue
            else:
                machine.console.write(key)
            escaped = False


@contextmanager
def _raw_terminal() -> Iterator[int | None]:
    """Standard input, every key at once; None when it is no terminal."""
    if not sys.stdin.isatty():
        yield None
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _execute(args: argparse.Namespace, output: Output) -> int:
    with _machine(args, output, with_shell=True) as machine, machine:
        output.reporter.stage("boot")
        machine.wait_shell(args.timeout)
        output.reporter.stage("command")
        remaining = max(1.0, args.timeout - machine.uptime)
        result = machine.run(args.command, remaining, check=False)
        output.result(
            {"returncode": result.returncode, "output": result.output, "seconds": result.seconds},
            result.output.rstrip("\n"),
        )
        if args.directory:
            # The disk is kept: let the guest write all it has.
            machine.stop()
        return result.returncode
