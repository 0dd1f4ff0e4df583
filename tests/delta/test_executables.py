"""What is learned from two builds of a program, on programs of a linker of our own."""

from __future__ import annotations

import random
import zlib
from functools import cache

import pytest

from delta.rewrite import apply_rewrite, decode_rewrite
from imager.delta.elf_file import read_executable
from imager.delta.executables import Learned, learn
from tests.delta.programs import MACHINES, functions, link

OBJECTS = 400


@cache
def _pair(machine: str) -> tuple[bytes, bytes]:
    """A program, and its next version: some functions grew, one came, one went."""
    old = functions(1500, seed=1)
    new = list(old)
    new[100:100] = functions(3, seed=2)[2:]
    del new[700]
    return link(machine, old, OBJECTS), link(machine, new, OBJECTS)


def _difference(old: bytes, new: bytes) -> int:
    """Roughly what a difference costs: the bytes that a window of zlib does not find in old."""
    cost = 0
    for at in range(0, len(new), 8192):
        coder = zlib.compressobj(9, zdict=old[max(0, at - 8192) : at + 24576][-32768:])
        cost += len(coder.compress(new[at : at + 8192]) + coder.flush())
    return cost


@cache
def _learned(machine: str) -> Learned:
    learned = learn(*_pair(machine))
    assert learned is not None
    return learned


@pytest.mark.parametrize("machine", MACHINES)
def test_rewriting_makes_the_difference_a_fraction(machine: str) -> None:
    old, new = _pair(machine)
    learned = _learned(machine)
    rewrite = learned.encoded(0, len(old))
    plain = _difference(old, new)
    rewritten = _difference(learned.predicted(), new) + len(rewrite)
    assert rewritten < 0.45 * plain, (rewritten, plain)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_device_makes_the_bytes_that_the_maker_predicted(machine: str) -> None:
    old, _ = _pair(machine)
    learned = _learned(machine)
    data = bytearray(old)
    apply_rewrite(decode_rewrite(learned.encoded(0, len(old))), 0, data)
    assert bytes(data) == learned.predicted()
    assert len(data) == len(old) and bytes(data) != old


@pytest.mark.parametrize("machine", MACHINES)
def test_most_functions_become_the_bytes_they_are_in_the_new_program(machine: str) -> None:
    _, new = _pair(machine)
    predicted = _learned(machine).predicted()
    found = missed = 0
    for at in range(0x1000, len(predicted) - 64, 64):
        if predicted[at : at + 64] in new:
            found += 1
        else:
            missed += 1
    # What is between references is random here, and sometimes looks like one.
    assert missed < 0.1 * found, (found, missed)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_window_is_rewritten_like_the_whole_away_from_its_edges(machine: str) -> None:
    old, _ = _pair(machine)
    learned = _learned(machine)
    whole = learned.predicted()
    start, size = len(old) // 3, len(old) // 4
    encoded = learned.encoded(start, size)
    assert len(encoded) <= len(learned.encoded(0, len(old)))
    data = bytearray(old[start : start + size])
    apply_rewrite(decode_rewrite(encoded), start, data)
    # A pair of instructions that the edge divides is not seen as one.
    edge = 256
    assert bytes(data[edge:-edge]) == whole[start + edge : start + size - edge]


def test_learning_is_deterministic() -> None:
    old, new = _pair("x86_64")
    first, second = _learned("x86_64"), learn(old, new)
    assert second is not None
    assert first.encoded(0, len(old)) == second.encoded(0, len(old))


def test_a_program_that_did_not_change_teaches_nothing() -> None:
    old, _ = _pair("x86_64")
    assert learn(old, old) is None


def test_what_is_no_program_teaches_nothing() -> None:
    old, new = _pair("x86_64")
    assert learn(b"#!/bin/sh\n" * 500, new) is None
    assert learn(old, b"") is None
    assert learn(b"\x7fELF", b"\x7fELF") is None


def test_programs_of_different_machines_teach_nothing() -> None:
    assert learn(_pair("x86_64")[0], _pair("aarch64")[1]) is None


def test_damaged_headers_are_no_program_or_another_one_but_no_error() -> None:
    program = link("x86_64", functions(60, seed=3), 50)
    chance = random.Random(5)
    refused = 0
    for _ in range(300):
        damaged = bytearray(program)
        for _ in range(3):
            # In the headers, which are at both ends.
            at = chance.choice([chance.randrange(0xB0), len(program) - 1 - chance.randrange(256)])
            damaged[at] = chance.randrange(256)
        refused += read_executable(bytes(damaged)) is None
        learn(bytes(damaged), program)
        learn(program, bytes(damaged))
    assert 30 < refused < 300
