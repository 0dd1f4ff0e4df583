"""A package's program for people, in its view and sandbox, until it ends.

The program keeps the view it started with, whatever is updated meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from recovery import process
from recovery.errors import RefusedError
from recovery.generations import PackageEntry
from recovery.packages import layers
from recovery.packages.model import Package
from recovery.packages.paths import Paths
from updater.packages.configure import installed
from updater.packages.device import PackageDevice
from updater.packages.outcome import audited

_LOCK_SECONDS = 60.0


@runtime_checkable
class RunsPrograms(Protocol):
    """A host that can start programs: `recovery.packages.system.SystemHost`."""

    def program(
        self,
        entry: PackageEntry,
        name: str,
        arguments: Sequence[str],
        *,
        terminal: bool,
        opened: Path | None = None,
    ) -> list[str]:
        """The command that runs a program of an active package in its sandbox."""


def run(
    device: PackageDevice,
    name: str,
    program: str | None,
    arguments: Sequence[str],
    *,
    terminal: bool,
    who: str,
    opened: Path | None = None,
) -> int:
    """Runs a program with our stdin, stdout and stderr; returns its exit code.

    program: None for the only one. opened: a file that it is to see, its last
    argument. When it is the package's configure program and succeeds, the
    services that waited for it start. Raises RefusedError.
    """
    entry, manifest = installed(device, device.committed(device.store.load()), name)
    chosen = choose(manifest, program)
    if not isinstance(device.host, RunsPrograms):
        raise RefusedError("cannot run programs of packages here")
    # A capability that the system does not grant is refused here.
    with audited(device, "package.run", f"{name} {chosen}", who):
        command = device.host.program(entry, chosen, arguments, terminal=terminal, opened=opened)
    # None: ours, so that a person can talk to it.
    child = process.start(command, stdin=None, stdout=None, stderr=None)
    code = _ended(child.wait)
    if chosen == manifest.configure:
        result = "done" if code == 0 else "failed"
        device.audit.note(
            "package.configure", name, "done" if code == 0 else "failed", who=who,
            detail=f"program {chosen}: {result}, exit code {code}", boot_id=device.boot_id,
        )  # fmt: skip
        if code == 0:
            configured(device, name)
    return code


def choose(manifest: Package, program: str | None) -> str:
    """The program's name. Pure. Raises RefusedError when none, or more than one, can be meant."""
    names = [item.name for item in manifest.programs]
    if program is None and len(names) == 1:
        return names[0]
    if program is not None and program in names:
        return program
    what = f"program {program!r}" if program else "a program"
    raise RefusedError(
        f"cannot run {what} of package {manifest.name}"
        + ("" if program is None else ": there is none of that name"),
        resolution=f"name one of: {', '.join(names)}" if names else "it has no programs",
    )


def configured(device: PackageDevice, name: str) -> None:
    """Notes that the configure program has run, and starts the services that waited for it.

    Power cut in between: they start at the next boot.
    """
    with device.store.lock(f"orbital package configure {name}", _LOCK_SECONDS):
        generation = device.committed(device.store.load())
        # Looked up again: while a person typed, the package may have got another layer.
        entry = generation.package(name)
        if entry is None:
            return
        layers.mark_configured(Paths(device.root), entry)
        device.host.activate(generation)
        if entry.enabled:
            device.host.start([name])


def _ended(wait: Callable[[], int]) -> int:
    while True:
        try:
            return wait()
        except KeyboardInterrupt:
            # The program got the same Ctrl-C from the terminal, and decides what it means.
            continue
