"""What the machine tells systemd in the guest: system credentials, in SMBIOS or fw_cfg.

A guest that can read neither gets its root shell by `qemu.planted`.

See systemd.system-credentials(7). systemd 256 and later make units out of
`systemd.extra-unit.*` and drop-ins out of `systemd.unit-dropin.*`, so a test
can add a service to an image that knows nothing of tests.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

PORT = "orbital.test"
_AGENT = Path(__file__).with_name("agent.sh")

# No default dependencies: the shell must live from before the file systems
# are mounted until the last process is killed. Nothing goes to the journal,
# which would make the service wait for it. KillMode: commands started in the
# background outlive a restart of the shell.
_SERVICE = """\
[Unit]
Description=Root shell of the test harness
DefaultDependencies=no
IgnoreOnIsolate=yes
StartLimitIntervalSec=0

[Service]
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStartPre=-/sbin/modprobe -q virtio_console
ExecStart=/bin/sh {agent}
StandardOutput=null
StandardError=null
Restart=always
RestartSec=200ms
KillMode=process
OOMScoreAdjust=-900
"""
_WANTED = "[Unit]\nWants=orbital-test.service\n"


# QEMU takes names of at most 55 bytes for fw_cfg, "opt/io.systemd.credentials/" included: so
# the unit has the shortest name there is, and hangs on the one unit that every way to boot
# starts and whose name is short enough.
_FW_CFG_NAMES = {
    "systemd.extra-unit.orbital-test.service": "systemd.extra-unit.o.service",
    "systemd.unit-dropin.sysinit.target": "systemd.unit-dropin.-.mount",
}


def shell_service(agent: str = "/run/credentials/@system/orbital-test.agent") -> str:
    """The unit that runs the guest's side of the shell. agent: where that is."""
    return _SERVICE.format(agent=agent)


def shell_credentials() -> dict[str, bytes]:
    """The credentials that give a guest the root shell that `qemu.shell` talks to."""
    return {
        "orbital-test.agent": _AGENT.read_bytes(),
        "systemd.extra-unit.orbital-test.service": shell_service().encode(),
        # One of these is part of every way to boot.
        "systemd.unit-dropin.sysinit.target": _WANTED.encode(),
        "systemd.unit-dropin.emergency.target": _WANTED.encode(),
    }


def smbios_options(credentials: Mapping[str, bytes]) -> list[str]:
    """QEMU's options that pass the credentials."""
    options: list[str] = []
    for name, value in sorted(credentials.items()):
        text = base64.b64encode(value).decode()
        options += ["-smbios", f"type=11,value=io.systemd.credential.binary:{name}={text}"]
    return options


def fw_cfg_options(credentials: Mapping[str, bytes]) -> list[str]:
    """QEMU's options that pass the credentials to a machine with a device tree."""
    options: list[str] = []
    for name, value in sorted(credentials.items()):
        short = _FW_CFG_NAMES.get(name, name)
        if name == "systemd.unit-dropin.emergency.target":
            continue  # has the root mount, too
        text = value.decode().replace("orbital-test.service", "o.service").replace(",", ",,")
        options += ["-fw_cfg", f"name=opt/io.systemd.credentials/{short},string={text}"]
    return options
