"""JSON and MessagePack from elsewhere into typed documents, with one way to fail.

msgspec raises MsgspecError for what does not fit the type, but UnicodeDecodeError
for text that is not UTF-8 and RecursionError for what is nested too deeply.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


def decode_json(data: bytes, kind: type[T]) -> T:
    """The document. Raises msgspec.MsgspecError when data is not one of that kind."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def decode_msgpack(data: bytes, kind: type[T]) -> T:
    """The document. Raises msgspec.MsgspecError when data is not one of that kind."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
