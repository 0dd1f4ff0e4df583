"""orbital audit: who changed what on this device, and whether the record of it is whole."""

from __future__ import annotations

import argparse
import time

from orbital.output import Output
from recovery.errors import StateError
from recovery.value import fields


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the group, which is one command."""
    parser.description = (
        "Shows who asked this device to change what, and with which result: packages, the OS, "
        "refusals and what the device did by itself. Each line holds the hash of the line "
        "before it; --verify follows that chain. Exit code 9 when it is broken."
    )
    parser.add_argument(
        "--verify", action="store_true", help="check the chain of hashes; name the first break"
    )
    parser.add_argument("--package", metavar="NAME", help="only what concerns this package")
    parser.add_argument(
        "-n",
        "--last",
        type=int,
        metavar="N",
        help="only the last N (0: all; default: 50, with --json all)",
    )
    parser.set_defaults(handler=_audit)


def _audit(args: argparse.Namespace, output: Output) -> int:
    from recovery.audit import Audit, verify
    from recovery.state import STATE_ROOT

    if args.verify:
        found = verify(STATE_ROOT)
        if found.broken:
            raise StateError(
                f"cannot trust the audit trail: {found.broken}",
                details=f"entries {found.first} to {found.last} before it are in order",
                resolution="something has changed it; compare it with a copy kept elsewhere",
            )
        torn = f", {found.torn} torn by power cuts" if found.torn else ""
        output.result(
            {**fields(found), "intact": True},
            f"intact: entries {found.first} to {found.last}{torn}\nnewest hash: {found.head}",
        )
        return 0
    entries = Audit(STATE_ROOT).entries()
    if args.package:
        from updater.packages.past import concerns

        entries = tuple(entry for entry in entries if concerns(entry, args.package))
    last = args.last if args.last is not None else 0 if output.json else 50
    if last > 0:
        entries = entries[-last:]
    lines = []
    for entry in entries:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.time))
        lines.append(
            f"{entry.seq:>5}  {when}  {entry.what:<20} {entry.subject}  {entry.result}, "
            f"by {entry.who}" + _indented(entry.detail)
        )
    output.result(
        {"entries": [fields(entry) for entry in entries]}, "\n".join(lines) or "nothing yet"
    )
    return 0


def _indented(text: str) -> str:
    return "".join(f"\n         {line}" for line in text.splitlines())
