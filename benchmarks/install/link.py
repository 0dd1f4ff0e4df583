"""The link between web server and guest, in a network namespace of this process's own.

The namespace and all that is in it end with the process. Bytes are those of the interface,
headers of all layers included.
"""

from __future__ import annotations

import ctypes
import json
import os
from dataclasses import dataclass

from recovery import process
from recovery.errors import ToolError

NAME = "orb-rauc0"
SERVER, GUEST = "10.77.0.1", "10.77.0.2"
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Counters:
    """Bytes since the link was made. down: to the guest."""

    down: int
    up: int

    def __sub__(self, other: Counters) -> Counters:
        return Counters(self.down - other.down, self.up - other.up)


class Link:
    """A tap device. What this thread starts from now on is in its namespace."""

    def __init__(self) -> None:
        """Raises ToolError without the right to make namespaces."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET):
            raise ToolError(
                "cannot make a network namespace",
                details=os.strerror(ctypes.get_errno()),
                resolution="run the benchmark as root",
            )
        for command in (
            "ip link set lo up",
            f"ip tuntap add dev {NAME} mode tap",
            f"ip address add {SERVER}/24 dev {NAME}",
            f"ip link set {NAME} up",
        ):
            process.run(command.split())

    def throttle(self, megabits: float) -> None:
        """Sets the rate towards the guest, in Mbit/s; 0 is without limit. Nothing is delayed
        besides: Linux's own token bucket (tc-tbf(8))."""
        if not megabits:
            process.run(["tc", "qdisc", "del", "dev", NAME, "root"], check=False)
            return
        # A hundredth of a second's worth: several timer ticks; not less than a full packet.
        burst = max(16384, int(megabits * 1e6 / 8 / 100))
        process.run(
            f"tc qdisc replace dev {NAME} root tbf rate {megabits}mbit burst {burst}b "
            "latency 100ms".split()
        )

    def counters(self) -> Counters:
        """What has passed."""
        text = process.run(["ip", "-j", "-s", "link", "show", NAME]).stdout
        stats = json.loads(text)[0]["stats64"]
        # What the host sends, the guest gets.
        return Counters(down=stats["tx"]["bytes"], up=stats["rx"]["bytes"])
