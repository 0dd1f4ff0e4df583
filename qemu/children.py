"""Programs that run beside us and end with us."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from qemu import emulator
from qemu.errors import MachineExited
from recovery import process
from recovery.errors import ToolError

_PACKAGES = {"nginx": "nginx-light"}


def start(
    command: Sequence[str | Path], log: Path, *, at_our_death: signal.Signals = signal.SIGKILL
) -> subprocess.Popen[bytes]:
    """Starts a program whose output goes to the end of log; QEMU's are those of `emulator`.

    The kernel ends it when we die without a chance to (setpriv(1),
    PR_SET_PDEATHSIG), so a killed test run leaves nothing behind. "We" is the
    calling thread: start programs from one that lives as long as they shall.

    Raises ToolError when the program is missing, and as `emulator.command`.
    """
    name, *options = command
    words = emulator.command(str(name))
    if shutil.which(words[0]) is None:
        raise ToolError(
            f"cannot run {name}: no such program",
            resolution=f"install the package {_PACKAGES.get(str(name), 'that provides it')}",
        )
    death = ["setpriv", "--pdeathsig", at_our_death.name.removeprefix("SIG"), "--"]
    with log.open("ab") as output:
        return process.start(
            [*death, *words, *options], stdout=output.fileno(), stderr=output.fileno()
        )


def exited(name: str, child: subprocess.Popen[bytes], log: Path) -> MachineExited:
    """The error for a program that ended by itself, with what it said."""
    said = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
    return MachineExited(
        f"cannot go on: {name} ended with exit code {child.wait()}",
        details="\n".join(part for part in (said[-3000:], f"its output is in {log}") if part),
    )


def explained(
    error: MachineExited, name: str, child: subprocess.Popen[bytes], log: Path
) -> MachineExited:
    """An error that a program is gone, with how it ended and what it said."""
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        end(child)
    reason = exited(name, child, log)
    if error.brief == reason.brief:
        return error
    details = "\n".join(part for part in (error.details, str(reason)) if part)
    return MachineExited(error.brief, details=details, resolution=error.resolution)


def end(child: subprocess.Popen[bytes]) -> None:
    """Kills the program if it still runs, and waits for it."""
    if child.poll() is None:
        child.kill()
    child.wait()
