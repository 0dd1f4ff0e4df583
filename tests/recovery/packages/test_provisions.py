"""What an image has for capabilities: groups of devices, and names on the bus."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from manifests.capabilities import load_capabilities
from recovery.packages import provisions

UNITS = Path(provisions.__file__).parent.parent / "units"
GROUPS = "root:x:0:\nclock:x:899:\ndialout:x:20:\n"


def records(groups: str) -> dict[str, dict[str, object]]:
    """The group records, by file name."""
    return {
        PurePosixPath(path).name: json.loads(text)
        for path, text in provisions.files(groups).items()
        if path.startswith("usr/lib/userdb/")
    }


def test_every_group_and_directory_that_capabilities_open_is_debians_or_made_here() -> None:
    made = provisions.files(GROUPS)
    directories = made["usr/lib/tmpfiles.d/orbital-packages.conf"]
    for item in load_capabilities().capabilities:
        for group in item.groups:
            assert group == "dialout" or f"usr/lib/userdb/{group}.group" in made, item.name
        for path in item.write_paths:
            assert f"d {path} 0730 root " in directories, item.name


def test_a_group_is_found_by_name_and_by_a_number_that_nobody_has() -> None:
    found = records(GROUPS)
    assert found["gpio.group"] == {"disposition": "system", "gid": 898, "groupName": "gpio"}
    assert found["898.group"] == found["gpio.group"]
    assert (found["power.group"]["gid"], found["rfkill.group"]["gid"]) == (897, 896)
    rules = provisions.files(GROUPS)["usr/lib/udev/rules.d/60-orbital-packages.rules"]
    assert 'KERNEL=="gpiochip*", GROUP="gpio", MODE="0660"\n' in rules


def test_a_group_that_the_image_has_keeps_its_number() -> None:
    found = records(GROUPS + "gpio:x:986:\n")
    assert set(found) == {"898.group", "power.group", "897.group", "rfkill.group"}


def test_the_files_that_restart_the_device_are_in_the_directory_of_the_capability() -> None:
    opened = load_capabilities().find("system.reboot")
    assert opened is not None
    (directory,) = opened.write_paths
    for what in ("reboot", "poweroff"):
        unit = (UNITS / f"orbital-{what}.path").read_text()
        assert f"PathExists={directory}/{what}\nUnit={what}.target\n" in unit
