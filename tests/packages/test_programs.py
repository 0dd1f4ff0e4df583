"""Programs of the shipped packages: what they make of their configuration, without a kernel."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACKAGES = Path(__file__).parent.parent.parent / "manifests" / "packages"
LIBRARY = PACKAGES / "servicekit/tree/usr/lib/python3/dist-packages"
KEY = "A" * 42 + "8="
OTHER = "B" * 42 + "8="


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the view of a package adds to Python's path."""
    monkeypatch.syspath_prepend(str(LIBRARY))


def program(path: str) -> ModuleType:
    """A program as a module."""
    file = PACKAGES / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up there.
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tunnel() -> ModuleType:
    """The WireGuard package's program."""
    return program("wireguard/tree/usr/lib/wireguard/tunnel.py")


@pytest.fixture
def rules() -> ModuleType:
    """The firewall package's program."""
    return program("firewall/tree/usr/lib/firewall/rules.py")


def values(*peers: str, trusted: bool = True) -> dict[str, object]:
    return {
        "interface": "wg0",
        "address": "10.9.0.1/24",
        "port": 51820,
        "peers": list(peers),
        "trusted": trusted,
    }


def test_a_peer_behind_a_network_gets_a_route_and_one_inside_the_tunnel_does_not(
    tunnel: ModuleType,
) -> None:
    found = tunnel.tunnel_of(values(f"{KEY} 10.9.0.2/32,192.168.5.0/24"), "")
    assert found.routes == ("192.168.5.0/24",)


def test_an_added_peer_replaces_the_configured_one_with_its_key(tunnel: ModuleType) -> None:
    added = tunnel.parse_address(f"wg:{KEY}@198.51.100.7:51820?allowed=10.9.0.2/32")
    found = tunnel.tunnel_of(values(f"{KEY} 10.9.0.9/32", f"{OTHER} 10.9.0.3/32"), added + "\n")
    assert [(peer.key, peer.networks, peer.endpoint) for peer in found.peers] == [
        (KEY, ("10.9.0.2/32",), "198.51.100.7:51820"),
        (OTHER, ("10.9.0.3/32",), ""),
    ]


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org",
        "wg:nobody?allowed=10.0.0.0/8",
        f"wg:{KEY}@host:1",
        f"wg:{KEY}@host:1?allowed=10.0.0.0/8&allowed=::/0",
    ],
)
def test_an_address_that_says_too_little_or_too_much_is_refused(
    tunnel: ModuleType, address: str
) -> None:
    with pytest.raises(tunnel.ServiceError, match="cannot use"):
        tunnel.parse_address(address)


def test_a_peer_cannot_smuggle_lines_into_the_configuration_of_wg(tunnel: ModuleType) -> None:
    with pytest.raises(tunnel.ServiceError, match="cannot use the peer"):
        tunnel.parse_peer(f"{KEY} 10.0.0.0/8 host:1\nPrivateKey = x")


def test_only_a_trusted_tunnel_passes_the_systems_filter(tunnel: ModuleType) -> None:
    trusted = tunnel.filter_rules(tunnel.tunnel_of(values(), ""))
    untrusted = tunnel.filter_rules(tunnel.tunnel_of(values(trusted=False), ""))
    assert trusted.count('iifname "wg0"') == 2
    assert 'iifname "wg0"' not in untrusted
    assert "udp dport 51820" in untrusted


def test_metrics_of_the_tunnel_come_from_what_wg_dumps(tunnel: ModuleType) -> None:
    dump = (
        f"private\tpublic\t51820\toff\n{KEY}\t(none)\t192.0.2.1:5\t10.9.0.2/32\t17\t100\t200\t25\n"
    )
    text = tunnel.metrics_of(dump)
    assert f'wireguard_latest_handshake_seconds{{peer="{KEY}"}} 17' in text
    assert f'wireguard_received_bytes_total{{peer="{KEY}"}} 100' in text
    assert "wireguard_peers 1" in text


def test_firewall_rules_become_conditions_of_nftables(rules: ModuleType) -> None:
    assert rules.match_of("tcp 22 from 10.1.2.3/8 on eth*") == (
        'iifname "eth*" ip saddr 10.0.0.0/8 tcp dport 22'
    )
    assert rules.match_of("udp 100-200") == "udp dport 100-200"
    assert rules.match_of("any from fd00::/8") == "ip6 saddr fd00::/8"
    assert rules.match_of("any") == ""


@pytest.mark.parametrize(
    "text",
    ["tcp 0", "tcp 70000", "tcp 9-3", "any 22", "tcp 22; accept", "any from 1.2.3", 'any on "x"'],
)
def test_a_rule_that_means_nothing_is_refused(rules: ModuleType, text: str) -> None:
    with pytest.raises(rules.ServiceError, match="cannot use the rule"):
        rules.match_of(text)


def test_what_is_denied_comes_before_what_is_allowed(rules: ModuleType) -> None:
    text = rules.ruleset(["tcp 22 from 10.0.0.0/8"], ["tcp 22"], "drop")
    lines = [line.strip() for line in text.splitlines()]
    denied = lines.index("ip saddr 10.0.0.0/8 tcp dport 22 counter drop")
    allowed = next(n for n, line in enumerate(lines) if line.startswith("tcp dport 22 counter"))
    assert denied < allowed < lines.index("counter drop")


def test_the_firewall_counts_only_what_it_dropped(rules: ModuleType) -> None:
    listing = {
        "nftables": [
            {"rule": {"expr": [{"counter": {"packets": 3}}, {"drop": None}]}},
            {"rule": {"expr": [{"counter": {"packets": 5}}, {"accept": None}]}},
            {"chain": {"name": "rules"}},
        ]
    }
    assert rules.dropped(listing) == 3


def test_a_name_of_a_network_cannot_change_the_configuration_of_hostapd() -> None:
    radio = program("hotspot/tree/usr/lib/hotspot/radio.py")
    found = radio.radio_of(
        {
            "interface": "wlan0",
            "ssid": "a b#=",
            "passphrase": "correct horse",
            "channel": 6,
            "address": "10.20.0.1/24",
        }
    )
    text = radio.hostapd_configuration(found)
    assert "ssid2=612062233d\n" in text
    assert text.count("wpa_passphrase=") == 1


def test_stations_share_the_network_that_the_device_has_an_address_in() -> None:
    addresses = program("hotspot/tree/usr/lib/hotspot/addresses.py")
    arguments = addresses.dnsmasq_arguments("wlan0", "10.20.0.1/26", "/var/lib/x/leases")
    assert "--dhcp-range=10.20.0.10,10.20.0.62,255.255.255.192,1h" in arguments
    with pytest.raises(addresses.ServiceError, match="no room"):
        addresses.dnsmasq_arguments("wlan0", "10.20.0.1/29", "leases")


def test_configuration_state_and_metrics_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servicekit = program("servicekit/tree/usr/lib/python3/dist-packages/servicekit.py")
    (tmp_path / "rules.json").write_text(json.dumps({"a": 1}))
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    assert servicekit.configuration("rules") == {"a": 1}
    with pytest.raises(servicekit.ServiceError, match="cannot read the configuration other"):
        servicekit.configuration("other")
    servicekit.write_state("secret", "x")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    text = servicekit.prometheus([("n", "gauge", "Number", [('a="b"', 1.5), ("", 2)])])
    assert text == '# HELP n Number\n# TYPE n gauge\nn{a="b"} 1.5\nn 2\n'
