"""Compressing sections: every method that may win is tried, the smallest is kept."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from dataclasses import dataclass

import zstandard

from delta.sections import LZMA, LZMA_THUMB, LZMA_X86, STORED, ZSTD, filters
from delta.varint import write

# Literal context, literal position and position bits of lzma that won on Debian's packages:
# for text and code as they are, and for what comes in no larger units than bytes.
PLAIN = ({"lc": 3, "lp": 0, "pb": 2}, {"lc": 4, "lp": 0, "pb": 0})
BYTES = ({"lc": 3, "lp": 0, "pb": 2}, {"lc": 0, "lp": 0, "pb": 0})

# Above this size one more try at lzma costs more time than the bytes it brings are worth.
SMALL = 1 << 20

# Bytes from the middle of a section by which a filter for machine code is judged.
SAMPLE = 1 << 18


@dataclass(frozen=True)
class Effort:
    """How hard to try. level: as zstd's, 1 to 22; from 19 on everything is tried."""

    level: int

    @property
    def thorough(self) -> bool:
        """Whether time does not matter."""
        return self.level >= 19

    @property
    def preset(self) -> int:
        """The preset for lzma."""
        return 9 | lzma.PRESET_EXTREME if self.thorough else min(9, self.level // 2)


def section(
    content: bytes,
    effort: Effort,
    options: tuple[dict[str, int], ...] = PLAIN,
    *,
    code: bool = False,
) -> bytes:
    """The section that holds the content, method and sizes included.

    code: there may be machine code in it.
    """
    size = len(content)
    if not size:
        return write(0)
    best = write(size) + bytes([STORED]) + content
    for method, stored in _tries(content, effort, options, code):
        candidate = write(size) + bytes([method]) + write(len(stored)) + stored
        if len(candidate) < len(best):
            best = candidate
    return best


def zstd_section(content: bytes, references: bytes | bytearray, effort: Effort) -> bytes:
    """The section that holds the content as zstd with the references as its dictionary."""
    stored = _zstd(content, references, effort)
    return write(len(content)) + bytes([ZSTD]) + write(len(stored)) + stored


def quick_size(content: bytes, references: bytes | bytearray = b"") -> int:
    """Roughly what the content takes as zstd, at a fraction of the time."""
    return len(_zstd(content, references, Effort(3)))


def _tries(
    content: bytes, effort: Effort, options: tuple[dict[str, int], ...], code: bool
) -> Iterator[tuple[int, bytes]]:
    yield ZSTD, _zstd(content, b"", effort)
    method = _filter(content) if code else LZMA
    for option in options if effort.thorough and len(content) <= SMALL else options[:1]:
        yield method, _lzma(content, method, effort.preset, option)


def _filter(content: bytes) -> int:
    """The filter that makes a sample of the content at least 1 % smaller, LZMA if none does."""
    if len(content) < 1 << 15:
        return LZMA
    start = max(0, (len(content) - SAMPLE) // 2)
    sample = content[start : start + SAMPLE]
    sizes = {
        method: len(_lzma(sample, method, 1, PLAIN[0])) for method in (LZMA, LZMA_X86, LZMA_THUMB)
    }
    best = min(sizes, key=lambda method: sizes[method])
    return best if sizes[best] < sizes[LZMA] * 0.99 else LZMA


def _lzma(content: bytes, method: int, preset: int, option: dict[str, int]) -> bytes:
    chain = filters(method, len(content), preset=preset, **option)
    return lzma.compress(content, format=lzma.FORMAT_RAW, filters=chain)


def _zstd(content: bytes, references: bytes | bytearray, effort: Effort) -> bytes:
    # A window as large as the content: the decoder's memory. All of the dictionary stays in
    # reach as long as the window does not pass its end, so until the end of the content.
    dictionary = None
    if references:
        dictionary = zstandard.ZstdCompressionDict(
            references, dict_type=zstandard.DICT_TYPE_RAWCONTENT
        )
    parameters = zstandard.ZstdCompressionParameters.from_level(
        effort.level,
        source_size=len(content) + len(references),
        window_log=max(10, (len(content) - 1).bit_length()),
        write_checksum=0,
        write_content_size=1,
        write_dict_id=0,
    )
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary).compress(
        content
    )
