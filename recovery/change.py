"""The state record before, at and after a change of packages in the running system. Pure.

One change at a time: `begun` names the generation that is tried; `committed`
is the commit point, one write that makes it what the device goes back to;
`abandoned` forgets it. A power cut after `begun` leaves the committed set:
`recovery.decide` drops the change at the next boot.
"""

from __future__ import annotations

from recovery.generations import Generation
from recovery.state import PackageChange, Quarantine, StateRecord
from recovery.value import replace


def begun(record: StateRecord, generation: Generation, boot_id: str) -> StateRecord:
    """Another package set is about to be tried; its record is durable. Its number is taken."""
    return replace(
        record,
        change=PackageChange(generation=generation.number, boot_id=boot_id),
        next_generation=max(record.next_generation, generation.number + 1),
    )


def committed(
    record: StateRecord, generation: Generation, left: tuple[Quarantine, ...] = ()
) -> StateRecord:
    """The tried set works. left: versions that it leaves for good.

    A probation goes on with the new generation: it watches the image, which is
    the same. What runs now is in quarantine no longer.
    """
    probation = record.probation
    if probation is not None and probation.generation == record.committed:
        probation = replace(probation, generation=generation.number)
    runs = {(entry.name, entry.version) for entry in generation.packages}
    kept = tuple(q for q in record.quarantined if (q.package, q.version) not in runs)
    return replace(
        record,
        committed=generation.number,
        undo=record.committed,
        change=None,
        probation=probation,
        quarantined=with_packages(kept, left),
    )


def abandoned(record: StateRecord, blamed: tuple[Quarantine, ...] = ()) -> StateRecord:
    """The tried set failed and the committed one runs again. blamed: not offered again."""
    quarantined = with_packages(record.quarantined, blamed)
    return replace(record, change=None, quarantined=quarantined)


def with_packages(
    known: tuple[Quarantine, ...], added: tuple[Quarantine, ...]
) -> tuple[Quarantine, ...]:
    """The quarantine with more versions of packages, each once."""
    names = {(item.package, item.version) for item in added}
    return (*(q for q in known if (q.package, q.version) not in names), *added)
