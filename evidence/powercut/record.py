"""Records operations on the real device in QEMU: the disk before, and every write and flush."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evidence.powercut.metadata import Repository
from evidence.powercut.replay import Recording
from evidence.powercut.state import OWNED
from evidence.result import commit
from imager.keys import make_development_keys
from imager.repository.anchor import ANCHOR
from imager.repository.keyring import KeyDirectory
from imager.repository.refresh import refresh
from qemu import snapshot
from qemu.blocklog import recorded
from qemu.device import SETTLE_SECONDS, Device
from qemu.errors import GuestRestarted, MachineError
from qemu.lab import Lab
from qemu.machine import Machine
from qemu.server import Server
from qemu.snapshot import Snapshot
from recovery import device as device_file

BOARD = "qemu-x86_64"
# Else QEMU joins requests, and joined ones have more pieces than blklogwrites can take.
_SEPARATE = ("-global", "virtio-blk-device.request-merging=off")
_DEVICE_FILE = "device.json"
COMMIT = "commit"
"""File in a recording: of which commit the device was."""


@dataclass(frozen=True)
class Session:
    """One device, with a repository of its own."""

    lab: Lab
    device: Device
    server: Server

    def update(self, version: str) -> None:
        """The whole of an update, until its probation is over."""
        self.device.update(self.server.url, version)
        self.device.restart()
        self.calm()

    def calm(self) -> None:
        """Waits until the device is committed and watched no longer."""
        self.device.settle(when=lambda found: found["committed"] and not found["on_probation"])


Step = Callable[[Session], object]


def _nothing(_session: Session) -> None:
    pass


@dataclass(frozen=True)
class Operation:
    """prepare: what is done before the recording. perform: what is recorded. factory: the
    device has never been on before."""

    name: str
    prepare: Step
    perform: Step
    factory: bool = False


def _delta(session: Session) -> None:
    session.lab.offer("2.0", delta_from=(session.lab.version,))


def _updated(session: Session) -> None:
    _delta(session)
    session.update("2.0")


def _rolled_back(session: Session) -> None:
    session.device.orbital("system", "rollback")
    session.device.restart()
    session.calm()


def _counter(session: Session) -> None:
    session.lab.offer_package("counter")
    session.device.install(session.server.url, "counter")
    session.lab.offer_package("counter", version="1.1")


def _rotated(session: Session) -> None:
    check = ("system", "update", "--check", "--source", session.server.url)
    session.device.ask(*check)
    fresh = session.lab.directory / "new-keys"
    make_development_keys(fresh)
    old = KeyDirectory(session.lab.prepare_keys())
    refresh(session.lab.repository, KeyDirectory(fresh), rotate=True, old_keys=old)


def _owned(session: Session) -> None:
    """A package, and traces of an owner: in /etc, in the package's state, in /var."""
    session.lab.offer_package("counter")
    session.device.install(session.server.url, "counter")
    session.device.machine.run(
        f"for place in /etc /state/orbital/layers/counter/*/state/* /var/lib;"
        f" do echo changed >$place/{OWNED}; done"
    )


def _reset(session: Session) -> None:
    """The wish, the restart, what rescue does, and the first healthy start afterwards."""
    machine = session.device.machine
    before = machine.wait_shell(SETTLE_SECONDS)
    # It may restart before the command has ended.
    with contextlib.suppress(GuestRestarted):
        session.device.orbital("system", "reset", check=False)
    machine.shell.wait(SETTLE_SECONDS, not_boot=before)
    session.calm()
    machine.run(f"test ! -e /etc/{OWNED} && test -e /var/lib/{OWNED}")
    if session.device.packages():
        raise MachineError("cannot record: the factory reset has left packages")


OPERATIONS = (
    Operation("update-delta", _delta, lambda s: s.update("2.0")),
    Operation("update", lambda s: s.lab.offer("2.0"), lambda s: s.update("2.0")),
    Operation("rollback", _updated, _rolled_back),
    Operation(
        "package-install",
        lambda s: s.lab.offer_package("counter"),
        lambda s: s.device.install(s.server.url, "counter"),
    ),
    Operation(
        "package-update", _counter, lambda s: s.device.package("update", source=s.server.url)
    ),
    Operation(
        "package-remove",
        _counter,
        lambda s: (s.device.package("remove", "counter"), s.device.package("gc")),
    ),
    Operation(
        "key-rotation",
        _rotated,
        lambda s: s.device.ask("system", "update", "--check", "--source", s.server.url),
    ),
    Operation("factory-reset", _owned, _reset),
    Operation("first-boot", _nothing, _nothing, factory=True),
)


def find(folder: Path, name: str) -> Recording | None:
    """The recording of that name in a campaign's folder, or None when it is not complete."""
    place = folder / name
    if not (place / _DEVICE_FILE).exists():
        return None
    config = device_file.decode((place / _DEVICE_FILE).read_bytes())
    kept = place / "repository"
    repository = None
    if kept.is_dir():
        now = (place / _DEVICE_FILE).stat().st_mtime
        repository = Repository(kept, place / ANCHOR.name, now)
    return Recording(name, place / "base.raw", place / "writes.log", config, repository=repository)


def record(folder: Path, operation: Operation) -> Recording:
    """Records the operation. folder: of the campaign; the factory device is kept in it."""
    place = folder / operation.name
    shutil.rmtree(place, ignore_errors=True)
    (place / "machine").mkdir(parents=True)
    (place / "server").mkdir()
    (place / COMMIT).write_text(commit())
    lab = Lab(place / "lab")
    lab.directory.mkdir()
    lab.offer(lab.version)
    with Server(lab.repository, place / "server") as server:
        if operation.factory:
            machine = lab.machine(place / "machine", extra=_SEPARATE)
            machine.start()
        else:
            saved = factory(folder)
            machine = snapshot.restore(
                dataclasses.replace(saved, extra=(*saved.extra, *_SEPARATE)), place / "machine"
            )
        try:
            config = _record(machine, Session(lab, Device(machine), server), operation, place)
        finally:
            machine.kill()
    shutil.copytree(lab.repository / "metadata", place / "repository/metadata")
    shutil.copyfile(lab.prepare_keys() / ANCHOR, place / ANCHOR.name)
    shutil.rmtree(lab.directory)
    shutil.rmtree(place / "machine")
    # Last: what lacks it is not complete.
    (place / _DEVICE_FILE).write_bytes(config)
    found = find(folder, operation.name)
    assert found is not None
    return found


def _record(machine: Machine, session: Session, operation: Operation, place: Path) -> bytes:
    operation.prepare(session)
    if not operation.factory:
        machine.run("sync")
    with recorded(machine, place / "base.raw", place / "writes.log"):
        if operation.factory:
            session.device.settle()
            session.device.rest()
        cache = machine.run("cat /sys/block/vda/queue/write_cache").output.strip()
        if cache != "write back":
            raise MachineError(f"cannot record: the guest sees a disk with cache {cache!r}")
        operation.perform(session)
        machine.run("sync")
    return machine.run(f"cat {device_file.DEVICE_FILE}").output.encode()


def factory(folder: Path) -> Snapshot:
    """The factory device after its first boot."""
    saved = snapshot.load(folder / "factory")
    if saved is not None:
        return saved
    work = folder / "factory/machine"
    shutil.rmtree(folder / "factory", ignore_errors=True)
    work.mkdir(parents=True)
    lab = Lab(folder / "factory/lab")
    lab.directory.mkdir()
    machine = lab.machine(work)
    machine.start()
    try:
        device = Device(machine)
        device.settle()
        device.rest()
        machine.run("sync")
        return snapshot.save(machine, folder / "factory")
    finally:
        machine.kill()


def describe(recording: Recording) -> str:
    """A line for people."""
    return json.dumps({"name": recording.name, "log": recording.log.stat().st_size})
