"""What a fuzz target is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import zstandard

from recovery.errors import OrbitalError

CORPUS = Path(__file__).parent.parent.parent / "tests" / "hostile" / "corpus"

Form = Literal["bytes", "json", "lines", "der"]


@dataclass(frozen=True)
class Target:
    """One parser.

    run: reads one input, as its caller on a device or host does, and uses what
    came out; raises nothing but `allowed`. form: what the inputs are made of,
    for mutations that keep it. modules: what coverage is measured in. seconds
    of work, memory: what one input may take; memory is what the process may grow by, in MiB.
    longest: bytes of an input.
    """

    name: str
    run: Callable[[bytes], object]
    form: Form
    modules: tuple[str, ...]
    allowed: tuple[type[Exception], ...] = (OrbitalError,)
    seconds: float = 2.0
    memory: int = 256
    longest: int = 8192

    @property
    def corpus(self) -> Path:
        """The directory of its inputs that are kept."""
        return CORPUS / self.name

    def seeds(self) -> list[bytes]:
        """Its kept inputs, in the order of their names; what is large is kept compressed (.zst)."""
        return [_content(path) for path in sorted(self.corpus.iterdir())]


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".zst":
        return data
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 20)
