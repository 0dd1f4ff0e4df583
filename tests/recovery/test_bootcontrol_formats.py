"""The formats of the records, as properties: every record survives, and noise is told apart."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from recovery.bootcontrol import autoboot, grubenv, ubootenv
from recovery.bootcontrol.recorded import GOOD, Count, Record
from recovery.slots import Slot
from tests.recovery.loaders import (
    PARTITIONS,
    RESCUE_PARTITION,
    tryboot,
)

COUNTS = st.builds(Count, left=st.integers(0, 7), good=st.booleans())
ORDERS: list[tuple[Slot, ...]] = [("a", "b"), ("b", "a"), ("a",), ("b",), ()]
RECORDS = st.builds(Record, order=st.sampled_from(ORDERS), a=COUNTS, b=COUNTS)


@given(RECORDS, st.integers(0, 255), st.lists(st.from_regex(rb"[a-z]+=[ -~]*", fullmatch=True)))
def test_every_record_survives_the_uboot_format(
    record: Record, flag: int, others: list[bytes]
) -> None:
    made = ubootenv.Environment(flag, ubootenv.with_record(tuple(others), record))
    read = ubootenv.decode(ubootenv.encode(made))
    assert read == made
    assert ubootenv.record_of(read) == record
    assert ubootenv.with_record(read.variables, record) == made.variables


@given(
    RECORDS,
    st.lists(
        st.from_regex(rb"[a-z]{1,8}=([ -\[\]-~]|\\\\|\\\n){0,20}\n", fullmatch=True), max_size=5
    ),
)
def test_every_record_survives_the_grub_format(record: Record, others: list[bytes]) -> None:
    block = grubenv.Block(record, tuple(others))
    assert grubenv.decode(grubenv.encode(block)) == block


ONE_TRY = st.sampled_from([GOOD, Count(0), Count(1)])


@given(
    st.builds(Record, order=st.sampled_from(ORDERS), a=ONE_TRY, b=ONE_TRY),
    st.integers(300, 512),
    st.sampled_from([0, RESCUE_PARTITION]),
)
def test_every_record_survives_the_autoboot_format(record: Record, size: int, rescue: int) -> None:
    made = autoboot.Autoboot(record, "5d7b1c0e-11", ((b"[all]", b"x=1"), (b"[none]", b"y=2")))
    data = autoboot.encode(made, PARTITIONS, size, rescue)
    assert len(data) == size
    assert autoboot.decode(data, PARTITIONS, rescue) == made
    # What the firmware does with it.
    tried, lasting = autoboot.trying(record), autoboot.lasting(record, rescue)
    assert tryboot(data, asked=False).rescue == (lasting is None)
    if lasting is not None:
        assert tryboot(data, asked=False).slots == (lasting,)
    if tried is not None:
        assert tryboot(data, asked=True).slots == (tried,)


@given(st.binary(max_size=300), st.sampled_from([b"\0", b"x"]), st.integers(0, 255))
def test_a_right_checksum_over_nonsense_is_no_error(noise: bytes, rest: bytes, flag: int) -> None:
    body = noise.ljust(65531, rest)
    data = zlib.crc32(body).to_bytes(4, "little") + bytes([flag]) + body
    try:
        environment = ubootenv.decode(data)
    except ValueError:
        return
    record = ubootenv.record_of(environment)
    changed = ubootenv.with_record(environment.variables, record)
    assert ubootenv.record_of(ubootenv.Environment(0, changed)) == record
