"""A service of a package has failed for good: what happens to the package.

Run by orbital-package-failed@PACKAGE.service when systemd has given a service
up (its restart limit) or the watch over one has failed. It goes back
to the version before, if there is one that is not known to be bad; else it is
disabled. The version that failed is in quarantine then, so it cannot loop: a
package goes back at most once for each version, and disabled is the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from recovery import process, unitstates
from recovery.errors import OrbitalError, PackageError, RefusedError
from recovery.generations import Generation, PackageEntry
from recovery.packages.model import Package, unit_name
from recovery.packages.units import watch_unit
from recovery.reporter import Reporter
from recovery.state import StateRecord
from recovery.value import replace
from updater.packages.device import PackageDevice
from updater.packages.transaction import Asked, Planner, Wanted, change

WHO = "orbital"
LOCK_SECONDS = 540.0
"""A change that is under way may be the reason: it ends first (the unit's limit is 600 s)."""

States = Mapping[str, Mapping[str, str]]
Back = Callable[[Generation, StateRecord, int, str], Wanted]
"""Plans one package's return to the version before; raises RefusedError."""


@dataclass(frozen=True)
class Contained:
    """action: what was done; none when nothing of the package is failed (any more)."""

    action: Literal["rolled back", "disabled", "none"]
    version: str
    reason: str


def contain(
    device: PackageDevice,
    name: str,
    reporter: Reporter,
    back: Back,
    *,
    ask: Callable[[Package], States] | None = None,
    now: Callable[[], float] = time.time,
    lock_seconds: float = LOCK_SECONDS,
) -> Contained:
    """Puts the failed package out of action. back: see `Back`. ask: states of its units.

    Raises RefusedError while the OS is on trial, whose judge it is left to, and
    PackageError when not even disabling worked.
    """
    ask = ask or ask_units
    seen: list[Contained] = []

    def judge(old: Generation) -> tuple[PackageEntry, str] | None:
        """The entry, and what failed; None when there is nothing to do."""
        entry = old.package(name)
        if entry is None or not entry.enabled:
            seen[:] = [Contained("none", "", f"{name} is not enabled")]
            return None
        manifest = device.host.manifest(entry.digest)
        reason = failure(manifest, ask(manifest))
        if not reason:
            # The change that waited before us has put it right.
            seen[:] = [Contained("none", entry.version, f"no service of {name} is failed")]
            return None
        return entry, reason

    def go_back(old: Generation, record: StateRecord, number: int) -> Wanted:
        found = judge(old)
        if found is None:
            return Wanted(old.packages)
        entry, reason = found
        before = entry.earlier
        if before is None or not before.fits:
            raise RefusedError(f"cannot go back: no earlier version of {name} is kept")
        if record.quarantine_of(before.version, name) is not None:
            raise RefusedError(f"cannot go back: {name} {before.version} has failed before")
        wanted = back(old, record, number, name)
        seen[:] = [Contained("rolled back", entry.version, reason)]
        return Wanted(wanted.packages, wanted.fetch, quarantine={(name, entry.version): reason})

    def disable(old: Generation, _record: StateRecord, _number: int) -> Wanted:
        found = judge(old)
        if found is None:
            return Wanted(old.packages)
        entry, reason = found
        seen[:] = [Contained("disabled", entry.version, reason)]
        rest = (item for item in old.packages if item is not entry)
        return Wanted(
            (*rest, replace(entry, enabled=False)),
            quarantine={(name, entry.version): reason},
            contains=True,
        )

    def attempt(plan: Planner, what: str) -> Contained:
        change(
            device, plan, Asked(what, WHO), reporter,
            now=now, lock_seconds=lock_seconds, in_probation=True,
        )  # fmt: skip
        return seen[0]

    try:
        return attempt(go_back, f"roll back {name}, which has failed")
    except (RefusedError, PackageError) as error:
        if device.store.load().trial is not None:
            raise
        reporter.message(str(error).splitlines()[0])
    return attempt(disable, f"disable {name}, which has failed")


def failure(manifest: Package, states: States) -> str:
    """What failed, in words, or "". Pure."""
    for service in manifest.services:
        state = states.get(unit_name(manifest.name, service.name), {})
        if state.get("ActiveState") == "failed":
            result = state.get("Result", "")
            again = " after restarts" if state.get("NRestarts", "0") not in ("", "0") else ""
            return f"service {service.name} failed{again}: {result or 'unknown'}"
        watch = states.get(watch_unit(manifest.name, service.name), {})
        if _counts(watch, state, service.check.deadline_seconds):
            return f"the check of service {service.name} failed again and again"
    return ""


def _counts(watch: Mapping[str, str], service: Mapping[str, str], warm_up: int) -> bool:
    """Whether the last run of a watch is held against its service.

    Only when the check itself said no (exit code 1 of `recovery.packages.probe`; not
    when its sandbox could not be made), and the service has been up since before that
    run, by the time it may take to become healthy: one that is being stopped, or was
    restarted or updated since, is not meant.
    """
    if watch.get("ActiveState") != "failed" or watch.get("ExecMainStatus") != "1":
        return False
    began = int(watch.get("InactiveExitTimestampMonotonic", "0"))
    up = int(service.get("ActiveEnterTimestampMonotonic", "0"))
    return service.get("ActiveState") == "active" and up + warm_up * 1_000_000 <= began


def ask_units(manifest: Package) -> States:
    """What systemd says of the package's services and their watches. Raises ToolError."""
    units = [unit_name(manifest.name, service.name) for service in manifest.services]
    units += [watch_unit(manifest.name, service.name) for service in manifest.services]
    if not units:
        return {}
    properties = (
        "--property=Id,ActiveState,Result,NRestarts,ExecMainStatus,"
        "ActiveEnterTimestampMonotonic,InactiveExitTimestampMonotonic"
    )
    return unitstates.parse(
        process.run(["systemctl", "show", properties, *units], timeout=30).stdout
    )


def note_refusal(device: PackageDevice, name: str, error: OrbitalError) -> None:
    """A failed package could not be put out of action now: systemd has stopped it at least."""
    device.audit.note(
        "package.failed", name, "refused", who=WHO, detail=str(error), boot_id=device.boot_id
    )
