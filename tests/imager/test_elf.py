"""Reading what ELF programs need: real files of the tools tree, and damaged ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imager.elf import Dependencies, dependencies
from imager.tools import Tools
from recovery.errors import ToolError


def test_a_program_names_its_loader_and_libraries(tools: Tools) -> None:
    found = dependencies(tools.file("usr/bin/zstd").read_bytes(), "zstd")
    assert found.interpreter == "/lib64/ld-linux-x86-64.so.2"
    assert "libc.so.6" in found.needed


def test_a_library_has_no_loader_of_its_own(tools: Tools) -> None:
    path = tools.file("usr/lib/x86_64-linux-gnu/libcryptsetup.so.12")
    found = dependencies(path.read_bytes(), path.name)
    assert found.interpreter == ""
    assert {"libdevmapper.so.1.02.1", "libc.so.6"} <= set(found.needed)


def _small_32_bit() -> bytes:
    """A 32-bit ARM program: headers, an interpreter, one needed library."""
    strings = b"\0libsmall.so.1\0"
    interpreter = b"/lib/ld-linux-armhf.so.3\0"
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    offset = 0x34 + 3 * 32
    at_dynamic = offset + len(interpreter)
    at_strings = at_dynamic + 24
    base = 0x10000

    def word(*values: int) -> bytes:
        return b"".join(value.to_bytes(4, "little") for value in values)

    header = ident + (3).to_bytes(2, "little") + (40).to_bytes(2, "little")
    header += word(1, 0, 0x34, 0, 0) + b"".join(
        value.to_bytes(2, "little") for value in (0x34, 32, 3, 0, 0, 0)
    )
    total = at_strings + len(strings)
    load = word(1, 0, base, base, total, total, 5, 0x1000)
    interp = word(3, offset, base + offset, 0, len(interpreter), len(interpreter), 4, 1)
    dynamic = word(2, at_dynamic, base + at_dynamic, 0, 24, 24, 4, 4)
    return (
        header + load + interp + dynamic + interpreter
        + word(1, 1, 5, base + at_strings, 0, 0) + strings
    )  # fmt: skip


def test_a_32_bit_program_is_read_too() -> None:
    assert dependencies(_small_32_bit(), "small") == Dependencies(
        "/lib/ld-linux-armhf.so.3", ("libsmall.so.1",)
    )


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x02" + bytes(64)])
def test_what_is_not_little_endian_elf_is_an_error(data: bytes) -> None:
    with pytest.raises(ToolError, match="cannot read which libraries thing needs"):
        dependencies(data, "thing")


@given(st.integers(0, 200), st.binary(min_size=1, max_size=8))
def test_damaged_headers_end_in_an_error_or_an_answer_never_in_a_crash(
    offset: int, damage: bytes
) -> None:
    data = bytearray(_small_32_bit())
    data[offset : offset + len(damage)] = damage
    try:
        dependencies(bytes(data), "damaged")
    except ToolError as error:
        assert error.brief.startswith("cannot read which libraries damaged needs")
