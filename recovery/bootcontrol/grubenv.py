"""The GRUB environment block that holds the record: bytes in, values out.

    # GRUB Environment Block\\n
    orbital_env=1\\n
    orbital_order=b a\\n             the slots that have an entry, first one first
    orbital_a_left=0\\n              0 to 7
    orbital_b_left=2\\n
    orbital_a_good=1\\n              1: successful, not counted
    orbital_b_good=0\\n
    ...                             variables of others, as they were
    orbital_end=1\\n
    ################                to 512 bytes, one sector

Format: GRUB manual, "The GRUB environment block"; a backslash in a value
escapes itself or a newline (grub-core/lib/envblk.c). GRUB's save_env can only
change a block whose padding is whole, so ours ends like GRUB's own. There is no
checksum that GRUB could test: a copy counts only with all seven variables, each
once, each with a value that is allowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from recovery.bootcontrol.recorded import Count, Record
from recovery.slots import Slot

SIZE = 512
SIGNATURE = b"# GRUB Environment Block\n"
_LINE = re.compile(rb"(?:[^\\\n]|\\.)*\n", re.DOTALL)
_ORDERS: dict[bytes, tuple[Slot, ...]] = {
    b"a b": ("a", "b"),
    b"b a": ("b", "a"),
    b"a": ("a",),
    b"b": ("b",),
    b"": (),
}
_LEFT = tuple(b"%d" % number for number in range(8))
_TRUTH = (b"0", b"1")
_ALLOWED: dict[bytes, tuple[bytes, ...]] = {
    b"orbital_env": (b"1",),
    b"orbital_order": tuple(_ORDERS),
    b"orbital_a_left": _LEFT,
    b"orbital_b_left": _LEFT,
    b"orbital_a_good": _TRUTH,
    b"orbital_b_good": _TRUTH,
    b"orbital_end": (b"1",),
}


@dataclass(frozen=True)
class Block:
    """record: ours. others: the lines of other variables, kept byte by byte."""

    record: Record
    others: tuple[bytes, ...] = ()


def decode(data: bytes) -> Block:
    """The block. Raises ValueError unless every value of ours is present and allowed."""
    if len(data) != SIZE or not data.startswith(SIGNATURE):
        raise ValueError("not a GRUB environment block")
    body = data.removeprefix(SIGNATURE).rstrip(b"#")
    values: dict[bytes, bytes] = {}
    others = []
    end = 0
    while end < len(body):
        match = _LINE.match(body, end)
        if match is None:
            raise ValueError("torn: the last line does not end")
        end = match.end()
        name, equals, value = match[0][:-1].partition(b"=")
        if name not in _ALLOWED:
            if not equals and not name.startswith(b"#"):
                raise ValueError("a line that sets no variable")
            others.append(match[0])
        elif name in values or value not in _ALLOWED[name]:
            raise ValueError(f"{name.decode()} is not as allowed")
        else:
            values[name] = value
    for name in _ALLOWED:
        if name not in values:
            raise ValueError(f"{name.decode()} is absent")
    return Block(
        Record(
            order=_ORDERS[values[b"orbital_order"]],
            a=_count(values, b"a"),
            b=_count(values, b"b"),
        ),
        tuple(others),
    )


def encode(block: Block) -> bytes:
    """The sector. Raises ValueError when the variables of others leave no room."""
    record = block.record
    data = b"".join(
        (
            SIGNATURE,
            b"orbital_env=1\n",
            b"orbital_order=%s\n" % " ".join(record.order).encode(),
            b"orbital_a_left=%d\norbital_b_left=%d\n" % (record.a.left, record.b.left),
            b"orbital_a_good=%d\norbital_b_good=%d\n" % (record.a.good, record.b.good),
            *block.others,
            b"orbital_end=1\n",
        )
    )
    if len(data) > SIZE:
        raise ValueError(f"{len(data)} bytes do not fit into {SIZE}")
    return data.ljust(SIZE, b"#")


def _count(values: dict[bytes, bytes], slot: bytes) -> Count:
    left, good = values[b"orbital_%s_left" % slot], values[b"orbital_%s_good" % slot]
    return Count(left=int(left), good=good == b"1")
