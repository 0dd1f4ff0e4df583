"""capabilities.yaml: strict, documented, and on the device what it says here."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.capabilities import (
    DOCUMENTATION,
    FILE,
    device_policy,
    documentation,
    load_capabilities,
)
from recovery.errors import ManifestError
from recovery.packages import capabilities as device

ONE = """\
capabilities:
  - name: net.client
    summary: Open connections
    linux: [CAP_NET_RAW]
    network: host
    families: [AF_INET]
    devices: [/dev/net/tun rw]
    read_paths: [/etc/hosts]
    bus:
      - {destination: org.freedesktop.systemd1, member: GetUnit}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "capabilities.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_documentation_is_that_of_the_document() -> None:
    assert DOCUMENTATION.read_text(encoding="utf-8") == documentation(load_capabilities()), (
        "run: orbital manifest capabilities --write"
    )


def test_every_capability_is_documented_with_what_it_opens() -> None:
    document = load_capabilities()
    text = documentation(document)
    for item in document.capabilities:
        section = text.split(f"\n## {item.name}\n")[1].split("\n## ")[0]
        for word in (*item.linux, *item.families, *item.devices, *item.read_paths,
                     *(call.destination for call in item.bus)):  # fmt: skip
            assert f"`{word}`" in section, (item.name, word)


def test_the_device_reads_back_every_capability_with_what_it_opens() -> None:
    document = load_capabilities()
    policy = device_policy(document, ("time.set",))
    assert device.decode(device.encode(policy)) == policy
    assert [item.name for item in policy.capabilities] == list(document.names)
    tunnel = policy.find("net.tunnel")
    assert tunnel is not None
    assert (tunnel.linux, tunnel.network) == (("CAP_NET_ADMIN",), "host")
    assert tunnel.devices == ("/dev/net/tun rw",)


def test_a_refused_capability_is_none_on_the_device() -> None:
    policy = device_policy(load_capabilities(), ("time.set",))
    assert policy.find("time.set") is None
    assert policy.find("net.client") is not None


def test_a_call_without_interface_means_any(tmp_path: Path) -> None:
    policy = device_policy(load_capabilities(write(tmp_path, ONE)), ())
    assert policy.capabilities[0].bus == (
        device.BusRule("org.freedesktop.systemd1", interface="", member="GetUnit"),
    )


@pytest.mark.parametrize(
    ("old", "new", "brief", "fix"),
    [
        ("CAP_NET_RAW", "CAP_NET_RAV", 'linux[0]: expected a kernel capability, got "CAP_NET_RAV"',
         'did you mean "CAP_NET_RAW"?'),
        ("network: host", "network: hots", 'network: expected host or none, got "hots"',
         'did you mean "host"?'),
        ("    network: host\n", "", 'network: expected host, for these families, got "none"',
         "sockets of an empty network reach nobody"),
        ("[AF_INET]", "[INET]", "families[0]: expected a socket address family", ""),
        ("/dev/net/tun rw", "/dev/net/tun", "devices[0]: expected devices and what may be done",
         ""),
        ("/etc/hosts", "/etc/../root", "read_paths[0]: expected the full path", ""),
        ("net.client", "client", "name: expected a capability such as", ""),
        ("destination: org.freedesktop.systemd1", "destination: systemd",
         "bus[0].destination: expected a D-Bus name", ""),
        ("member", "method", "bus[0].method: expected a known key", "known keys: destination"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_and_fix(
    tmp_path: Path, old: str, new: str, brief: str, fix: str
) -> None:
    assert old in ONE
    with pytest.raises(ManifestError) as caught:
        load_capabilities(write(tmp_path, ONE.replace(old, new, 1)))
    assert f"capabilities[0].{brief}" in caught.value.brief
    assert caught.value.resolution.startswith(fix)


@pytest.mark.parametrize(
    ("more", "brief"),
    [
        ("  - {name: net.client, summary: Again, linux: [CAP_KILL]}\n",
         'capabilities[1].name: expected each capability once, got "net.client" again'),
        ("  - {name: net.none, summary: Opens nothing}\n",
         "capabilities[1]: expected something that it opens, got nothing"),
    ],
)  # fmt: skip
def test_a_capability_is_there_once_and_opens_something(
    tmp_path: Path, more: str, brief: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        load_capabilities(write(tmp_path, ONE + more))
    assert brief in caught.value.brief


def test_the_shipped_document_is_beside_its_loader() -> None:
    assert FILE.name == "capabilities.yaml"
    assert FILE.is_file()
