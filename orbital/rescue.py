"""orbital rescue: what the rescue system does, and what a person lets it do."""

from __future__ import annotations

import argparse
import time

from orbital.output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of the group."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="what the rescue system does by itself, then a menu",
        description="Started on the console by the rescue system's init.",
    )
    run.set_defaults(handler=_run)


def _run(_args: argparse.Namespace, output: Output) -> int:
    from recovery import device
    from recovery.rescue.visit import begin

    visit = begin(device.load())
    output.line(f"orbital: rescue: entered ({visit.reason or 'no slot was left to start'})")
    while True:
        time.sleep(600)
