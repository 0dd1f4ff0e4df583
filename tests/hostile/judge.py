"""Whether a device withstands an attack: refused, in time, at bounded cost, good afterwards."""

from __future__ import annotations

import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recovery.errors import OrbitalError
from tests.hostile.table import Attack
from tests.hostile.world import World
from updater import http

# As in production, but for a server on the same machine that tests will not wait for.
SHORT = http.Limits(
    connect=2, silence=0.6, min_rate=512, rate_window=0.6, first_contact=1, patience=1,
    longest_pause=0.2,
)  # fmt: skip
HEADER_SECONDS = 1.0
SECONDS = 30.0
SENT = 64 << 20
"""Bytes: endless answers fill the buffers of both sockets before a device can say no."""
GROWTH = 4 << 20


def judge(attack: Attack, base: Path) -> str:
    """What is wrong, or ""."""
    world = World(base)
    try:
        attack.begin(world)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(http, "Limits", lambda: SHORT)
            patch.setattr(http, "_HEADER_SECONDS", HEADER_SECONDS)
            return _attacked(attack, world, patch) or _afterwards(attack, world)
    finally:
        world.close()


def _attacked(attack: Attack, world: World, patch: pytest.MonkeyPatch) -> str:
    device = world.device
    scratch = world.base / "tmp"
    scratch.mkdir()
    patch.setattr(tempfile, "tempdir", str(scratch))
    before, size = device.snapshot(), _size(device.root)
    world.server.sent = 0
    began = time.monotonic()
    try:
        outcome = device.update()
        return f"not refused: {outcome.summary}"
    except OrbitalError as error:
        if not isinstance(error, attack.errors):
            return f"refused as {type(error).__name__}: {error!r}"
        if not error.brief.startswith("cannot "):
            return f"not a plain error: {error!r}"
    except Exception as error:
        return f"the updater crashes: {error!r}"
    seconds = time.monotonic() - began
    if seconds > SECONDS:
        return f"it took {seconds:.0f} s"
    if world.server.sent > SENT:
        return f"{world.server.sent} bytes were taken"
    if _size(device.root) - size > GROWTH or any(scratch.iterdir()):
        return "it left data behind"
    try:
        device.assert_unaffected()
    except AssertionError as error:
        return f"the running system changed: {error!r}"
    record = device.store.load()
    if record.trial is not None or device.boot_control.slot_state("b").bootable:
        return "something is on trial"
    if attack.early and device.snapshot() != before:
        return "something was written"
    return ""


def _afterwards(attack: Attack, world: World) -> str:
    image = world.honest()
    world.device.clock = max(world.device.clock, world.publisher.now.timestamp())
    if world.device.clock > world.publisher.now.timestamp() + 86400:
        # The publisher has to refresh at the device's time.
        world.publisher.now = datetime.fromtimestamp(world.device.clock, UTC)
        world.publisher.refresh()
    try:
        world.device.update()
        world.device.assert_on_trial(image.root, image.boot, "7.0")
    except (OrbitalError, AssertionError) as error:
        return f"the next good update fails after {attack.name}: {error!r}"
    return ""


def _size(directory: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))


def place() -> Path:
    """A directory in memory, if there is one: hundreds of small files are written."""
    base = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    return Path(tempfile.mkdtemp(prefix="orbital-hostile.", dir=base))


def judged(attack: Attack) -> str:
    """`judge` in a directory of its own."""
    base = place()
    try:
        return judge(attack, base)
    finally:
        shutil.rmtree(base, ignore_errors=True)
