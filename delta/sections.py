"""Sections: compressed bytes with their size in front, read a little at a time.

A section says how large its content is before any of it is decompressed, so the
reader can refuse it, and it gives out exactly that many bytes. Memory is the
decompressor's window: at most WINDOW_LIMIT for zstd and DICTIONARY_LIMIT for lzma.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import zstandard

from delta.errors import DeltaError
from delta.varint import Reader

STORED, ZSTD, LZMA, LZMA_X86, LZMA_THUMB = range(5)

WINDOW_LIMIT = 16 << 20
DICTIONARY_LIMIT = 8 << 20
PIECE = 1 << 16

# What a read hands out: valid until the next one.
Data = bytes | bytearray | memoryview


class Content(Protocol):
    """What a section holds, from front to back."""

    def read(self, size: int) -> Data:
        """The next size bytes. Raises DeltaError when there are fewer, or they are damaged."""
        ...

    def end(self) -> None:
        """Insists that all was read. Raises DeltaError when there is more."""
        ...


@dataclass(frozen=True)
class Section:
    """size: bytes of the content. stored: how they are in the payload, by method."""

    size: int
    method: int
    stored: memoryview

    def open(self) -> Content:
        """The content from its beginning."""
        return _opened(self, None)

    def open_with(self, references: bytes | bytearray) -> Content:
        """The content of a section that was compressed with the references as its dictionary.

        They are copied, and not needed afterwards.
        """
        if self.method != ZSTD:
            raise DeltaError(f"expected a section with a dictionary, found method {self.method}")
        return _opened(self, references)

    def whole(self) -> bytes:
        """All of the content at once, for a section whose limit is small."""
        content = self.open()
        data = b"".join(bytes(piece) for piece in pieces(content, self.size))
        content.end()
        return data


def read_section(reader: Reader, limit: int, what: str) -> Section:
    """The next section; what it holds is for the error. Raises DeltaError above the limit."""
    size = reader.number(limit, f"a size of {what}")
    if not size:
        return Section(0, STORED, memoryview(b""))
    method = reader.byte()
    if method > LZMA_THUMB:
        raise DeltaError(f"expected a method of compression below 5, found {method}")
    stored = size
    if method != STORED:
        stored = reader.number(reader.left, f"a stored size of {what}")
    return Section(size, method, reader.take(stored))


def pieces(content: Content, size: int) -> Iterator[Data]:
    """The next size bytes of the content in small pieces."""
    while size:
        piece = min(size, PIECE)
        yield content.read(piece)
        size -= piece


def filters(method: int, size: int, **options: int) -> list[dict[str, int]]:
    """The filter chain of a raw lzma section. options: the maker's, of no concern to a decoder.

    The window is the smallest power of two that holds the content, between 4 KiB and the limit.
    """
    window = max(1 << 12, min(DICTIONARY_LIMIT, 1 << (size - 1).bit_length()))
    chain = [{"id": lzma.FILTER_LZMA2, "dict_size": window, **options}]
    if method == LZMA_X86:
        chain.insert(0, {"id": lzma.FILTER_X86})
    elif method == LZMA_THUMB:
        chain.insert(0, {"id": lzma.FILTER_ARMTHUMB})
    return chain


def _opened(section: Section, references: bytes | bytearray | None) -> Content:
    if section.method == STORED:
        return _Stored(Reader(section.stored))
    if section.method == ZSTD:
        return _Zstd(section, references)
    return _Lzma(section)


class _Stored:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.read = reader.take
        self.end = reader.end


class _Zstd:
    def __init__(self, section: Section, references: bytes | bytearray | None) -> None:
        try:
            # Judged before a window is allocated.
            frame = zstandard.get_frame_parameters(section.stored)
        except zstandard.ZstdError as error:
            raise DeltaError(f"expected a zstd frame: {error}") from error
        if frame.content_size != section.size or frame.window_size > WINDOW_LIMIT:
            raise DeltaError(
                f"expected a zstd frame of {section.size} bytes, found {frame.content_size} with "
                f"a window of {frame.window_size}"
            )
        dictionary = None
        if references:
            dictionary = zstandard.ZstdCompressionDict(
                references, dict_type=zstandard.DICT_TYPE_RAWCONTENT
            )
        self._reader = zstandard.ZstdDecompressor(
            dict_data=dictionary, max_window_size=WINDOW_LIMIT
        ).stream_reader(section.stored)

    def read(self, size: int) -> Data:
        try:
            data = self._reader.read(size)
        except zstandard.ZstdError as error:
            raise DeltaError(f"expected {size} more bytes of a zstd frame: {error}") from error
        if len(data) != size:
            raise DeltaError(f"expected {size} more bytes of a zstd frame, found {len(data)}")
        return data

    def end(self) -> None:
        try:
            more = self._reader.read(1)
        except zstandard.ZstdError as error:
            raise DeltaError(f"expected the end of a zstd frame: {error}") from error
        if more:
            raise DeltaError("expected the end of a zstd frame, found more")


class _Lzma:
    def __init__(self, section: Section) -> None:
        self._input = Reader(section.stored)
        self._decompressor = lzma.LZMADecompressor(
            format=lzma.FORMAT_RAW, filters=filters(section.method, section.size)
        )

    def read(self, size: int) -> Data:
        data = self._next(size)
        if len(data) == size:
            return data
        parts = [data]
        missing = size - len(data)
        while missing:
            data = self._next(missing)
            if not data:
                raise DeltaError(f"expected {missing} more bytes of lzma data, found the end")
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def end(self) -> None:
        if self._next(1) or not self._decompressor.eof or self._decompressor.unused_data:
            raise DeltaError("expected the end of lzma data, found more")
        self._input.end()

    def _next(self, size: int) -> bytes:
        """At most size bytes; none at the end."""
        data = b""
        while not data and not self._decompressor.eof:
            fed = b""
            if self._decompressor.needs_input:
                # A decompressor keeps what it did not use, so it is fed little.
                fed = bytes(self._input.take(min(PIECE, self._input.left)))
                if not fed:
                    raise DeltaError("expected more lzma data, found the end")
            try:
                data = self._decompressor.decompress(fed, size)
            except lzma.LZMAError as error:
                raise DeltaError(f"expected lzma data: {error}") from error
        return data
