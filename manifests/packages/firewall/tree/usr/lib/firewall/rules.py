"""Packet filter rules from the configuration, in a table of their own.

Denied packets are dropped. Allowed ones carry the mark that the system's packet filter
lets in (/usr/lib/routing/ruleset.nft). The table changes in one transaction: the kernel has
the old rules or the new ones, never none. Connections that are up stay up.
"""

from __future__ import annotations

import ipaddress
import json
import re
import sys
from dataclasses import dataclass, field

import servicekit
from servicekit import ServiceError, run

METRICS_PORT = 9588
ADMITTED = "0x01000000"
_RULE = re.compile(
    r"(any|icmp|tcp|udp)(?: (\d+)(?:-(\d+))?)?(?: from (\S+))?(?: on ([A-Za-z0-9_.*-]+))?"
)


def match_of(text: str) -> str:
    """The conditions of one rule as nftables writes them. Raises ServiceError."""
    found = _RULE.fullmatch(text)
    if not found:
        raise ServiceError(f"cannot use the rule {text!r}")
    protocol, first, last, source, interface = found.groups()
    parts = [f'iifname "{interface}"'] if interface else []
    if source:
        try:
            network = ipaddress.ip_network(source, strict=False)
        except ValueError as error:
            raise ServiceError(f"cannot use the rule {text!r}: {error}") from error
        parts.append(f"{'ip' if network.version == 4 else 'ip6'} saddr {network}")
    if protocol == "icmp":
        parts.append("meta l4proto { icmp, ipv6-icmp }")
    elif first:
        low, high = int(first), int(last or first)
        if protocol == "any" or not 1 <= low <= high <= 65535:
            raise ServiceError(f"cannot use the rule {text!r}: its ports are not valid")
        parts.append(f"{protocol} dport {low}" if low == high else f"{protocol} dport {low}-{high}")
    elif protocol != "any":
        parts.append(f"meta l4proto {protocol}")
    return " ".join(parts)


def ruleset(deny: list[str], allow: list[str], default: str) -> str:
    """The table, made anew in one transaction. Raises ServiceError."""
    admit = f"meta mark set meta mark or {ADMITTED} accept"
    lines = [
        "ct state established,related accept",
        'iifname "lo" accept',
        *(f"{match_of(text)} counter drop".strip() for text in deny),
        *(f"{match_of(text)} counter {admit}".strip() for text in allow),
    ]
    if default == "drop":
        lines += [
            # Without these the device would lose its own address and its neighbours.
            "udp sport 67 udp dport 68 accept",
            "ip6 saddr fe80::/10 udp dport 546 accept",
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept",
            "counter drop",
        ]
    body = "\n        ".join(lines)
    return f"""destroy table inet firewall
table inet firewall {{
    chain decide {{
        {body}
    }}
    chain input {{
        type filter hook input priority filter - 10; policy accept;
        jump decide
    }}
    chain forward {{
        type filter hook forward priority filter - 10; policy accept;
        jump decide
    }}
}}
"""


@dataclass
class Filter:
    """The table in the kernel. expected: how the kernel lists it after it was applied."""

    rules: str
    expected: str = ""
    repairs: int = field(default=0)

    def apply(self) -> None:
        """Puts the table in place. Raises ServiceError."""
        run("nft", "--file", "-", stdin=self.rules)
        self.expected = _listed()

    def mend(self) -> None:
        """Puts the table in place again when somebody changed it."""
        if _listed() != self.expected:
            self.repairs += 1
            servicekit.say("the rules were changed by somebody else: put back")
            self.apply()

    def health(self) -> tuple[int, str]:
        """Whether the kernel has our rules."""
        if _listed() == self.expected:
            return 200, "the kernel has the rules\n"
        return 503, "the kernel has other rules\n"

    def metrics(self) -> tuple[int, str]:
        """Packets that rules dropped, and how often rules had to be put back."""
        listing = json.loads(run("nft", "--json", "list", "table", "inet", "firewall"))
        return 200, servicekit.prometheus(
            [
                (
                    "firewall_dropped_packets_total",
                    "counter",
                    "Packets that a rule dropped",
                    [("", dropped(listing))],
                ),
                (
                    "firewall_repairs_total",
                    "counter",
                    "How often the rules were put back",
                    [("", self.repairs)],
                ),
            ]
        )


def dropped(listing: dict[str, list[dict[str, dict[str, list[dict[str, dict[str, int]]]]]]]) -> int:
    """Packets counted by rules that drop, from nft's JSON (libnftables-json(5))."""
    total = 0
    for item in listing["nftables"]:
        steps = item.get("rule", {}).get("expr", [])
        if any("drop" in step for step in steps):
            total += sum(step["counter"]["packets"] for step in steps if "counter" in step)
    return total


def serve(_arguments: list[str]) -> None:
    """Keeps the rules in the kernel until the service is stopped."""
    values = servicekit.configuration("rules")
    table = Filter(ruleset(values["deny"], values["allow"], values["default"]))
    table.apply()
    try:
        pages = {"/metrics": table.metrics, "/health": table.health}
        with servicekit.Endpoint(METRICS_PORT, pages):
            servicekit.ready(f"{len(values['deny'])} denied, {len(values['allow'])} allowed")
            servicekit.until_stopped(5.0, table.mend)
    finally:
        # Stopped on purpose; after a crash the rules stay until the next start.
        run("nft", "destroy table inet firewall", check=False)


def _listed() -> str:
    """The table as the kernel has it, without what changes by itself; "" when it is gone."""
    return run("nft", "--stateless", "list", "table", "inet", "firewall", check=False)


if __name__ == "__main__":
    sys.exit(servicekit.start({"serve": serve}))
