"""The only place that runs other programs."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recovery.errors import ToolError

_TAIL = 2000


@dataclass(frozen=True)
class Completed:
    """What a program that ran to its end left behind."""

    command: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def pasteable(self) -> str:
        """The command as one could paste it into a shell."""
        return shlex.join(self.command)


def run(
    command: Sequence[str | Path],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    check: bool = True,
) -> Completed:
    """Runs a program and returns its output (decoded leniently).

    env is added to this process's own environment. timeout is in seconds.

    Raises ToolError when the program is missing, times out, or (with check)
    exits with another code than 0; the error carries the exact command.
    """
    argv = tuple(str(word) for word in command)
    pasteable = shlex.join(argv)
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise ToolError(
            f"cannot run {argv[0]}: no such program",
            details=f"command: {pasteable}",
            resolution=f"install the package that provides {argv[0]}, or check PATH",
        ) from error
    except PermissionError as error:
        raise ToolError(
            f"cannot run {argv[0]}: permission denied", details=f"command: {pasteable}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ToolError(
            f"cannot finish {argv[0]} within {timeout:g} s", details=f"command: {pasteable}"
        ) from error
    completed = Completed(argv, done.returncode, done.stdout, done.stderr)
    if check and done.returncode != 0:
        output = (done.stderr.strip() or done.stdout.strip())[-_TAIL:]
        raise ToolError(
            f"cannot complete {Path(argv[0]).name}: exit code {done.returncode}",
            details=f"command: {pasteable}\n{output}",
        )
    return completed


def start(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = subprocess.DEVNULL,
    stderr: int | None = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Starts a program that runs beside us and returns it; the caller ends it.

    Raises ToolError when the program is missing.
    """
    argv = [str(word) for word in command]
    try:
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=None if env is None else {**os.environ, **env},
        )
    except FileNotFoundError as error:
        raise ToolError(
            f"cannot run {argv[0]}: no such program",
            details=f"command: {shlex.join(argv)}",
            resolution=f"install the package that provides {argv[0]}, or check PATH",
        ) from error
