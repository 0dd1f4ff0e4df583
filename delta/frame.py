"""Decoding one frame: some pieces of a new image, made out of the base image and a payload.

A payload says which bytes of the frame are copied from the base as they are, which
ranges of the base are references, and how the codec makes the remaining, coded bytes
out of them. The format byte by byte: docs/delta-format.md.

A payload is not trusted. Its numbers are checked before memory is taken or the base
is read, and whatever it says, decoding ends: it reads at most 32 MiB of the base,
gives out as many bytes as the frame has, and stops at the first that is too many.
That the bytes are the right ones is not known here: the caller has their digests.
"""

from __future__ import annotations

from delta.codecs import opened
from delta.codecs.interface import Decode
from delta.codecs.plain import DICTIONARY, DIFFERENCE, PLAIN, SPARSE, STORE
from delta.decode import FRAME_LIMIT, VERSION, decode, gaps
from delta.references import Base
from delta.varint import Reader

__all__ = [
    "CODECS",
    "DICTIONARY",
    "DIFFERENCE",
    "FRAME_LIMIT",
    "OPENED",
    "SPARSE",
    "STORE",
    "VERSION",
    "Base",
    "apply",
    "gaps",
]

# Never renumber: golden payloads of every codec are in tests/delta/golden.
OPENED = 4
CODECS: dict[int, Decode] = {**PLAIN, OPENED: opened.decode}


def apply(payload: bytes, base: Base, into: memoryview) -> None:
    """Fills into, which is as large as the frame, with the frame's bytes.

    Memory: at most 16 MiB of references and 16 MiB of decompression windows beside payload and
    into, and with codec 4 the opened bytes, too. Frames do not depend on each other: any may be
    applied alone, again, and at any time.

    Raises DeltaError if the payload is no such payload (into then holds anything), OSError from
    the base.
    """
    decode(Reader(memoryview(payload)), base, into, CODECS)
