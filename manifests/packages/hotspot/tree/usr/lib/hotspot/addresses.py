"""Addresses and names for the hotspot's stations: becomes dnsmasq with the right arguments.

STATE_DIRECTORY/leases: which station has which address (dnsmasq(8)).
"""

from __future__ import annotations

import ipaddress
import os
import sys

import servicekit
from servicekit import ServiceError

_FIRST, _LAST = 10, 250
_LEASE = "1h"


def dnsmasq_arguments(interface: str, address: str, leases: str) -> list[str]:
    """The command line; every choice that dnsmasq would read from a file is made here.

    address: the device's own, with prefix length; stations get the tenth address of its
    network and those after it. Raises ServiceError.
    """
    own = ipaddress.IPv4Interface(address)
    last = min(_LAST, own.network.num_addresses - 2)
    if last < _FIRST:
        raise ServiceError(f"cannot share out {own.network}: it has no room for stations")
    first = own.network.network_address
    return [
        "/usr/sbin/dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--log-facility=-",
        "--pid-file=",
        # Also before the interface is there, and again after it was gone.
        "--bind-dynamic",
        f"--interface={interface}",
        f"--dhcp-range={first + _FIRST},{first + last},{own.network.netmask},{_LEASE}",
        f"--dhcp-leasefile={leases}",
        "--dhcp-authoritative",
        "--no-hosts",
        "--no-ping",
    ]


def serve(_arguments: list[str]) -> None:
    """Becomes dnsmasq."""
    radio = servicekit.configuration("radio")
    leases = str(servicekit.state_directory() / "leases")
    command = dnsmasq_arguments(str(radio["interface"]), str(radio["address"]), leases)
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(servicekit.start({"serve": serve}))
