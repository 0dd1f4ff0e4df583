"""What is activated in this boot (/run/orbital/packages/active.json), and what a change means."""

from __future__ import annotations

from recovery import codec
from recovery.packages.host import Activation, Active
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.packages.paths import Paths


class Changes(Value):
    """What others must be told of. units, bus: systemd, the bus must read their files again.

    restart: units of the image to restart. news: (package, what, why) of
    failures and refused capabilities that are new in this boot.
    """

    units: bool = False
    bus: bool = False
    restart: tuple[str, ...] = ()
    news: tuple[tuple[str, str, str], ...] = ()


def load_active(paths: Paths) -> Activation | None:
    """What is activated in this boot, or None."""
    try:
        return decode(paths.active.read_bytes())
    except (OSError, ValueError):
        return None


def save_active(paths: Paths, activation: Activation) -> None:
    """Tells everybody; below /run, so it lasts as long as what it tells of."""
    fresh = paths.active.with_name(f".{paths.active.name}.new")
    fresh.write_bytes(codec.encode(activation))
    fresh.rename(paths.active)


def decode(data: bytes) -> Activation:
    """The document read back. Raises ValueError."""
    return codec.build(
        Activation,
        codec.parse_object(data),
        generation=codec.number,
        packages=codec.several(_active),
    )


def news(before: Activation | None, now: Activation) -> tuple[tuple[str, str, str], ...]:
    """(package, what, why) of failures and refused capabilities that were not there before."""
    known = set(_events(before)) if before is not None else set()
    return tuple(event for event in _events(now) if event not in known)


def _events(activation: Activation) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for item in activation.packages:
        if item.failure:
            found.append((item.name, "package.activate", item.failure))
        for service, capability in item.refused:
            why = f"service {service}: this system does not grant {capability}"
            found.append((item.name, "package.capability", why))
    return found


def _active(document: object) -> Active:
    texts = codec.several(codec.text)
    return codec.build(
        Active,
        document,
        name=codec.text,
        version=codec.text,
        digest=codec.text,
        units=texts,
        waiting=texts,
        refused=codec.several(_pair),
        failure=codec.text,
    )


def _pair(value: object) -> tuple[str, str]:
    first, second = codec.several(codec.text)(value)
    return first, second
