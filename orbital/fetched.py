"""What was fetched, for people and programs: sizes, and what deltas saved."""

from __future__ import annotations

from orbital.output import amount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from updater.packages.fetch import Arrival


def fetching(size: int, full: int) -> str:
    """What is fetched, and what that saves."""
    return f"{amount(size)} instead of {amount(full)}" if size < full else amount(size)


def fetched_lines(arrivals: Iterable[Arrival]) -> list[str]:
    """A line for each image of a package that came over the network or from a stick."""
    return [
        f"{item.name} {item.version}: {fetching(item.fetched, item.full)} fetched"
        + (f", by delta from {item.from_version}" if item.from_version else "")
        for item in arrivals
        if item.fetched
    ]


def fetched_document(arrivals: Iterable[Arrival]) -> list[dict[str, object]]:
    """The same with --json, and what was there already with 0 bytes."""
    return [
        {
            "package": item.name,
            "version": item.version,
            "fetched": item.fetched,
            "full": item.full,
            "delta_from": item.from_version or None,
            "wasted": item.wasted,
            "notes": list(item.notes),
        }
        for item in arrivals
    ]


def delta_notes(arrivals: Iterable[Arrival]) -> list[str]:
    """Why parts of deltas were of no use."""
    return [f"{item.name} {item.version}: {note}" for item in arrivals for note in item.notes]
