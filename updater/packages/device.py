"""The device as a change of its package set needs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recovery.audit import Audit
from recovery.device import DeviceConfig
from recovery.errors import RefusedError, StateError
from recovery.generations import Generation
from recovery.packages import fsverity
from recovery.packages.host import PackageHost
from recovery.slots import Slot
from recovery.state import STATE_ROOT, StateRecord, StateStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from updater.packages.fetch import Verity


@dataclass(frozen=True)
class PackageDevice:
    """Everything that a change touches.

    slot, boot_id: of this boot. root: where /run and /usr are found. verity:
    puts images under fs-verity.
    """

    config: DeviceConfig
    store: StateStore
    host: PackageHost
    slot: Slot
    boot_id: str
    root: Path = Path("/")
    verity: Verity = fsverity

    @property
    def audit(self) -> Audit:
        """The audit trail of this device."""
        return Audit(self.store.root)

    def committed(self, record: StateRecord) -> Generation:
        """The committed generation, which is the one that runs.

        Raises RefusedError when another slot runs, StateError when its record
        cannot be read.
        """
        generation = self.store.generations.load(record.committed)
        if generation is None:
            raise StateError(
                f"cannot read the record of generation {record.committed}",
                resolution="reboot: early boot makes it again",
            )
        if generation.slot != self.slot:
            raise RefusedError(
                f"cannot change this device: slot {self.slot} runs, "
                f"slot {generation.slot} is committed",
                resolution="reboot into the committed slot first",
            )
        return generation


def open_packages(root: Path = Path("/"), who: str = "orbital") -> PackageDevice:
    """This device. who: asks, for the audit trail.

    Raises StateError or ManifestError when it was not booted by Orbital, or
    when nothing it writes would last.
    """
    from recovery.boot import load_report
    from recovery.device import load
    from recovery.packages.system import SystemHost

    report = load_report(root)
    if report.volatile:
        raise StateError(
            "cannot change this device: its state partition could not be used at boot",
            details="; ".join(report.notes),
            resolution="repair the disk, then reboot",
        )
    store = StateStore(root / STATE_ROOT.relative_to("/"))
    return PackageDevice(
        config=load(root),
        store=store,
        host=SystemHost(root, who),
        slot=report.slot,
        boot_id=report.boot_id,
        root=root,
    )
