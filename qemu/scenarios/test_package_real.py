"""The shipped packages do their job: a tunnel, a hotspot, a firewall."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from qemu.deadline import Deadline
from qemu.debian import unpack
from qemu.device import Device
from qemu.fixtures import MachineFactory
from qemu.hardware import Forward
from qemu.lab import Lab
from qemu.machine import Machine
from qemu.snapshot import Snapshot
from qemu.sockets import free_port

pytestmark = [pytest.mark.boot, pytest.mark.campaign]

UDP = 51820
# The host, and what it forwards, as a guest sees it in QEMU's user network.
HOST = "10.0.2.2"


def lead_udp_in(machine: Machine, port: int, guest_port: int) -> None:
    """UDP packets to that port of the host reach the guest from now on."""
    said = machine.qmp.execute(
        "human-monitor-command",
        {"command-line": f"hostfwd_add net0 udp:127.0.0.1:{port}-:{guest_port}"},
    )
    assert not said, said


def until(device: Device, command: str, timeout: float = 600) -> str:
    """Runs a command in the guest until it succeeds; returns what it printed."""
    deadline = Deadline(timeout)
    while True:
        result = device.machine.run(command, 300, check=False)
        if result.returncode == 0:
            return result.output
        assert not deadline.expired, f"{command}: {result.output}"
        deadline.pause(0.5)


SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    while True:
        connection, _ = server.accept()
        connection.sendall(sys.argv[3].encode())
        connection.close()
"""
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as connection:
    print(connection.recv(100).decode())
"""


def listen(device: Device, address: str, port: int, text: str) -> None:
    """A TCP server in the guest that sends a text to each that connects."""
    device.machine.shell.push("/run/server.py", SERVER.encode())
    device.machine.run(
        f"systemd-run --quiet --unit=listen-{port} python3 /run/server.py {address} {port} {text}"
    )
    until(device, f"grep -qi ':{port:04X} 00000000:0000 0A' /proc/net/tcp")


def test_a_tunnel_between_two_machines_carries_traffic(
    stocked_device: Snapshot, machines: MachineFactory
) -> None:
    near = Device(machines.restore(stocked_device))
    far = Device(machines.restore(stocked_device))
    port = free_port(socket.SOCK_DGRAM)
    lead_udp_in(near.machine, port, UDP)

    # The package waits, visibly, until its setup has run: no key, no tunnel.
    assert near.unit("wireguard", "tunnel")["ActiveState"] == "inactive"
    assert near.packages()["wireguard"]["state"] == "waiting for configuration"
    keys = [device.run_program("wireguard", "setup").output.split()[-1] for device in (near, far)]
    assert keys[0] != keys[1], "each device makes its own key"

    near.configure("wireguard", "tunnel", address="10.9.0.1/24", peers=[f"{keys[1]} 10.9.0.2/32"])
    far.configure(
        "wireguard",
        "tunnel",
        address="10.9.0.2/24",
        peers=[f"{keys[0]} 10.9.0.1/32 {HOST}:{port}"],
    )
    for device in (near, far):
        assert device.unit("wireguard", "tunnel")["ActiveState"] == "active"

    until(far, "busybox ping -c 1 -W 2 10.9.0.1")
    listen(near, "10.9.0.1", 7000, "through-the-tunnel")
    # Nothing but the tunnel leads there: the first machine's address is nobody's else.
    far.machine.shell.push("/run/client.py", CLIENT.encode())
    answer = until(far, "python3 /run/client.py 10.9.0.1 7000")
    assert answer == "through-the-tunnel\n"
    metrics = far.machine.run("busybox wget -q -O - http://127.0.0.1:9586/metrics").output
    received = [
        line for line in metrics.splitlines() if line.startswith("wireguard_received_bytes_total{")
    ]
    assert len(received) == 1 and float(received[0].split()[-1]) > 0, metrics

    # The other end's key is what makes the tunnel: with another one, silence.
    far.configure(
        "wireguard",
        "tunnel",
        address="10.9.0.2/24",
        peers=[f"{keys[1]} 10.9.0.1/32 {HOST}:{port}"],
    )
    assert far.machine.run("busybox ping -c 1 -W 3 10.9.0.1", check=False).returncode != 0


def test_a_client_joins_the_hotspot_and_gets_an_address_and_a_route(
    stocked: Device, stock: Lab, tmp_path: Path
) -> None:
    run = stocked.machine.run
    client = unpack(stock, tmp_path, "wpasupplicant", "libpcsclite1", "iw", "libnl-3-200",
                    "libnl-genl-3-200", "libnl-route-3-200")  # fmt: skip
    wanted = ("usr/sbin/wpa_supplicant", "usr/sbin/iw", "usr/lib/x86_64-linux-gnu/*.so.*")
    for path in (found for pattern in wanted for found in sorted(client.glob(pattern))):
        name = "bin/" if "sbin" in path.parts else "lib/"
        stocked.machine.shell.push(f"/run/client/{name}{path.name}", path.read_bytes())
    run("chmod +x /run/client/bin/*; modprobe mac80211_hwsim radios=2")
    stocked.configure("hotspot", "radio", ssid="orbital test", passphrase="correct horse")
    assert stocked.unit("hotspot", "radio")["ActiveState"] == "active"

    # The second radio is a machine of its own, as far as the network goes.
    libraries = "LD_LIBRARY_PATH=/run/client/lib"
    run(
        "ip netns add client && phy=$(cat /sys/class/net/wlan1/phy80211/name)"
        f" && {libraries} /run/client/bin/iw phy $phy set netns name client"
    )
    stocked.machine.shell.push("/run/client/bad.conf", network("orbital test", "wrong horse"))
    stocked.machine.shell.push("/run/client/good.conf", network("orbital test", "correct horse"))
    supplicant = "/run/client/bin/wpa_supplicant -i wlan1 -D nl80211"
    linked = "ip -n client link show wlan1 | grep -q LOWER_UP"
    # wpa_supplicant says so when the access point rejects its key.
    job = stocked.machine.shell.spawn(
        f"{libraries} ip netns exec client timeout 12 {supplicant} -c /run/client/bad.conf"
    )
    refused = job.wait(60).output
    assert "CTRL-EVENT-CONNECTED" not in refused and "WRONG_KEY" in refused, refused

    run(f"{libraries} ip netns exec client {supplicant} -B -c /run/client/good.conf")
    until(stocked, linked)
    stocked.machine.shell.push("/run/client/bound", BOUND.encode())
    run("chmod +x /run/client/bound")
    run("ip netns exec client busybox udhcpc -i wlan1 -n -q -t 10 -s /run/client/bound", 60)
    address = json.loads(run("ip -n client -json address show wlan1").output)[0]["addr_info"]
    assert any(item["local"].startswith("10.20.0.") for item in address)
    assert "default via 10.20.0.1" in run("ip -n client route").output

    # To the device, and through it to the world: the host's web server, by its address there.
    run("ip netns exec client busybox ping -c 1 -W 5 10.20.0.1")
    reached = run(
        f"ip netns exec client busybox wget -T 10 -O /dev/null http://{HOST}:1/", check=False
    ).output
    assert "refused" in reached, f"no answer from the other side: {reached}"
    metrics = run("busybox wget -q -O - http://127.0.0.1:9587/metrics").output
    assert "hotspot_stations 1" in metrics


def network(ssid: str, passphrase: str) -> bytes:
    """wpa_supplicant.conf(5)."""
    return f'network={{\n ssid="{ssid}"\n psk="{passphrase}"\n}}\n'.encode()


# What udhcpc calls: `script EVENT`, with what it was given in variables.
BOUND = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip address replace "$ip/$mask" dev "$interface"
ip route replace default via "$router"
"""


def test_the_firewall_blocks_and_passes_what_it_says(
    stocked_device: Snapshot, machines: MachineFactory
) -> None:
    ports = {guest: free_port(socket.SOCK_STREAM) for guest in (8001, 8002, 8003)}
    forwards = tuple(Forward(host, guest) for guest, host in ports.items())
    device = Device(machines.restore(stocked_device, forwards=forwards))
    for port in ports:
        listen(device, "0.0.0.0", port, f"port-{port}")

    def answers(port: int) -> bool:
        """Whether the host gets the guest's text from that port."""
        with socket.create_connection(("127.0.0.1", ports[port]), 10) as connection:
            connection.settimeout(3)
            try:
                return connection.recv(100) == f"port-{port}".encode()
            except TimeoutError:
                return False

    # The system's own filter lets nobody in.
    assert [answers(port) for port in ports] == [False, False, False]
    device.configure(
        "firewall", "rules", allow=["tcp 8001-8002"], deny=["tcp 8002 from 10.0.2.0/24"]
    )
    assert [answers(port) for port in ports] == [True, False, False]
    metrics = device.machine.run("busybox wget -q -O - http://127.0.0.1:9588/metrics").output
    dropped = next(
        line for line in metrics.splitlines() if line.startswith("firewall_dropped_packets_total ")
    )
    assert int(dropped.split()[1]) > 0

    # Somebody else's hand in the rules does not last.
    device.machine.run("nft flush chain inet firewall decide")
    until(device, "nft list chain inet firewall decide | grep -q 8001")
    # Without the package its rules are gone, and the system's own are as before.
    device.package("disable", "firewall")
    assert "inet firewall" not in device.machine.run("nft list tables").output
    assert [answers(port) for port in ports] == [False, False, False]
