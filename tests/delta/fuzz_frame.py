"""A fuzzer of the frame decoder: whatever a payload is, it gives bytes or DeltaError.

    python -m tests.delta.fuzz_frame [--seconds N] [-- options of libFuzzer]

With atheris installed, coverage guides it; without, it damages the corpus at random. An input is
the size of the frame (two bytes, little-endian) and a payload; its base is always the same.
`--corpus` writes the corpus in tests/delta/corpus anew, from the encoder.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import time
from pathlib import Path

from delta.errors import DeltaError

CORPUS = Path(__file__).parent / "corpus"

# As code and text of an image: compressible, and the same in each run.
BASE = b"".join(bytes((at * at >> shift) & 255 for at in range(4096)) for shift in (0, 3, 5, 8))


class Base:
    """The base; it insists that nothing is read outside of it."""

    size = len(BASE)

    def read(self, offset: int, size: int) -> bytes:
        if not 0 <= offset <= offset + size <= self.size:
            raise AssertionError(f"read outside of the base: {size} bytes at {offset}")
        return BASE[offset : offset + size]


def once(data: bytes) -> bool:
    """Decodes one input; whether it gave bytes. Raises what a decoder must not raise."""
    from delta.frame import apply

    size = int.from_bytes(data[:2], "little")
    try:
        apply(data[2:], Base(), memoryview(bytearray(size)))
    except DeltaError:
        return False
    return True


def corpus() -> list[bytes]:
    """The inputs to start from."""
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def damaged(inputs: list[bytes], chance: random.Random) -> bytes:
    """One of the inputs with some changes."""
    data = bytearray(chance.choice(inputs))
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at : at + chance.randrange(9)] = b""
            case 2:
                data[at:at] = chance.randbytes(chance.randrange(9))
            case 3:
                other = chance.choice(inputs)
                start = chance.randrange(len(other))
                data[at:at] = other[start : start + chance.randrange(30)]
            case _ if at < len(data):
                data[at] = chance.choice((0, 1, 127, 128, 255))
    return bytes(data)


def at_random(seconds: float, seed: int) -> tuple[int, int]:
    """Damages the corpus for so long: how many inputs, and how many of them gave bytes."""
    chance = random.Random(seed)
    inputs = corpus()
    tried = good = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = damaged(inputs, chance)
        try:
            good += once(data)
        except Exception:
            Path("crash").write_bytes(data)
            raise
        tried += 1
    return tried, good


def write_corpus() -> None:
    """Small payloads of every codec, with and without rewriting."""
    from delta.varint import write
    from imager.delta.difference import differences
    from imager.delta.frame import Copy, Reference, encode
    from imager.delta.sections import Effort, section, zstd_section
    from tests.delta.frames import edited

    chance = random.Random(1)
    found = []
    for level in (1, 19):
        for edits in (1, 4, 9):
            new = edited(BASE[5000:9000], edits, chance)
            references = [Reference(4000, 6000), Reference(12000, 3000)]
            found.append((len(new), encode(new, Base(), [], references, level=level)))
            copied = BASE[:700] + new + BASE[900:2000]
            copies = [Copy(0, 0, 700), Copy(700 + len(new), 900, 1100)]
            payload = encode(copied, Base(), copies, references, level=level)
            found.append((len(copied), payload))
    new = edited(BASE[:3000], 3, chance)
    # A head without copies and with the first 4096 bytes as reference.
    head = bytes([6, 0, 0, 1, 128, 32, 0, 0, 0])
    parts = differences(new, BASE[:4096], Effort(19))
    parts[0] = section(new, Effort(19), code=True)
    parts[1] = zstd_section(new, BASE[:4096], Effort(19))
    found.extend((len(new), bytes([1, codec]) + head + data) for codec, data in parts.items())
    # Codec 4: one old and one new part, both open, around the last of these.
    numbers = (0, 0, 0, 0, 1, 4096, 4096 << 1, 1, len(new), len(new) << 1)
    tables = section(b"".join(map(write, numbers)), Effort(19))
    found.append((len(new), bytes([1, 4]) + head + tables + found[-1][1]))
    for number, (size, payload) in enumerate(found):
        apply_ok = once(size.to_bytes(2, "little") + payload)
        assert apply_ok, f"input {number} is not decoded"
        (CORPUS / f"{number:02}").write_bytes(size.to_bytes(2, "little") + payload)


def main() -> None:
    """Runs the fuzzer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", action="store_true")
    parser.add_argument("options", nargs="*")
    arguments = parser.parse_args()
    if arguments.corpus:
        write_corpus()
        return
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        tried, good = at_random(arguments.seconds, arguments.seed)
        sys.stdout.write(f"{tried} inputs, {good} gave bytes\n")
        return
    with atheris.instrument_imports(include=["delta"]):
        importlib.import_module("delta.frame")
    options = [f"-max_total_time={arguments.seconds}", "-timeout=10", "-rss_limit_mb=512"]
    atheris.Setup([sys.argv[0], *options, *arguments.options], once_for_libfuzzer)
    atheris.Fuzz()


def once_for_libfuzzer(data: bytes) -> None:
    """once, without a result: libFuzzer keeps some for itself."""
    once(data)


if __name__ == "__main__":
    main()
