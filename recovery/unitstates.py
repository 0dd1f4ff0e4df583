"""What `systemctl show` says of several units. Pure."""

from __future__ import annotations


def parse(text: str) -> dict[str, dict[str, str]]:
    """Properties by the unit's Id: blocks of NAME=VALUE, an empty line between them."""
    found: dict[str, dict[str, str]] = {}
    for block in text.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in values:
            found[values["Id"]] = values
    return found
