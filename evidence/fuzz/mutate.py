"""Changes of inputs: of bytes, of lines, and of the values in a JSON document.

Bytes changed at random hardly ever leave a JSON document one, so what lies
behind its parser is not reached: there a valid document is changed, value by value.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

from evidence.fuzz.target import Form

# What breaks readers: limits of integers, what is no number, paths, text that is not encodable,
# digits that are not ASCII's, and more of something than anybody expects.
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63),
    0.5, 1e308, True, False, None,
)  # fmt: skip
TEXTS = (
    "", "a", "b", "0", "..", "../../etc/passwd", "/", "a/b", "\0", "a\0b", "\ud800", "\n",
    "x" * 300, "x" * 5000, "9" * 5000, "\u0661", "\u2028", "%s%n", "-", ".", "*", "?[]", "1.0",
    "true", "null", "0" * 64, "f" * 64, "9999-12-31T23:59:59Z", "1970-01-01T00:00:00Z",
)  # fmt: skip
PIECES = (
    b"", b"\0", b"\xff", b"\n", b"#", b"=", b"9" * 20, b"9" * 5000, b"-1", b"../", b"\xed\xa0\x80",
    b"\xd9\xa1", b"{", b"[" * 200, b"\x7f\xff\xff\xff", b"\0" * 64, b"%", b"\r\n",
)  # fmt: skip
DEEP = 2000


def mutate(form: Form, data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Another input. others: of the same target, to take parts from."""
    if form == "json" and chance.random() < 0.85:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            pass
        else:
            return changed_document(document, chance)
    if form == "lines" and chance.random() < 0.6:
        return changed_lines(data, others, chance)
    return changed_bytes(data, others, chance)


def changed_bytes(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Some bits, numbers and stretches of the input changed."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        at = chance.randrange(len(found) + 1)
        match chance.randrange(8):
            case 0 if at < len(found):
                found[at] ^= 1 << chance.randrange(8)
            case 1:
                del found[at : at + chance.choice((1, 2, 4, 16, 200))]
            case 2:
                found[at:at] = chance.choice(PIECES)
            case 3 if others:
                other = chance.choice(others)
                start = chance.randrange(len(other) + 1)
                found[at:at] = other[start : start + chance.choice((4, 30, 300))]
            case 4:
                size = chance.choice((1, 2, 4, 8))
                value = chance.choice((0, 1, 127, 128, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**63))
                order = chance.choice(("little", "big"))
                found[at : at + size] = (value % 256**size).to_bytes(size, order)
            case 5:
                del found[at:]
            case 6:
                found[at : at + 8] = chance.randbytes(len(found[at : at + 8]))
            case _ if at < len(found):
                found[at] = chance.choice((0, 1, 127, 128, 255))
    return bytes(found)


def changed_lines(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Lines doubled, dropped, swapped, taken from others, or with another value."""
    lines = data.split(b"\n")
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(lines))
        match chance.randrange(5):
            case 0:
                lines.insert(at, lines[chance.randrange(len(lines))])
            case 1 if len(lines) > 1:
                del lines[at]
            case 2 if others:
                lines.insert(at, chance.choice(chance.choice(others).split(b"\n")))
            case 3:
                for mark in (b"=", b":", b" "):
                    name, found, _ = lines[at].partition(mark)
                    if found:
                        lines[at] = name + found + chance.choice(PIECES)
                        break
            case _:
                place = chance.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:place] + chance.choice(PIECES) + lines[at][place:]
    return b"\n".join(lines)


def changed_document(document: Any, chance: random.Random) -> bytes:
    """The document with some values replaced, dropped, doubled, or nested deeply."""
    if not isinstance(document, dict | list):
        return json.dumps(_value(chance)).encode()
    changed = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        places = list(_places(changed))
        if not places:
            return json.dumps(_value(chance)).encode()
        holder, key = chance.choice(places)
        match chance.randrange(6):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[chance.choice(TEXTS)] = _value(chance)
            case 2 if isinstance(holder, list):
                holder.extend([holder[key]] * chance.choice((1, 2, 100)))
            case 3:
                other, name = chance.choice(places)
                holder[key] = copy.deepcopy(other[name])
            case _:
                holder[key] = _value(chance)
    # A text that no UTF-8 can hold is written as an escape, as JSON allows.
    data = json.dumps(changed).encode()
    if chance.random() < 0.02:
        # Deeper than any reader should go; json.dumps cannot write it.
        deep = chance.choice((b"[", b'{"a":')) * DEEP
        place = chance.randrange(len(data) + 1)
        return data[:place] + deep + data[place:]
    return data


def _places(value: Any, depth: int = 0) -> Any:
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list) and depth < 20:
            yield from _places(value[key], depth + 1)


def _value(chance: random.Random) -> Any:
    match chance.randrange(6):
        case 0 | 1:
            return chance.choice(NUMBERS)
        case 2 | 3:
            return chance.choice(TEXTS)
        case 4:
            return chance.choice(([], {}, [None], {"": 0}, ["a"], [[1]], {"format": 1}))
        case _:
            return chance.randrange(2**20)
