"""Sizes as text and as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.sizes import UNITS, Size, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [("0B", 0), ("1B", 1), ("1KiB", 1024), ("512MiB", 512 << 20), ("2TiB", 2 << 40)],
)
def test_text_and_bytes_are_the_same_size(text: str, size: int) -> None:
    assert Size.parse(text) == size
    assert size_text(size) == text


@pytest.mark.parametrize("text", ["", "512", "512M", "512MB", "512 MiB", "-1MiB", "1.5GiB", "01B"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        Size.parse(text)


@given(st.integers(0, 1 << 60))
def test_writing_and_reading_a_size_gives_it_back(size: int) -> None:
    assert Size.parse(size_text(size)) == size


@given(st.integers(1, 1 << 20), st.sampled_from(sorted(UNITS)))
def test_the_text_is_never_longer_than_what_a_person_would_write(count: int, unit: str) -> None:
    assert len(size_text(count * UNITS[unit])) <= len(f"{count}{unit}")


def test_a_size_in_a_command_is_a_plain_number_of_bytes() -> None:
    assert f"size={Size.parse('1KiB')}" == "size=1024"
