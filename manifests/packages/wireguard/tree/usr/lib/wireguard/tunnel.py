"""The WireGuard tunnel: an interface made as its configuration says, and taken away again.

    STATE_DIRECTORY/private.key   made by "setup"; readable by the service's user only
    STATE_DIRECTORY/peers         one a line, as in the configuration; written by "add"

The interface exists while the service runs. Packets to the tunnel's port and, where the
tunnel is trusted, out of it carry the mark that the system's packet filter lets in
(/usr/lib/routing/ruleset.nft).
"""

from __future__ import annotations

import ipaddress
import json
import re
import sys
import urllib.parse
from dataclasses import dataclass

import servicekit
from servicekit import ServiceError, run

METRICS_PORT = 9586
ADMITTED = "0x01000000"
_PEER = re.compile(r"([A-Za-z0-9+/]{43}=) ([0-9a-f.:/,]+)(?: (\S+:[0-9]+))?")


@dataclass(frozen=True)
class Peer:
    """Another end. networks: what is behind it. endpoint: HOST:PORT, "" to wait for its call."""

    key: str
    networks: tuple[str, ...]
    endpoint: str = ""


@dataclass(frozen=True)
class Tunnel:
    """The configuration. address: with prefix length. port: UDP."""

    interface: str
    address: str
    port: int
    peers: tuple[Peer, ...]
    trusted: bool

    @property
    def routes(self) -> tuple[str, ...]:
        """Networks behind peers that the address's own network does not contain."""
        own = ipaddress.ip_interface(self.address).network
        return tuple(
            text
            for peer in self.peers
            for text in peer.networks
            if not _within(ipaddress.ip_network(text), own)
        )


def parse_peer(line: str) -> Peer:
    """A peer from its line. Raises ServiceError."""
    found = _PEER.fullmatch(line.strip())
    if not found:
        raise ServiceError(f"cannot use the peer {line!r}: write KEY NETWORK[,...] [HOST:PORT]")
    networks = tuple(found[2].split(","))
    try:
        networks = tuple(str(ipaddress.ip_network(text, strict=False)) for text in networks)
    except ValueError as error:
        raise ServiceError(f"cannot use the peer {found[1]}: {error}") from error
    return Peer(found[1], networks, found[3] or "")


def parse_address(text: str) -> str:
    """The peer's line that an address wg:KEY@HOST:PORT?allowed=NETWORKS stands for."""
    parts = urllib.parse.urlsplit(text)
    key, at, endpoint = urllib.parse.unquote(parts.path).rpartition("@")
    allowed = urllib.parse.parse_qs(parts.query).get("allowed", [])
    if parts.scheme != "wg" or not at or len(allowed) != 1:
        raise ServiceError(f"cannot use {text!r}: write wg:KEY@HOST:PORT?allowed=NETWORKS")
    return f"{key} {allowed[0]} {endpoint}"


def tunnel_of(values: dict[str, object], added: str) -> Tunnel:
    """The tunnel from the configuration's values and the lines of peers that were added."""
    configured = values["peers"]
    assert isinstance(configured, list)
    lines = [*map(str, configured), *(line for line in added.splitlines() if line.strip())]
    peers = {peer.key: peer for peer in map(parse_peer, lines)}
    return Tunnel(
        interface=str(values["interface"]),
        address=str(values["address"]),
        port=int(str(values["port"])),
        peers=tuple(peers.values()),
        trusted=bool(values["trusted"]),
    )


def wg_configuration(tunnel: Tunnel, private_key: str) -> str:
    """What `wg syncconf` reads."""
    lines = ["[Interface]", f"PrivateKey = {private_key}", f"ListenPort = {tunnel.port}"]
    for peer in tunnel.peers:
        lines += ["[Peer]", f"PublicKey = {peer.key}", f"AllowedIPs = {','.join(peer.networks)}"]
        if peer.endpoint:
            # Behind address translation, so that the way back stays open.
            lines += [f"Endpoint = {peer.endpoint}", "PersistentKeepalive = 25"]
    return "\n".join(lines) + "\n"


def filter_rules(tunnel: Tunnel) -> str:
    """The packet filter's table, made anew in one transaction."""
    admit = f"meta mark set meta mark or {ADMITTED}"
    trusted = f'iifname "{tunnel.interface}" {admit}' if tunnel.trusted else ""
    return f"""destroy table inet wireguard
table inet wireguard {{
    chain input {{
        type filter hook input priority filter - 10; policy accept;
        udp dport {tunnel.port} {admit}
        {trusted}
    }}
    chain forward {{
        type filter hook forward priority filter - 10; policy accept;
        {trusted}
    }}
}}
"""


def metrics_of(dump: str) -> str:
    """Prometheus text from `wg show INTERFACE dump` (wg(8): one line of its own, then peers)."""
    peers = [line.split("\t") for line in dump.splitlines()[1:]]
    label = [f'peer="{fields[0]}"' for fields in peers]

    def values(field: int) -> list[tuple[str, float]]:
        return [(name, float(fields[field])) for name, fields in zip(label, peers, strict=True)]

    return servicekit.prometheus(
        [
            ("wireguard_peers", "gauge", "Peers of the tunnel", [("", len(peers))]),
            (
                "wireguard_latest_handshake_seconds",
                "gauge",
                "When the last handshake was, in seconds since the epoch; 0 for never",
                values(4),
            ),
            ("wireguard_received_bytes_total", "counter", "Bytes from the peer", values(5)),
            ("wireguard_sent_bytes_total", "counter", "Bytes to the peer", values(6)),
        ]
    )


def serve(_arguments: list[str]) -> None:
    """Makes the interface, keeps it as configured, and takes it away at the end."""
    tunnel, key = _load(), _private_key()
    _remove(tunnel)
    try:
        run("ip", "link", "add", tunnel.interface, "type", "wireguard")
        run("wg", "setconf", tunnel.interface, "/dev/stdin", stdin=wg_configuration(tunnel, key))
        run("ip", "address", "add", tunnel.address, "dev", tunnel.interface)
        run("ip", "link", "set", tunnel.interface, "up")
        _route(tunnel)
        run("nft", "--file", "-", stdin=filter_rules(tunnel))

        def metrics() -> tuple[int, str]:
            return 200, metrics_of(run("wg", "show", tunnel.interface, "dump"))

        with servicekit.Endpoint(METRICS_PORT, {"/metrics": metrics}):
            servicekit.ready(f"{tunnel.interface} is up with {len(tunnel.peers)} peers")
            servicekit.until_stopped(2.0, _Peers(tunnel, key).take_added)
    finally:
        _remove(tunnel)


class _Peers:
    """Takes over peers that were added while the service runs."""

    def __init__(self, tunnel: Tunnel, key: str) -> None:
        self._tunnel = tunnel
        self._key = key

    def take_added(self) -> None:
        """Configures the interface again when there are other peers than before."""
        tunnel = _load()
        if tunnel.peers != self._tunnel.peers:
            text = wg_configuration(tunnel, self._key)
            run("wg", "syncconf", tunnel.interface, "/dev/stdin", stdin=text)
            _route(tunnel)
            servicekit.say(f"{tunnel.interface} has {len(tunnel.peers)} peers now")
            self._tunnel = tunnel


def setup(_arguments: list[str]) -> None:
    """Makes the private key if there is none, and prints the public key."""
    path = servicekit.state_directory() / "private.key"
    if not path.exists():
        servicekit.write_state("private.key", run("wg", "genkey"))
    servicekit.say(run("wg", "pubkey", stdin=_private_key()).strip())


def add(arguments: list[str]) -> None:
    """Adds the peer that an address names; the service sees it within seconds."""
    if len(arguments) != 1:
        raise ServiceError("cannot add a peer: give one address wg:KEY@HOST:PORT?allowed=NETWORKS")
    line = parse_address(arguments[0])
    peer = parse_peer(line)
    others = [old for old in _added().splitlines() if old.split()[:1] != [peer.key]]
    servicekit.write_state("peers", "\n".join([*others, line]) + "\n")
    servicekit.say(f"peer {peer.key} added")


def check(_arguments: list[str]) -> None:
    """Fails unless the interface is up with the service's key and port."""
    tunnel = _load()
    links = json.loads(run("ip", "-json", "link", "show", tunnel.interface))
    if "UP" not in links[0]["flags"]:
        raise ServiceError(f"cannot use {tunnel.interface}: it is down")
    key = run("wg", "pubkey", stdin=_private_key())
    if run("wg", "show", tunnel.interface, "public-key") != key:
        raise ServiceError(f"cannot use {tunnel.interface}: it has another key")
    port = int(run("wg", "show", tunnel.interface, "listen-port"))
    if port != tunnel.port:
        raise ServiceError(f"cannot use {tunnel.interface}: it listens on port {port}")


def _load() -> Tunnel:
    return tunnel_of(servicekit.configuration("tunnel"), _added())


def _added() -> str:
    path = servicekit.state_directory() / "peers"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _private_key() -> str:
    path = servicekit.state_directory() / "private.key"
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ServiceError("cannot start the tunnel: it has no key; run its setup first") from None


def _route(tunnel: Tunnel) -> None:
    for network in tunnel.routes:
        run("ip", "route", "replace", network, "dev", tunnel.interface)


def _remove(tunnel: Tunnel) -> None:
    """Takes the interface (and its routes) and the table of the filter away, if they are there."""
    run("ip", "link", "delete", tunnel.interface, check=False)
    run("nft", "destroy table inet wireguard", check=False)


def _within(
    inner: ipaddress.IPv4Network | ipaddress.IPv6Network,
    outer: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> bool:
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False


if __name__ == "__main__":
    sys.exit(servicekit.start({"serve": serve, "setup": setup, "add": add, "check": check}))
