"""Orbital's side in the guest: the device, and one update of it.

`python3 device.py factory FACTS` makes the state of a device that runs the old image;
`python3 device.py update FACTS URL PREFER` does what `orbital system update --source URL --prefer
PREFER` does. FACTS is a JSON file (`benchmarks.install.offer.Offer.facts`). Disks:
`benchmarks.install.guest`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.device import Preference

sys.path.insert(0, "/usr/lib/orbital")

STATE = Path("/state/orbital")
ANCHOR = Path("/etc/bench/root.json")
DISKS = {"a": "/dev/vda", "b": "/dev/vdb"}
BOOT_DISKS = {"a": "/dev/vdc", "b": "/dev/vdd"}
ENVIRONMENT = Path("/dev/vde")


def factory(facts: dict[str, str]) -> None:
    """The state and the boot record of a device that has never been updated."""
    from recovery.bootcontrol.recorded import GOOD, Count, Record
    from recovery.bootcontrol.uboot import UbootEnvironment
    from recovery.generations import Generation
    from recovery.state import StateRecord, StateStore

    UbootEnvironment(ENVIRONMENT).save(Record(("a",), GOOD, Count()))
    store = StateStore(STATE)
    store.generations.write(
        Generation(
            1, "a", facts["system"], facts["old"], facts["old_root_hash"], None, 0, "factory", "-"
        )
    )
    store.save(StateRecord(next_generation=2, committed=1))


def update(facts: dict[str, str], url: str, prefer: Preference) -> None:
    """Installs the newest version into slot b, up to the commit point."""
    from recovery.bootcontrol.recorded import Recorded
    from recovery.bootcontrol.uboot import UbootEnvironment
    from recovery.device import DeviceConfig
    from recovery.reporter import SilentReporter
    from recovery.slots import SLOTS
    from recovery.state import StateStore
    from updater import update as updating
    from updater.device import Device

    config = DeviceConfig(
        system=facts["system"],
        version=facts["old"],
        board=facts["board"],
        architecture="x86_64",
        built=0,
        boot_control="u-boot",
        boot_partition="",
        state="state",
        slots={"a": "root-a", "b": "root-b"},
        environment="environment",
        boot_slots={"a": "boot-a", "b": "boot-b"},
    )
    device = Device(
        config=config,
        store=StateStore(STATE),
        boot_control=Recorded(UbootEnvironment(ENVIRONMENT), "a"),
        slots={slot: Path(DISKS[slot]) for slot in SLOTS},
        boot_directory=None,
        anchor=ANCHOR,
        boot_id="benchmark",
        generation=1,
        boot_slots={slot: Path(BOOT_DISKS[slot]) for slot in SLOTS},
    )
    request = updating.Request(url, None, "benchmark", prefer=prefer)
    done = updating.update(device, request, SilentReporter())
    assert done.installed is not None, done
    print(done.installed)


if __name__ == "__main__":
    known = json.loads(Path(sys.argv[2]).read_text())
    if sys.argv[1] == "factory":
        factory(known)
    else:
        update(known, sys.argv[3], "time" if sys.argv[4] == "time" else "bytes")
