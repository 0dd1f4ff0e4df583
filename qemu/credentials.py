"""What the machine tells systemd in the guest: system credentials in SMBIOS type 11 strings.

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
ExecStart=/bin/sh /run/credentials/@system/orbital-test.agent
StandardOutput=null
StandardError=null
Restart=always
RestartSec=200ms
KillMode=process
OOMScoreAdjust=-900
"""
_WANTED = "[Unit]\nWants=orbital-test.service\n"


def shell_credentials() -> dict[str, bytes]:
    """The credentials that give a guest the root shell that `qemu.shell` talks to."""
    return {
        "orbital-test.agent": _AGENT.read_bytes(),
        "systemd.extra-unit.orbital-test.service": _SERVICE.encode(),
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
