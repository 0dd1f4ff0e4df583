"""What this device runs, tries, keeps and remembers, for people and programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from recovery import codec
from recovery.errors import BootControlError
from recovery.generations import Generation
from recovery.slots import Slot
from recovery.state import Quarantine
from updater import journal
from updater.device import Device
from updater.window import parse


@dataclass(frozen=True)
class Status:
    """The state of the device.

    running, previous, trial: generations; None when there is none. committed:
    whether the running generation is. trial_waiting: the trial starts with the
    next reboot. next_slot: what the loader starts next, None when unknown.
    interrupted_install: version that an interrupted update left half-written.
    """

    running: Generation | None
    committed: bool
    previous: Generation | None
    trial: Generation | None
    trial_waiting: bool
    trial_attempts: int
    on_probation: bool
    next_slot: Slot | None
    quarantined: tuple[Quarantine, ...]
    interrupted_install: str | None


def inspect(device: Device) -> Status:
    """Reads the state. Raises StateError when there is no usable record."""
    store = device.store
    record = store.load()
    current = device.boot_control.current_slot()
    try:
        next_slot = device.boot_control.active_slot()
    except BootControlError:
        next_slot = None
    trial = store.generations.load(record.trial.generation) if record.trial else None
    interrupted = journal.load(store.root)
    return Status(
        running=store.generations.load(device.generation),
        committed=device.generation == record.committed,
        previous=store.generations.load(record.previous) if record.previous is not None else None,
        trial=trial,
        trial_waiting=trial is not None and trial.slot != current,
        trial_attempts=len(record.trial.attempts) if record.trial else 0,
        on_probation=record.probation is not None,
        next_slot=next_slot,
        quarantined=record.quarantined,
        interrupted_install=interrupted.version if interrupted else None,
    )


def document(device: Device, status: Status) -> dict[str, object]:
    """The status as a JSON document."""
    config = device.config
    return {
        "system": config.system,
        "version": config.version,
        "board": config.board,
        "architecture": config.architecture,
        "slot": device.boot_control.current_slot(),
        "next_slot": status.next_slot,
        "running": _generation(status.running),
        "committed": status.committed,
        "previous": _generation(status.previous),
        "trial": _generation(status.trial),
        "trial_waiting": status.trial_waiting,
        "trial_attempts": status.trial_attempts,
        "on_probation": status.on_probation,
        "quarantined": [
            {"package": item.package or None, "version": item.version, "reason": item.reason}
            for item in status.quarantined
        ],
        "interrupted_install": status.interrupted_install,
        "packages": [asdict(package) for package in config.packages],
        "update": asdict(config.update),
    }


def text(device: Device, status: Status) -> str:
    """The status for people."""
    config = device.config
    state = "on trial"
    if status.committed:
        state = "on probation" if status.on_probation else "committed"
    number = f"generation {status.running.number}, " if status.running else ""
    lines = [
        f"{config.system} {config.version} on {config.board} ({config.architecture})",
        f"running: slot {device.boot_control.current_slot()}, {number}{state}",
    ]
    if status.trial is not None and status.trial_waiting:
        lines.append(f"waiting for a reboot: {_words(status.trial)}, to be tried")
    elif status.trial is not None:
        lines.append(f"on trial: {_words(status.trial)}, start {status.trial_attempts}")
    if status.previous is not None:
        lines.append(f"to go back to: {_words(status.previous)}")
    if status.interrupted_install:
        lines.append(f"interrupted: an update to {status.interrupted_install} can be continued")
    lines += [
        f"quarantined: {' '.join((item.package, item.version)).strip()}: {item.reason}"
        for item in status.quarantined
    ]
    if config.packages:
        packages = ", ".join(f"{package.name} {package.version}" for package in config.packages)
        lines.append(f"system packages: {packages}")
    policy = config.update
    window = parse(policy.window_start, policy.window_end)
    mode = f"automatic, {window or 'at any time'}" if policy.automatic else "on request"
    lines.append(f"updates: {mode}, from {policy.source or 'no configured source'}")
    return "\n".join(lines)


def _words(generation: Generation) -> str:
    return f"{generation.version} (generation {generation.number}, slot {generation.slot})"


def _generation(generation: Generation | None) -> dict[str, object] | None:
    if generation is None:
        return None
    document: dict[str, object] = codec.plain(generation)
    return document
