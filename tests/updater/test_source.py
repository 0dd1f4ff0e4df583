"""One conformance suite for every source, and what only a web server can do to us."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from qemu.sockets import free_port
from recovery.errors import FetchError
from tests.updater.webserver import WebServer
from updater.http import HttpSource, Limits
from updater.repository import open_source
from updater.source import DirectorySource, NotFoundError, Source, read

BIG = hashlib.shake_128(b"big").digest(3_000_000)
IMPATIENT = Limits(
    connect=2, silence=1, min_rate=1000, rate_window=1, first_contact=2, patience=3, longest_pause=1
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory that looks like a repository."""
    root = tmp_path / "repository"
    (root / "metadata").mkdir(parents=True)
    (root / "chunks" / "ab").mkdir(parents=True)
    (root / "chunks" / "ab" / "big").write_bytes(BIG)
    (root / "empty").write_bytes(b"")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


@pytest.fixture(params=["http", "directory"])
def source(request: pytest.FixtureRequest, files: Path, tmp_path: Path) -> Iterator[Source]:
    """Every kind of source over the same files."""
    if request.param == "directory":
        yield DirectorySource(files)
        return
    with WebServer(files, tmp_path / "nginx") as web:
        http = HttpSource(web.url, IMPATIENT)
        yield http
        http.close()


def test_content_arrives_whole_and_in_blocks(source: Source) -> None:
    blocks = list(source.open("chunks/ab/big", len(BIG)))
    assert b"".join(blocks) == BIG
    assert max(map(len, blocks)) <= 1 << 20


def test_empty_file(source: Source) -> None:
    assert read(source, "empty", 10) == b""


def test_a_part_of_a_file(source: Source) -> None:
    blocks = list(source.open_range("chunks/ab/big", 1_000_001, 700_003))
    assert b"".join(blocks) == BIG[1_000_001:1_700_004]
    for offset in (len(BIG) - 9, len(BIG), len(BIG) + 9):
        with pytest.raises(NotFoundError, match="shorter than it should be"):
            list(source.open_range("chunks/ab/big", offset, 10))
    with pytest.raises(NotFoundError, match="no such file"):
        list(source.open_range("chunks/none", 0, 10))


def test_missing_file(source: Source) -> None:
    with pytest.raises(NotFoundError, match=r"^cannot fetch chunks/none"):
        read(source, "chunks/none", 10)


def test_directory_is_not_a_file(source: Source) -> None:
    with pytest.raises(FetchError, match=r"^cannot fetch chunks"):
        read(source, "chunks", 10)


def test_file_longer_than_allowed(source: Source) -> None:
    with pytest.raises(FetchError, match="longer than the 2999999 bytes"):
        read(source, "chunks/ab/big", len(BIG) - 1)


def test_path_out_of_the_repository(source: Source) -> None:
    with pytest.raises(FetchError):
        read(source, "../secret", 100)


def test_several_threads_at_once(source: Source) -> None:
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.append(read(source, "chunks/ab/big", len(BIG))))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [BIG] * 6


def test_source_is_chosen_by_its_name(files: Path) -> None:
    assert isinstance(open_source(str(files)), DirectorySource)
    assert isinstance(open_source(f"file://{files}"), DirectorySource)
    assert isinstance(open_source("https://updates.example.org/x"), HttpSource)
    for wrong in ("", "ftp://updates.example.org/", "http://", "/nonexistent", "http://a/?q=1"):
        with pytest.raises(FetchError, match=r"^cannot "):
            open_source(wrong)


def test_credentials_of_a_url_are_not_shown() -> None:
    source = HttpSource("http://user:secret@127.0.0.1:9/repository", IMPATIENT)
    assert source.name == "http://127.0.0.1:9/repository"
    with pytest.raises(FetchError) as caught:
        read(source, "x", 1)
    assert "secret" not in str(caught.value)


# A server under our control, for what a correct one never does.

Talk = Callable[[socket.socket, int], None]


@contextmanager
def server(talk: Talk, port: int = 0) -> Iterator[str]:
    """Accepts connections and lets talk(connection, number) misbehave on each."""
    listener = socket.create_server(("127.0.0.1", port))
    stopped = threading.Event()

    def serve() -> None:
        number = 0
        while not stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_talk, args=(talk, connection, number), daemon=True).start()
            number += 1

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _talk(talk: Talk, connection: socket.socket, number: int) -> None:
    with connection:
        try:
            connection.recv(65536)
            talk(connection, number)
        except OSError:
            return


def head(length: int | None) -> bytes:
    """A response's headers; without a length the body comes in chunks."""
    line = b"Transfer-Encoding: chunked\r\n"
    if length is not None:
        line = b"Content-Length: %d\r\n" % length
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + line + b"\r\n"


def test_connection_lost_in_mid_file_is_taken_up_again() -> None:
    def talk(connection: socket.socket, number: int) -> None:
        connection.sendall(head(len(BIG)))
        connection.sendall(BIG[: 700_000 * (number + 1)])

    with server(talk) as url:
        assert read(HttpSource(url, IMPATIENT), "x", len(BIG)) == BIG


def ranged(request: bytes, data: bytes, etag: bytes, *, start: int | None = None) -> bytes:
    """The answer of a server with ranges. start: what it sends instead of what was asked for."""
    asked = re.search(rb"(?i)range: bytes=(\d+)-", request)
    same = re.search(rb"(?i)if-range: (.*)\r\n", request)
    if not (asked and same and same[1] == etag):
        length = b"ETag: %b\r\nContent-Length: %d\r\n\r\n" % (etag, len(data))
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + length + data
    first = int(asked[1]) if start is None else start
    return (
        b"HTTP/1.1 206 Partial Content\r\nConnection: close\r\nContent-Length: %d\r\n"
        b"Content-Range: bytes %d-%d/%d\r\n\r\n"
        % (len(data) - first, first, len(data) - 1, len(data))
    ) + data[first:]


@contextmanager
def ranges(
    answer: Callable[[bytes, int], bytes], whole_from: int = 1000
) -> Iterator[tuple[str, list[int]]]:
    """A server that breaks its first answers off after 200 kB; with the sizes that it sent."""
    sent: list[int] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            data = answer(connection.recv(65536), len(sent))
            data = data if len(sent) >= whole_from else data[:200_000]
            sent.append(len(data))
            with suppress(OSError):
                connection.sendall(data)

    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                serve(listener.accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", sent
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_file_continues_where_it_broke_off() -> None:
    with ranges(lambda request, _: ranged(request, BIG, b'"v1"')) as (url, sent):
        assert read(HttpSource(url, IMPATIENT), "x", len(BIG)) == BIG
    assert sum(sent) < len(BIG) + 1000 * len(sent), "something was sent twice"


def test_a_range_of_another_file_is_not_mixed_in() -> None:
    def answer(request: bytes, number: int) -> bytes:
        return ranged(request, BIG if number < 2 else BIG[::-1], b'"v%d"' % (number // 2))

    with (
        ranges(answer, whole_from=3) as (url, _),
        pytest.raises(FetchError, match="changed while it was read"),
    ):
        read(HttpSource(url, IMPATIENT), "x", len(BIG))


def test_a_server_with_wrong_ranges_is_read_from_the_start() -> None:
    data = BIG[:300_000]

    def answer(request: bytes, number: int) -> bytes:
        if number == 0:
            return ranged(request, data, b'"v"')
        if number == 1:
            return ranged(request, data, b'"v"', start=7)
        return ranged(request, data, b'"v"')

    with ranges(answer, whole_from=2) as (url, _):
        assert read(HttpSource(url, IMPATIENT), "x", len(data)) == data


def test_a_weak_tag_is_no_reason_to_continue() -> None:
    def talk(connection: socket.socket, number: int) -> None:
        connection.sendall(head(len(BIG)).replace(b"\r\n\r\n", b'\r\nETag: W/"v"\r\n\r\n'))
        connection.sendall(BIG[: 700_000 * (number + 1)])

    with server(talk) as url:
        assert read(HttpSource(url, IMPATIENT), "x", len(BIG)) == BIG


def test_file_that_changes_between_two_attempts_is_not_mixed() -> None:
    def talk(connection: socket.socket, number: int) -> None:
        data = BIG if number == 0 else BIG[::-1]
        connection.sendall(head(len(BIG)))
        connection.sendall(data[: 1_000_000 * (number + 1)])

    with server(talk) as url, pytest.raises(FetchError, match="changed while it was read"):
        read(HttpSource(url, IMPATIENT), "x", len(BIG))


@pytest.mark.parametrize("announced", [True, False])
def test_endless_data_is_cut_off(announced: bool) -> None:
    def talk(connection: socket.socket, _: int) -> None:
        connection.sendall(head(10**15 if announced else None))
        while True:
            connection.sendall(bytes(65536) if announced else b"10000\r\n" + bytes(65536) + b"\r\n")

    with server(talk) as url, pytest.raises(FetchError, match="longer than"):
        read(HttpSource(url, IMPATIENT), "x", 1_000_000)


@pytest.mark.parametrize("where", ["body", "silence"])
def test_server_that_trickles_is_given_up(where: str) -> None:
    def talk(connection: socket.socket, _: int) -> None:
        connection.sendall(head(1_000_000))
        while where == "body":
            connection.sendall(b"x")
            time.sleep(0.05)
        time.sleep(60)

    started = time.monotonic()
    with server(talk) as url, pytest.raises(FetchError, match="tried for"):
        read(HttpSource(url, IMPATIENT), "x", 1_000_000)
    assert time.monotonic() - started < 15


def test_headers_that_trickle_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from updater import http

    monkeypatch.setattr(http, "_HEADER_SECONDS", 1.0)

    def talk(connection: socket.socket, _: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    started = time.monotonic()
    with server(talk) as url, pytest.raises(FetchError, match="tried for"):
        read(HttpSource(url, IMPATIENT), "x", 1_000_000)
    assert time.monotonic() - started < 15


def test_credentials_are_sent_as_they_were_meant() -> None:
    expected = base64.b64encode("user:p@ss\u00e4".encode())

    class Listening(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["authorization"] == f"Basic {expected.decode()}"
            self.send_response(200 if asked else 403)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

    web = HTTPServer(("127.0.0.1", 0), Listening)
    threading.Thread(target=web.handle_request, daemon=True).start()
    address = f"http://user:p%40ss%C3%A4@127.0.0.1:{web.server_port}"
    assert read(HttpSource(address, IMPATIENT), "x", 10) == b"ok"
    web.server_close()


def test_answer_that_ends_with_its_connection_is_not_taken_for_whole() -> None:
    def talk(connection: socket.socket, _: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of")

    with server(talk) as url, pytest.raises(FetchError, match="how long its answer is"):
        read(HttpSource(url, IMPATIENT), "x", 1000)


def test_server_that_is_not_there_is_given_up_soon() -> None:
    started = time.monotonic()
    with pytest.raises(FetchError, match="cannot be reached") as caught:
        read(HttpSource(f"http://127.0.0.1:{free_port()}", IMPATIENT), "x", 1)
    assert "check the network" in caught.value.resolution
    assert time.monotonic() - started < 10


def test_server_that_comes_back_within_the_patience() -> None:
    """The patience is long: a busy machine may take its time to start the server."""
    port, asked = free_port(), threading.Event()
    patient = dataclasses.replace(IMPATIENT, first_contact=60)

    def talk(connection: socket.socket, _: int) -> None:
        connection.sendall(head(4) + b"data")
        asked.set()

    def start_late() -> None:
        time.sleep(1)
        with server(talk, port):
            asked.wait(60)

    threading.Thread(target=start_late, daemon=True).start()
    assert read(HttpSource(f"http://127.0.0.1:{port}", patient), "x", 10) == b"data"


def test_overloaded_server_is_asked_again_and_a_wrong_one_is_not() -> None:
    def talk(connection: socket.socket, number: int) -> None:
        if number == 0:
            connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        elif number == 1:
            connection.sendall(head(4) + b"data")
        else:
            connection.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")

    with server(talk) as url:
        source = HttpSource(url, IMPATIENT)
        assert read(source, "x", 10) == b"data"
        with pytest.raises(FetchError, match="answers HTTP 401"):
            read(source, "x", 10)


def test_closing_ends_the_waiting() -> None:
    patient = Limits(first_contact=60, patience=60)
    source = HttpSource(f"http://127.0.0.1:{free_port()}", patient)
    threading.Timer(0.5, source.close).start()
    started = time.monotonic()
    with pytest.raises(FetchError, match="stopped"):
        read(source, "x", 1)
    assert time.monotonic() - started < 10
