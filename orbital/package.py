"""orbital package: features that come, go, and are updated on their own."""

from __future__ import annotations

import argparse
import importlib
import importlib.util

from orbital import package_show, package_verbs

# Host only; not an import, so that the image does not ship it (imager.agent).
_BUILD = "orbital.package_build"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of the group."""
    parser.description = (
        "Installs, updates, removes and inspects feature packages. Every change either ends in a "
        "new committed generation or leaves the device as it was."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    package_verbs.configure(commands)
    package_show.configure(commands)
    if importlib.util.find_spec(_BUILD) is not None:
        importlib.import_module(_BUILD).add_build(commands)
