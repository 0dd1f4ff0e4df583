"""Sizes as people write them ("512MiB") and as programs use them (bytes)."""

from __future__ import annotations

import re

UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
SIZE_PATTERN = r"^(0|[1-9][0-9]*)(B|KiB|MiB|GiB|TiB)$"
_SIZE = re.compile(SIZE_PATTERN)


class Size(int):
    """A number of bytes, written in documents as text with a binary unit."""

    @classmethod
    def parse(cls, text: str) -> Size:
        """Reads "512MiB". Raises ValueError when text is not a size."""
        match = _SIZE.fullmatch(text)
        if match is None:
            raise ValueError(f"not a size: {text!r}")
        return cls(int(match[1]) * UNITS[match[2]])


def size_text(size: int) -> str:
    """A number of bytes in the largest unit that states it exactly; Size.parse reads it back.

    Not Size.__str__: a size in a command or a file name stays plain bytes.
    """
    if size == 0:
        return "0B"
    unit = next(name for name in reversed(UNITS) if size % UNITS[name] == 0)
    return f"{size // UNITS[unit]}{unit}"
