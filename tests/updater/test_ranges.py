"""Parts of files from web servers that do not do what they should."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from recovery.errors import FetchError
from tests.updater.test_source import BIG, IMPATIENT, head, ranges, server
from tests.updater.webserver import WebServer
from updater.http import HttpSource
from updater.source import NoRangesError


def part(source: HttpSource, offset: int, size: int) -> bytes:
    """The bytes."""
    return b"".join(source.open_range("x", offset, size))


def answer(first: int, last: int, length: int) -> bytes:
    """Headers of a partial answer."""
    return (
        b"HTTP/1.1 206 Partial Content\r\nConnection: close\r\nContent-Length: %d\r\n"
        b"Content-Range: bytes %d-%d/%d\r\n\r\n" % (length, first, last, len(BIG))
    )


def test_a_part_continues_where_it_broke_off() -> None:
    def talk(request: bytes, _: int) -> bytes:
        asked = re.search(rb"(?i)range: bytes=(\d+)-(\d+)\r", request)
        assert asked is not None
        first, last = int(asked[1]), int(asked[2])
        return answer(first, last, last + 1 - first) + BIG[first : last + 1]

    with ranges(talk) as (url, sent):
        assert part(HttpSource(url, IMPATIENT), 5000, 700_000) == BIG[5000:705_000]
    assert sum(sent) < 700_000 + 1000 * len(sent), "something was sent twice"


def test_a_server_without_ranges_is_asked_once_and_what_it_sends_is_not_lost(
    tmp_path: Path,
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "x").write_bytes(BIG[:400_000])
    with WebServer(tmp_path / "files", tmp_path / "nginx", "max_ranges 0;") as web:
        source = HttpSource(web.url, IMPATIENT)
        with pytest.raises(NoRangesError) as first:
            part(source, 10, 20)
        with pytest.raises(NoRangesError) as second:
            part(source, 10, 20)
        # nginx writes its log once all was sent.
        deadline = time.monotonic() + 5
        while not web.requests() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(web.requests()) == 1
    assert first.value.whole == BIG[:400_000]
    assert second.value.whole == b""


def test_a_large_file_is_not_taken_instead_of_a_part() -> None:
    def talk(connection: socket.socket, _: int) -> None:
        connection.sendall(head(1 << 40) + bytes(1 << 16))

    with server(talk) as url, pytest.raises(NoRangesError) as caught:
        part(HttpSource(url, IMPATIENT), 0, 10)
    assert caught.value.whole == b""


@pytest.mark.parametrize(
    "headers",
    [
        answer(11, 20, 10),
        answer(0, 9, 10),
        answer(10, 19, 10).replace(b"Content-Range", b"X-Range"),
        answer(10, 19, 10).replace(b"Content-Length: 10", b"Transfer-Encoding: chunked"),
        answer(10, 19, 9),
        answer(10, 19, 1 << 40),
    ],
)
def test_an_answer_with_another_part_is_not_used(headers: bytes) -> None:
    def talk(connection: socket.socket, _: int) -> None:
        connection.sendall(headers + BIG[10:20])

    limits = replace(IMPATIENT, patience=0.6)
    with server(talk) as url, pytest.raises(FetchError, match="cannot fetch x"):
        part(HttpSource(url, limits), 10, 10)
