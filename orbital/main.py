"""The command line: finds the group, loads only that one, turns errors into exit codes.

Runs on small devices, so a group's module (and all it needs) is imported only
when the group is named, and this file imports little itself.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from orbital.output import Output, ReaderGone
from recovery.errors import OrbitalError, RefusedError

VERSION = "0.1.0"

INTERRUPTED = 130
BROKEN_PIPE = 141

_DESCRIPTION = "Builds, updates and recovers the operating system of devices."
_EXIT_CODES = """\
exit codes:
  0 done · 1 failed · 2 wrong usage · 3 manifest · 4 trust · 5 fetch · 6 refused
  7 boot control · 8 tool · 9 state · 10 space · 11 package change taken back · 130 interrupted
"""


class Group(NamedTuple):
    """A group of commands: the module that implements it and where it runs."""

    module: str
    place: str
    help: str


GROUPS = {
    "image": Group("orbital.image", "host", "build OS images and factory disks"),
    "keys": Group("orbital.keys", "host", "make and inspect signing keys"),
    "repository": Group("orbital.repository", "host", "publish images for devices to fetch"),
    "board": Group("orbital.board", "host", "list, check and show boards"),
    "manifest": Group("orbital.manifest", "host", "check manifests, print their JSON Schemas"),
    "qemu": Group("orbital.qemu", "host", "run images on emulated boards"),
    "demo": Group("orbital.demo", "host", "show an update and a rollback from start to end"),
    "package": Group(
        "orbital.package", "device", "install, update, remove and inspect feature packages"
    ),
    "audit": Group("orbital.audit", "device", "who changed what on this device"),
    "rescue": Group("orbital.rescue", "rescue system", "diagnose, repair and reset a device"),
    "system": Group("orbital.system", "device", "update, roll back and inspect this device's OS"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Wrong usage raises SystemExit(2)."""
    words = list(sys.argv[1:] if argv is None else argv)
    group = next((word for word in words if not word.startswith("-")), "")
    output = Output(json="--json" in words)
    try:
        parser, group_parser = _parsers(group)
        args = parser.parse_args(words)
        output = Output(json=args.json, verbose=args.verbose)
        if not hasattr(args, "handler"):
            group_parser.print_help(sys.stderr)
            return 2
        code = int(args.handler(args, output))
        output.close()
        return code
    except KeyboardInterrupt:
        output.error(_Interrupted())
        return INTERRUPTED
    except ReaderGone:
        # What is still buffered must not be flushed when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (OrbitalError, OSError) as error:
        if output.verbose:
            sys.excepthook(type(error), error, error.__traceback__)
        known = error if isinstance(error, OrbitalError) else _system_error(error)
        output.error(known)
        return known.exit_code


def _parsers(group: str) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """The whole parser, and the part of it that belongs to the named group."""
    parser = argparse.ArgumentParser(
        prog="orbital",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"orbital {VERSION}")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    parser.add_argument("--verbose", action="store_true", help="show where an error comes from")
    groups = parser.add_subparsers(title="groups", metavar="GROUP")
    if group not in GROUPS:
        for name, entry in GROUPS.items():
            groups.add_parser(name, help=f"{entry.help} ({entry.place})")
        return parser, parser
    entry = GROUPS[group]
    group_parser = groups.add_parser(
        group, help=entry.help, description=f"{entry.help[0].upper()}{entry.help[1:]}."
    )
    _load(group, entry).configure(group_parser)
    _add_output_options(group_parser)
    return parser, group_parser


def _load(name: str, group: Group) -> _GroupModule:
    """The module of a group. Raises RefusedError when it cannot run here."""
    try:
        return importlib.import_module(group.module)  # type: ignore[return-value]
    except ModuleNotFoundError as error:
        raise RefusedError(
            f"cannot run 'orbital {name}' here: Python module {error.name} is not installed",
            details=f"'orbital {name}' is made to run on the {group.place}",
            resolution=(
                "on a build host, install Orbital with its dependencies (see README.md)"
                if group.place == "host"
                else "run it on a device whose image was built by Orbital"
            ),
        ) from error


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    """Lets --json and --verbose follow the command as well as precede it."""
    nested = [item for item in parser._actions if isinstance(item, argparse._SubParsersAction)]
    for action in nested:
        for child in {id(child): child for child in action.choices.values()}.values():
            _add_output_options(child)
    if nested:
        return
    for option, text in (
        ("--json", "print one JSON document on stdout"),
        ("--verbose", "show where an error comes from"),
    ):
        if option not in parser._option_string_actions:
            parser.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=text)


class _GroupModule:
    """What a group's module offers (a module is not a class: for the type checker only)."""

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        """Adds the group's commands to its parser."""


class _Interrupted(OrbitalError):
    """The user pressed Ctrl-C."""

    exit_code = INTERRUPTED
    kind = "interrupted"

    def __init__(self) -> None:
        super().__init__("cannot finish: interrupted")


def _system_error(error: OSError) -> OrbitalError:
    """What the operating system refused, as one of our errors."""
    where = f" {error.filename}" if error.filename else ""
    return OrbitalError(
        f"cannot use{where or ' the system'}: {error.strerror or error}",
        resolution="run again with --verbose to see where this comes from",
    )


if __name__ == "__main__":
    sys.exit(main())
