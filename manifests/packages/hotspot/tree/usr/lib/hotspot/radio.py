"""The access point: hostapd on the radio, the hotspot's address, and the way out.

What stations send carries the mark that the system's packet filter lets in
(/usr/lib/routing/ruleset.nft); answers find their way back by connection tracking.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import servicekit
from servicekit import ServiceError, run

METRICS_PORT = 9587
ADMITTED = "0x01000000"
_UP_SECONDS = 30
_STATION = re.compile(r"AP-STA-(CONNECTED|DISCONNECTED) ([0-9a-f:]{17})")


@dataclass(frozen=True)
class Radio:
    """The configuration. address: with prefix length."""

    interface: str
    ssid: str
    passphrase: str
    channel: int
    address: str


def radio_of(values: dict[str, object]) -> Radio:
    """The radio from the configuration's values. Raises ServiceError."""
    try:
        ipaddress.IPv4Interface(str(values["address"]))
    except ValueError as error:
        raise ServiceError(f"cannot use the hotspot's address: {error}") from error
    return Radio(
        interface=str(values["interface"]),
        ssid=str(values["ssid"]),
        passphrase=str(values["passphrase"]),
        channel=int(str(values["channel"])),
        address=str(values["address"]),
    )


def hostapd_configuration(radio: Radio) -> str:
    """hostapd.conf: WPA2 with a passphrase, 2.4 GHz."""
    return "\n".join(
        [
            f"interface={radio.interface}",
            "driver=nl80211",
            # Standard output only, which is the service's log.
            "logger_syslog=0",
            # As hex, so that no character has a meaning of its own.
            f"ssid2={radio.ssid.encode().hex()}",
            "hw_mode=g",
            f"channel={radio.channel}",
            "ieee80211n=1",
            "wmm_enabled=1",
            "wpa=2",
            "wpa_key_mgmt=WPA-PSK",
            "rsn_pairwise=CCMP",
            f"wpa_passphrase={radio.passphrase}",
            "",
        ]
    )


def filter_rules(radio: Radio) -> str:
    """The packet filter's table, made anew in one transaction."""
    admit = f'iifname "{radio.interface}" meta mark set meta mark or {ADMITTED}'
    network = ipaddress.IPv4Interface(radio.address).network
    return f"""destroy table inet hotspot
table inet hotspot {{
    chain input {{
        type filter hook input priority filter - 10; policy accept;
        {admit}
    }}
    chain forward {{
        type filter hook forward priority filter - 10; policy accept;
        {admit}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {network} oifname != "{radio.interface}" masquerade
    }}
}}
"""


class AccessPoint:
    """hostapd while it runs, and the stations it told of."""

    def __init__(self, radio: Radio) -> None:
        self.stations: set[str] = set()
        # Not a file: the passphrase stays in memory.
        configuration = os.memfd_create("hostapd.conf")
        os.write(configuration, hostapd_configuration(radio).encode())
        os.lseek(configuration, 0, os.SEEK_SET)
        self._process = subprocess.Popen(
            ["/usr/sbin/hostapd", f"/proc/self/fd/{configuration}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[configuration],
        )
        os.close(configuration)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            servicekit.say(line.rstrip())
            if found := _STATION.search(line):
                (self.stations.add if found[1] == "CONNECTED" else self.stations.discard)(found[2])

    def insist(self) -> None:
        """Raises ServiceError when hostapd has ended."""
        if (code := self._process.poll()) is not None:
            raise ServiceError(f"cannot go on: hostapd ended with code {code}")

    def end(self) -> None:
        """Ends hostapd, which leaves the radio as it was."""
        self._process.terminate()
        try:
            self._process.wait(8)
        except subprocess.TimeoutExpired:
            self._process.kill()


def serve(_arguments: list[str]) -> None:
    """Runs the access point until the service is stopped."""
    radio = radio_of(servicekit.configuration("radio"))
    if not radio.passphrase:
        servicekit.say("the radio stays off: no passphrase is configured")
        _idle()
        return
    run("ip", "address", "replace", radio.address, "dev", radio.interface)
    access_point = AccessPoint(radio)
    try:
        run("nft", "--file", "-", stdin=filter_rules(radio))
        _await_up(radio, access_point)

        def metrics() -> tuple[int, str]:
            stations = [("", float(len(access_point.stations)))]
            text = "Stations that are connected"
            return 200, servicekit.prometheus([("hotspot_stations", "gauge", text, stations)])

        def health() -> tuple[int, str]:
            access_point.insist()
            return (200, "up\n") if _is_up(radio) else (503, f"{radio.interface} is down\n")

        with servicekit.Endpoint(METRICS_PORT, {"/metrics": metrics, "/health": health}):
            servicekit.ready(f"{radio.ssid} is on the air")
            servicekit.until_stopped(2.0, access_point.insist)
    finally:
        access_point.end()
        run("nft", "destroy table inet hotspot", check=False)
        run("ip", "address", "flush", "dev", radio.interface, check=False)


def _idle() -> None:
    """What a hotspot that nobody has configured does."""
    page = {"/metrics": lambda: (200, ""), "/health": lambda: (200, "off\n")}
    with servicekit.Endpoint(METRICS_PORT, page):
        servicekit.ready("off: no passphrase is configured")
        servicekit.until_stopped(3600.0, lambda: None)


def _await_up(radio: Radio, access_point: AccessPoint) -> None:
    deadline = time.monotonic() + _UP_SECONDS
    while not _is_up(radio):
        access_point.insist()
        if time.monotonic() > deadline:
            raise ServiceError(f"cannot see {radio.interface} up within {_UP_SECONDS} s")
        time.sleep(0.2)


def _is_up(radio: Radio) -> bool:
    """Whether the interface beacons, which its operational state says, and has its address."""
    found = json.loads(run("ip", "-json", "address", "show", "dev", radio.interface))[0]
    own = radio.address.split("/")[0]
    return found["operstate"] == "UP" and any(item["local"] == own for item in found["addr_info"])


if __name__ == "__main__":
    sys.exit(servicekit.start({"serve": serve}))
