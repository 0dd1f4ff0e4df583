"""Named capabilities of feature packages: capabilities.yaml, checked, and made into documents.

For the device: `capabilities.json` (`recovery.packages.capabilities`), with
what the product refuses. For people: docs/capabilities.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from manifests.document import load_document
from manifests.fields import CapabilityName, Summary, matching
from manifests.problem import Path as Place
from manifests.problem import Problem, repeated, suggestion, unknown
from recovery.packages import capabilities as device

FILE = Path(__file__).resolve().parent / "capabilities.yaml"
DOCUMENTATION = FILE.parent.parent / "docs/capabilities.md"

# include/uapi/linux/capability.h of Linux 6.12.
LINUX = (
    "CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER",
    "CAP_FSETID", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST", "CAP_NET_RAW", "CAP_PERFMON", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
    "CAP_SETUID", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE",
    "CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
)  # fmt: skip

LinuxCapability = Annotated[
    str, matching(r"^CAP_[A-Z_]+$", 'a kernel capability such as "CAP_NET_ADMIN"')
]
Family = Annotated[str, matching(r"^AF_[A-Z0-9_]+$", 'a socket address family such as "AF_INET"')]
SystemCall = Annotated[
    str, matching(r"^@?[a-z0-9_-]+$", 'a system call or a group of them such as "@clock"')
]
Device = Annotated[
    str,
    matching(
        r"^(/dev/[A-Za-z0-9_./-]+|(char|block)-[A-Za-z0-9*_-]+) (r|w|rw)$",
        'devices and what may be done, such as "/dev/rtc0 rw" or "char-ttyS rw"',
    ),
]
Group = Annotated[str, matching(r"^[a-z_][a-z0-9_-]*$", 'a group such as "dialout"')]
HostPath = Annotated[
    str, matching(r"^(/[A-Za-z0-9_+@-][A-Za-z0-9_.+@-]*)+$", "the full path of a file or folder")
]
BusName = Annotated[
    str,
    matching(
        r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)+$",
        'a D-Bus name such as "org.freedesktop.systemd1"',
    ),
]
Member = Annotated[str, matching(r"^[A-Za-z_][A-Za-z0-9_]*$", 'a D-Bus method such as "GetUnit"')]


class BusCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Calls on the system bus.

    destination: bus name of who is called.
    interface: which interface; absent means any.
    member: which method; absent means any.
    """

    destination: BusName
    interface: BusName | None = None
    member: Member | None = None


class Capability(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One name and what it opens.

    name: what services declare.
    summary: one line for people.
    linux: kernel capabilities.
    network: host to see the host's network in place of an empty one.
    families: socket address families, beside AF_UNIX.
    system_calls: added to the filter.
    devices: device nodes.
    groups: of the image, whose files it may use, such as that of a device node.
    read_paths: of the host, visible for reading.
    write_paths: of the host, visible for reading and writing.
    bus: calls on the system bus.
    """

    name: CapabilityName
    summary: Summary
    linux: tuple[LinuxCapability, ...] = ()
    network: Literal["none", "host"] = "none"
    families: tuple[Family, ...] = ()
    system_calls: tuple[SystemCall, ...] = ()
    devices: tuple[Device, ...] = ()
    groups: tuple[Group, ...] = ()
    read_paths: tuple[HostPath, ...] = ()
    write_paths: tuple[HostPath, ...] = ()
    bus: tuple[BusCall, ...] = ()


class Capabilities(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All named capabilities.

    capabilities: each with what it opens.
    """

    capabilities: tuple[Capability, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of the document."""
        return tuple(item.name for item in self.capabilities)

    def find(self, name: str) -> Capability | None:
        """The capability of that name, or None."""
        return next((item for item in self.capabilities if item.name == name), None)


def load_capabilities(path: Path = FILE) -> Capabilities:
    """Reads the document. Raises ManifestError."""
    return load_document(path, Capabilities, capabilities_problems)


@cache
def known_capabilities() -> Capabilities:
    """The capabilities that Orbital knows, read once. Raises ManifestError."""
    return load_capabilities()


def capabilities_problems(document: Capabilities) -> Iterator[Problem]:
    """What is wrong with a document whose values have the right types."""
    yield from repeated(document.names, ("capabilities",), "capability", "name")
    for number, item in enumerate(document.capabilities):
        place: Place = ("capabilities", number)
        for at, name in enumerate(item.linux):
            if name not in LINUX:
                yield Problem(
                    (*place, "linux", at),
                    "a kernel capability",
                    f'"{name}"',
                    f"{suggestion(name, LINUX)}see capabilities(7)",
                )
        if item.families and item.network == "none" and set(item.families) - {"AF_NETLINK"}:
            yield Problem(
                (*place, "network"),
                "host, for these families",
                '"none"',
                "sockets of an empty network reach nobody; add network: host",
            )
        if msgspec.structs.replace(item, name="", summary="") == Capability("", ""):
            yield Problem(place, "something that it opens", "nothing", "add linux, bus, ...")


def unknown_capabilities(names: tuple[str, ...], place: Place) -> Iterator[Problem]:
    """A problem for each name that capabilities.yaml does not have. place: of the list."""
    expected = "a capability of manifests/capabilities.yaml"
    for number, name in enumerate(names):
        yield from unknown(name, known_capabilities().names, (*place, number), expected)


def device_policy(document: Capabilities, refused: tuple[str, ...]) -> device.Policy:
    """The document as device programs read it. refused: what the product grants to no package."""
    return device.Policy(tuple(_device(item) for item in document.capabilities), refused)


def _device(item: Capability) -> device.Capability:
    return device.Capability(
        name=item.name,
        summary=item.summary,
        linux=item.linux,
        network=item.network,
        families=item.families,
        system_calls=item.system_calls,
        devices=item.devices,
        groups=item.groups,
        read_paths=item.read_paths,
        write_paths=item.write_paths,
        bus=tuple(
            device.BusRule(call.destination, call.interface or "", call.member or "")
            for call in item.bus
        ),
    )


_HEAD = """\
<!-- Made from manifests/capabilities.yaml by `orbital manifest capabilities --write`. -->

# Capabilities of feature packages

A service or program of a feature package is granted what its manifest names here, and nothing
else: it sees its own files, the image's `/usr` read-only, an empty network, no devices, and may
call nobody on the system bus but the packages whose interfaces it `requires`. What a capability
opens is opened when the service starts. A product may refuse some of them
(`packages: {refuse: [...]}` in its system manifest); a service that asks for one of those does
not start, which the audit trail records.
"""


def documentation(document: Capabilities) -> str:
    """The document as Markdown for people."""
    lines = [_HEAD, "| capability | a service that has it may |", "|---|---|"]
    lines += [
        f"| [`{item.name}`](#{item.name.replace('.', '')}) | {_lower(item.summary)} |"
        for item in document.capabilities
    ]
    for item in document.capabilities:
        lines += ["", f"## {item.name}", "", f"{item.summary}.", ""]
        lines += [f"* {line}" for line in _openings(item)]
    return "\n".join(lines) + "\n"


def _lower(summary: str) -> str:
    return summary[0].lower() + summary[1:]


def _openings(item: Capability) -> Iterator[str]:
    """What a capability opens, a line for each kind."""
    if item.linux:
        yield f"kernel capabilities: {_codes(item.linux)}"
    if item.network == "host":
        yield "the device's network in place of an empty one"
    if item.families:
        yield f"sockets: {_codes(item.families)}"
    if item.system_calls:
        yield f"system calls: {_codes(item.system_calls)}"
    if item.devices:
        yield f"devices: {_codes(item.devices)}"
    if item.groups:
        yield f"files of the groups: {_codes(item.groups)}"
    if item.read_paths:
        yield f"reads: {_codes(item.read_paths)}"
    if item.write_paths:
        yield f"reads and writes: {_codes(item.write_paths)}"
    for call in item.bus:
        what = ".".join(part for part in (call.interface, call.member) if part)
        yield f"calls `{what or 'anything'}` of `{call.destination}` on the system bus"


def _codes(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)
