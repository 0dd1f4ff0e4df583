"""What is learned from two kernels, and deltas of the boot artifacts that hold them."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from delta.frame import apply
from delta.rewrite import Kind, apply_rewrite, decode_rewrite
from imager.delta.elf_kernel import find_kernels, read_kernel
from imager.delta.executables import Learned, learn
from imager.delta.stream import make
from tests.delta import kernels

MAKERS = {"x86_64": kernels.x86_64, "arm64": kernels.arm64}
NOISE = random.Random(7).randbytes(5000)
PIECE = 1 << 20


@cache
def _pair(machine: str) -> tuple[bytes, bytes]:
    return MAKERS[machine](newer=False), MAKERS[machine](newer=True)


@cache
def _learned(machine: str) -> Learned:
    learned = learn(*_pair(machine))
    assert learned is not None
    return learned


@pytest.mark.parametrize("machine", MAKERS)
def test_a_kernel_is_found_in_an_artifact_with_its_size(machine: str) -> None:
    kernel, _ = _pair(machine)
    artifact = memoryview(NOISE + kernel + NOISE)
    assert find_kernels(artifact) == [(len(NOISE), len(kernel))]
    assert find_kernels(memoryview(NOISE)) == []


@pytest.mark.parametrize("machine", MAKERS)
def test_a_kernel_that_ends_early_is_none(machine: str) -> None:
    kernel, _ = _pair(machine)
    for size in (8, 60, 70, 5000):
        found = find_kernels(memoryview(kernel[:size]))
        assert all(at + length <= size for at, length in found)
        learn(kernel[:size], kernel)


def test_regions_name_the_addresses_of_what_lies_in_the_blocks() -> None:
    kernel, _ = _pair("x86_64")
    program = read_kernel(kernel)
    assert program is not None
    assert len(kernel) > 2 * (128 << 10)
    assert program.low == kernels.START & 0xFFFFFFFF
    tables = {Kind.PLACES, Kind.HIGH_POINTERS, Kind.POINTERS, Kind.TYPES}
    tables |= {Kind.DOWNWARDS, Kind.INDEXES}
    assert {region.kind for region in program.regions} == {Kind.X86_64_KERNEL, *tables}
    places = set()
    for region in program.regions:
        if region.kind is Kind.PLACES:
            for at in range(region.offset, region.offset + region.size, 4):
                places.add(at + region.bias + struct.unpack_from("<i", kernel, at)[0])
    expected = set()
    place = kernels.START & 0xFFFFFFFF
    for size in kernels.sizes(newer=False).values():
        expected.add(place)
        place += size
    # One may lie in two blocks.
    assert len(expected - places) <= 1
    assert places <= expected


@pytest.mark.parametrize("machine", MAKERS)
def test_what_is_predicted_is_the_new_kernel_but_for_what_changed(machine: str) -> None:
    old, new = _pair(machine)
    predicted = _learned(machine).predicted()
    size = 64
    known = {predicted[at : at + size] for at in range(len(predicted) - size)}
    cut = range(0, len(new) - size, size)
    missing = sum(new[at : at + size] not in known for at in cut)
    before = {old[at : at + size] for at in range(len(old) - size)}
    without = sum(new[at : at + size] not in before for at in cut)
    assert missing < 0.06 * len(cut)
    assert missing < 0.15 * without, (missing, without)


@pytest.mark.parametrize("machine", MAKERS)
def test_the_device_makes_the_bytes_that_the_maker_predicted(machine: str) -> None:
    old, _ = _pair(machine)
    learned = _learned(machine)
    data = bytearray(old)
    apply_rewrite(decode_rewrite(learned.encoded(0, len(old))), 0, data)
    assert bytes(data) == learned.predicted()


@pytest.mark.parametrize("machine", MAKERS)
@pytest.mark.parametrize("start", [100_000, 200_000, 250_000, 300_000])
def test_a_window_needs_nothing_from_outside(machine: str, start: int) -> None:
    old, _ = _pair(machine)
    learned = _learned(machine)
    size = 70_001
    data = bytearray(old[start : start + size])
    apply_rewrite(decode_rewrite(learned.encoded(start, size)), start, data)
    whole = learned.predicted()[start : start + size]
    # At both ends there may be something that the window divides.
    differing = [at for at in range(len(data)) if data[at] != whole[at]]
    assert all(at < 64 or at >= size - 64 for at in differing)


class _Base:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


@pytest.mark.parametrize("machine", MAKERS)
def test_a_delta_of_artifacts_rewrites_the_kernel(
    machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (NOISE + kernel + NOISE[::-1] for kernel in _pair(machine))
    sizes: dict[str, int] = {}

    def delta(name: str) -> None:
        one, two = tmp_path / "old", tmp_path / "new"
        one.write_bytes(old)
        two.write_bytes(new)
        frames = make(one, len(old), two, len(new), piece=PIECE, kind="plain", level=9, workers=1)
        at = 0
        for frame in frames:
            into = bytearray(min(frame.pieces * PIECE, len(new) - at))
            apply(frame.payload, _Base(old), memoryview(into))
            assert into == new[at : at + len(into)]
            at += len(into)
        assert at == len(new)
        sizes[name] = sum(len(frame.payload) for frame in frames)

    delta("rewritten")
    none: Callable[[memoryview], list[tuple[int, int]]] = lambda _stream: []  # noqa: E731
    monkeypatch.setattr("imager.delta.streams.find_kernels", none)
    delta("plain")
    assert sizes["rewritten"] < 0.4 * sizes["plain"], sizes
