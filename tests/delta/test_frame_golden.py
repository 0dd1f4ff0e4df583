"""Golden frames are decoded as on the day they were made; see golden_frames.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from delta.decode import VERSION, WITH_INODES
from delta.frame import CODECS, OPENED
from delta.head import read as read_head
from delta.sections import read_section
from delta.varint import Reader
from tests.delta.frames import decoded

GOLDEN = Path(__file__).parent / "golden"
PAYLOADS = sorted(GOLDEN.glob("*.payload"))


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda path: path.stem)
def test_a_golden_payload_gives_its_result(path: Path) -> None:
    own = path.with_suffix(".base")
    base = (own if own.exists() else GOLDEN / "base").read_bytes()
    result = path.with_suffix(".result").read_bytes()
    assert decoded(path.read_bytes(), base, len(result)) == result


def test_there_is_a_golden_payload_of_each_codec_and_method() -> None:
    size = (GOLDEN / "base").stat().st_size
    codecs, methods, versions = set(), set(), set()
    for path in PAYLOADS:
        payload = path.read_bytes()
        result = path.with_suffix(".result").stat().st_size
        codecs.add(payload[1])
        versions.add(payload[0])
        if payload[0] == WITH_INODES:
            continue
        reader = Reader(memoryview(payload)[2:])
        read_head(reader, size, result)
        # Inside codec 4 is another payload; test_opened.py looks at these.
        while reader.left and payload[1] != OPENED:
            methods.add(read_section(reader, result, "content").method)
    assert codecs == set(CODECS)
    assert methods == set(range(5))
    assert versions == {VERSION, WITH_INODES}
