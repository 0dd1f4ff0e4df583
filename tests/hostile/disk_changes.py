"""Changes of packages, commits and rollbacks on disks that fail: at any operation, or from then on.

The disk fails while the change is made; then it works again and the device starts. What was
committed is still there, or what was to be committed is; and the change can be made after all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from recovery.errors import OrbitalError
from recovery.rollback import request_rollback
from tests.hostile.disks import Faults
from tests.recovery.test_agent import Machine
from tests.updater.packages.fakehost import Bench, package
from tests.updater.packages.test_power_packages import assert_consistent, recover

_STARTS_AT_MOST = 6


@dataclass(frozen=True)
class Change:
    """prepare: a device below a directory. act: what the disk fails in. settle: what is wrong
    afterwards, with a disk that works; "" when nothing is.
    """

    name: str
    prepare: Callable[[Path], Machine | Bench]
    act: Callable[[Machine | Bench], object]
    settle: Callable[[Machine | Bench], str]


def _machine(base: Path) -> Machine:
    machine = Machine.factory(base)
    assert machine.run()
    machine.install("2.0")
    return machine


def _committed(base: Path) -> Machine:
    machine = _machine(base)
    agent = machine.boot()
    assert agent is not None and agent.health() == 0
    agent.commit()
    return machine


def _commit(device: Machine | Bench) -> None:
    assert isinstance(device, Machine)
    agent = device.boot()
    if agent is not None and agent.health() == 0:
        agent.commit()


def _roll_back(device: Machine | Bench) -> None:
    assert isinstance(device, Machine)
    request_rollback(device.store, device.control, "root", tries=2)


def _runs_what_is_committed(device: Machine | Bench) -> str:
    """Starts until nothing is open; what runs then is what the record calls committed."""
    assert isinstance(device, Machine)
    if device.store.read() is None:
        return "the state record is lost"
    for _ in range(_STARTS_AT_MOST):
        device.run()
        record = device.store.load()
        committed = device.store.generations.load(record.committed)
        if committed is None:
            return "the record of the committed generation is lost"
        if record.trial is None and committed.version == device.running_version():
            return ""
    return f"after {_STARTS_AT_MOST} starts {device.running_version()} runs: {record}"


def _rolls_back_after_all(device: Machine | Bench) -> str:
    assert isinstance(device, Machine)
    problem = _runs_what_is_committed(device)
    if problem or device.running_version() == "1.0":
        return problem
    try:
        _roll_back(device)
    except OrbitalError as error:
        return f"it cannot be rolled back any more: {error}"
    problem = _runs_what_is_committed(device)
    return problem or ("" if device.running_version() == "1.0" else "it was not rolled back")


def _bench(*versions: str) -> Callable[[Path], Bench]:
    def prepare(base: Path) -> Bench:
        bench = Bench(base)
        bench.publish(*(package("hello", name, state_version=int(name[0])) for name in "123"))
        for name in versions:
            bench.install("hello", name)
        return bench

    return prepare


def _install(version: str) -> Callable[[Machine | Bench], object]:
    def act(device: Machine | Bench) -> object:
        assert isinstance(device, Bench)
        return device.install("hello", version)

    return act


def _remove(device: Machine | Bench) -> object:
    assert isinstance(device, Bench)
    return device.remove("hello")


def _undo(device: Machine | Bench) -> object:
    assert isinstance(device, Bench)
    return device.undo()


def _packages(act: Callable[[Machine | Bench], object]) -> Callable[[Machine | Bench], str]:
    def settle(device: Machine | Bench) -> str:
        assert isinstance(device, Bench)
        try:
            recover(device, reboot=True)
            assert_consistent(device)
            if act is not _undo:
                act(device)
                assert_consistent(device)
        except (OrbitalError, AssertionError) as error:
            return f"the next start or change fails: {error!r}"
        return ""

    return settle


CHANGES = (
    Change("commit", _machine, _commit, _runs_what_is_committed),
    Change("rollback", _committed, _roll_back, _rolls_back_after_all),
    Change("package installation", _bench(), install := _install("1"), _packages(install)),
    Change("package update", _bench("1"), update := _install("2"), _packages(update)),
    Change("package removal", _bench("1"), _remove, _packages(_remove)),
    Change("package rollback", _bench("1", "2"), _undo, _packages(_undo)),
)


def operations(change: Change, base: Path) -> int:
    """How many the change takes on a disk that works."""
    device = change.prepare(base)
    try:
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(base, None)
            faults.install(patch)
            change.act(device)
        return faults.count
    finally:
        shutil.rmtree(base)


def judge(change: Change, base: Path, at: int, error: int, *, lasting: bool) -> str:
    """The change while operation `at` fails: what is wrong, or ""."""
    device = change.prepare(base)
    try:
        with pytest.MonkeyPatch.context() as patch:
            Faults(base, at, error, lasting).install(patch)
            try:
                change.act(device)
            except (OrbitalError, OSError):
                pass  # Either is told as a plain error (orbital/main.py, recovery.service.main).
            except Exception as problem:
                return f"it crashes: {problem!r}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda _fd: None)
            return change.settle(device)
    finally:
        shutil.rmtree(base)
