"""What every image has so that capabilities can open it: groups, devices, a directory. Pure.

Files of the image, put there when it is built. Device nodes: the kernel makes
them root's own, and Debian has no group for these; udev gives them to a group
that services get with the capability. Groups are JSON group records below
/usr/lib/userdb (nss-systemd(8)), not lines of /etc/group, which a device may
have changed. Who may create files in the directory restarts the device: path
units wait for them (recovery/units/orbital-reboot.path, orbital-poweroff.path).
"""

from __future__ import annotations

import json

# Group -> udev's match of its devices.
_DEVICES = {
    "gpio": 'SUBSYSTEM=="gpio", KERNEL=="gpiochip*"',
    "rfkill": 'SUBSYSTEM=="misc", KERNEL=="rfkill"',
}
_POWER = "power"
_RULES = "usr/lib/udev/rules.d/60-orbital-packages.rules"
_DIRECTORIES = "usr/lib/tmpfiles.d/orbital-packages.conf"
# Below what systemd-sysusers takes, from 999 downwards; udev wants a system's number.
_HIGHEST = 899


def files(groups: str) -> dict[str, str]:
    """Text by path. groups: the image's /etc/group, whose names and numbers stay what they are."""
    lines = [line.split(":") for line in groups.splitlines() if line.count(":") >= 2]
    present = {line[0] for line in lines}
    taken = {line[2] for line in lines}
    free = (number for number in range(_HIGHEST, 99, -1) if str(number) not in taken)
    found = {
        _RULES: "".join(
            f'{match}, GROUP="{group}", MODE="0660"\n' for group, match in _DEVICES.items()
        ),
        # Only creating: what others ask for is nobody's business.
        _DIRECTORIES: f"d /run/orbital/power 0730 root {_POWER} -\n",
    }
    for group in sorted({*_DEVICES, _POWER} - present):
        number = next(free)
        record = {"groupName": group, "gid": number, "disposition": "system"}
        text = json.dumps(record, sort_keys=True) + "\n"
        # By name and by number.
        found[f"usr/lib/userdb/{group}.group"] = text
        found[f"usr/lib/userdb/{number}.group"] = text
    return found
