"""The root shell for a guest to which QEMU can pass no credentials: in /etc, as its owner might.

Written into the state partition before the first start, as the upper layer of
generation 1's /etc (ARCHITECTURE.md, "On the device"). Boot artifacts and root
images stay as they were built; updates carry the layer along like any change of /etc.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from imager.tools import Tools
from qemu import faults, storage
from qemu.credentials import shell_credentials, shell_service

_LAYER = "orbital/etc/1"
_UNITS = f"{_LAYER}/upper/systemd/system"
_WANTS = f"{_UNITS}/sysinit.target.wants"
_AGENT = "orbital-test.agent"


def plant_shell(disk: Path, output: Path, label: str, tools: Tools) -> None:
    """Makes output, a qcow2 over the raw factory disk, whose device has the shell.

    label: of the state partition, which must be as the factory leaves it: empty.
    """
    storage.create_overlay(output, disk)
    with tempfile.TemporaryDirectory(prefix="orbital-planted.") as directory:
        work = Path(directory)
        (work / "agent").write_bytes(shell_credentials()[_AGENT])
        (work / "unit").write_text(shell_service(f"/etc/{_AGENT}"))
        parents = [Path(_WANTS), *Path(_WANTS).parents][-2::-1]
        commands = [
            *(f"mkdir /{parent}" for parent in parents),
            f"mkdir /{_LAYER}/work",
            f"write {work / 'agent'} /{_LAYER}/upper/{_AGENT}",
            f"write {work / 'unit'} /{_UNITS}/orbital-test.service",
            f"symlink /{_WANTS}/orbital-test.service ../orbital-test.service",
        ]
        (work / "commands").write_text("".join(f"{command}\n" for command in commands))
        faults.read_partition(output, label, work / "state")
        tools.run("debugfs", "-w", "-f", work / "commands", work / "state")
        faults.write_partition(output, label, work / "state")
