"""States of the device in which an update is refused, with nothing changed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from recovery.errors import BootControlError, OrbitalError, RefusedError, SpaceError, StateError
from recovery.state import Probation, Quarantine
from recovery.value import replace
from tests.updater.devices import FileDevice
from tests.updater.publisher import Publisher
from updater.medium import Medium


def refused(
    device: FileDevice, error: type[OrbitalError], words: str, to: str | None = None
) -> None:
    """Runs an update that must be refused before anything is changed."""
    before = device.snapshot()
    with pytest.raises(error) as caught:
        device.update(to=to)
    assert words in str(caught.value)
    assert device.snapshot() == before


def test_over_a_trial_that_waits_for_its_reboot(publisher: Publisher, device: FileDevice) -> None:
    image = publisher.release("2.0")
    device.update()
    publisher.release("3.0")
    refused(device, RefusedError, "generation 2 is still on trial")
    device.assert_on_trial(image.root, image.boot, "2.0")


def test_during_probation(publisher: Publisher, device: FileDevice) -> None:
    publisher.release("2.0")
    record = device.store.load()
    probation = Probation(generation=1, since=0, seconds=600, limit=3)
    device.store.save(replace(record, probation=probation))
    refused(device, RefusedError, "on probation")


def quarantine(device: FileDevice, version: str) -> None:
    """Notes that the version has failed here."""
    record = device.store.load()
    entry = Quarantine(version=version, reason="no network", time=1, generation=9)
    device.store.save(replace(record, quarantined=(entry,)))


def test_quarantined_version_is_not_offered_by_itself(
    publisher: Publisher, device: FileDevice
) -> None:
    publisher.release("2.0")
    quarantine(device, "2.0")
    refused(device, RefusedError, "it failed here before: no network")


def test_quarantined_version_is_passed_over_for_an_older_new_one(
    publisher: Publisher, device: FileDevice
) -> None:
    image = publisher.release("1.5")
    publisher.release("2.0")
    quarantine(device, "2.0")
    device.update()
    device.assert_on_trial(image.root, image.boot, "1.5")


def test_quarantined_version_is_installed_when_named(
    publisher: Publisher, device: FileDevice
) -> None:
    image = publisher.release("2.0")
    quarantine(device, "2.0")
    device.update(to="2.0")
    device.assert_on_trial(image.root, image.boot, "2.0")


def test_slot_too_small(publisher: Publisher, tmp_path: Path) -> None:
    publisher.release("2.0")
    device = FileDevice(
        tmp_path / "small", publisher.anchor, source=str(publisher.repository), slot_size=300_000
    )
    refused(device, SpaceError, "slot b is too small")


def test_boot_partition_too_small(
    publisher: Publisher, device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.release("2.0")
    real = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda path: _full(real(path)))
    refused(device, SpaceError, "boot partition is too small")


def _full(real: os.statvfs_result) -> os.statvfs_result:
    values = list(real)
    values[4] = 1  # f_bavail
    return os.statvfs_result(values)


def test_boot_partition_with_room_for_one_artifact_only(
    publisher: Publisher, device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old artifact of the slot goes first: its slot does not boot any more by then."""
    image = publisher.release("2.0")
    old = device.device.boot_artifact("b")
    old.write_bytes(bytes(len(image.boot)))
    real = os.statvfs

    def nearly_full(path: Path) -> os.statvfs_result:
        values = list(real(path))
        values[4] = (1 << 20) // values[1] + 1
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", nearly_full)
    plan = device.check().plan
    assert plan is not None
    assert "remove-boot-artifact" in [action.kind for action in plan.actions]
    device.update()
    device.assert_on_trial(image.root, image.boot, "2.0")


def test_second_update_while_one_runs(publisher: Publisher, device: FileDevice) -> None:
    """The first one is another process that holds the lock as updates do."""
    publisher.release("2.0")
    program = """
        import sys
        from pathlib import Path
        from recovery.state import StateStore
        with StateStore(Path(sys.argv[1])).lock("orbital system update"):
            print("locked", flush=True)
            sys.stdin.read()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(device.store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        refused(device, RefusedError, f"orbital system update (process {other.pid})")
    finally:
        other.communicate()
    assert device.update().installed is not None


@pytest.mark.parametrize(("number", "error"), [(errno.EIO, StateError), (errno.ENOSPC, SpaceError)])
@pytest.mark.parametrize("call", ["pwrite", "fsync", "preadv"])
def test_disk_error_while_writing_the_slot(
    device: FileDevice, publisher: Publisher, number: int, error: type[OrbitalError], call: str
) -> None:
    image = publisher.release("2.0")
    real = getattr(os, call)

    def failing(fd: int, *rest: object) -> object:
        if Path(f"/proc/self/fd/{fd}").readlink().name == "root-b":
            raise OSError(number, os.strerror(number))
        return real(fd, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(error, match=os.strerror(number)) as caught:
            device.update()
    assert "the running system is not affected" in caught.value.resolution
    device.assert_unaffected()
    assert device.store.load().trial is None
    device.update()
    device.assert_on_trial(image.root, image.boot, "2.0")


def test_disk_that_forgets_what_was_written(
    publisher: Publisher, device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block reads back differently: found by reading back, not by what we remember."""
    publisher.release("2.0")
    real = Medium.read_back

    def lying(medium: Medium, offset: int, into: memoryview) -> int:
        count = real(medium, offset, into)
        if offset == 0 and count > 10_000:
            into[8192:12288] = bytes(4096)
        return count

    with monkeypatch.context() as patch:
        patch.setattr(Medium, "read_back", lying)
        with pytest.raises(OrbitalError, match="does not hold the signed image"):
            device.update()
    device.assert_unaffected()
    assert device.update().installed is not None


def test_boot_partition_fails_at_the_commit_point(
    publisher: Publisher, device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error, not a power cut: the same boot goes on, so nothing may stay recorded."""
    image = publisher.release("2.0")

    def failing(*_: object) -> None:
        raise BootControlError("cannot activate slot b: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(type(device.boot_control), "set_active", failing)
        with pytest.raises(BootControlError):
            device.update()
    device.assert_unaffected()
    assert device.store.load().trial is None
    assert device.update().installed is not None
    device.assert_on_trial(image.root, image.boot, "2.0")
