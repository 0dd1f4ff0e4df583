"""Named capabilities: what a service may be granted, and what each means to the kernel and bus.

`/usr/lib/orbital/capabilities.json` in the verified image, made from
manifests/capabilities.yaml. A package names capabilities; only this document
says what they open, and only the system's policy says who may have them.
"""

from __future__ import annotations

from pathlib import Path

from recovery import codec
from recovery.errors import ManifestError
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Network = Literal["none", "host"]
else:
    Network = str

FILE = Path("usr/lib/orbital/capabilities.json")
FORMAT = 1


class BusRule(Value):
    """Calls on the system bus. interface, member: "" for any."""

    destination: str
    interface: str = ""
    member: str = ""


class Capability(Value):
    """What one name opens.

    linux: kernel capabilities (CAP_...). network: host to see the host's
    network. families: socket address families. system_calls: systemd groups or
    names added to the filter. devices: device nodes, read and write ("/dev/rtc0 rw").
    groups: of the image, whose files it may use (a device node's group).
    read_paths: of the host, bound read-only. write_paths: bound for writing.
    bus: calls it allows. namespaces: kinds the service may create.
    """

    name: str
    summary: str
    linux: tuple[str, ...] = ()
    network: Network = "none"
    families: tuple[str, ...] = ()
    system_calls: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    read_paths: tuple[str, ...] = ()
    write_paths: tuple[str, ...] = ()
    bus: tuple[BusRule, ...] = ()


class Policy(Value):
    """All capabilities of this system. refused: names that this product grants to no package."""

    capabilities: tuple[Capability, ...] = ()
    refused: tuple[str, ...] = ()

    def find(self, name: str) -> Capability | None:
        """The capability, or None when this system does not have it or refuses it."""
        if name in self.refused:
            return None
        return next((item for item in self.capabilities if item.name == name), None)


def encode(policy: Policy) -> bytes:
    """The document as deterministic JSON."""
    return codec.encode(policy, format=FORMAT)


def decode(data: bytes) -> Policy:
    """The document read back. Raises ValueError."""
    document = codec.parse_object(data)
    if document.pop("format", None) != FORMAT:
        raise ValueError(f"format is not {FORMAT}")
    return codec.build(
        Policy,
        document,
        capabilities=codec.several(_capability),
        refused=codec.several(codec.text),
    )


def load(root: Path = Path("/")) -> Policy:
    """The policy of the running image. Raises ManifestError when it is absent or not valid."""
    path = root / FILE
    try:
        return decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"cannot read {path}: {error}",
            resolution="this file is made by 'orbital image build'; rebuild the image",
        ) from error


def _capability(document: object) -> Capability:
    texts = codec.several(codec.text)
    return codec.build(
        Capability,
        document,
        name=codec.text,
        summary=codec.text,
        linux=texts,
        network=codec.one_of("none", "host"),
        families=texts,
        system_calls=texts,
        devices=texts,
        groups=texts,
        read_paths=texts,
        write_paths=texts,
        bus=codec.several(
            lambda rule: codec.build(
                BusRule, rule, destination=codec.text, interface=codec.text, member=codec.text
            )
        ),
    )
