"""What a web server, or somebody who plays one, can do to a single request."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from recovery import process
from updater import web
from updater.web import Web, WebError

ROOT = Path(__file__).resolve().parents[2]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# What is sent for the request of that number on the connection of that number; None: nothing.
Reply = Callable[[int, int, str], bytes | None]


@contextmanager
def server(reply: Reply, context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[str]]]:
    """Port, and the requests as they came in."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[str] = []

    def talk(plain: socket.socket, number: int) -> None:
        with suppress(OSError), plain:
            sock = context.wrap_socket(plain, server_side=True) if context else plain
            with sock:
                count = 0
                while request := sock.recv(65536).decode():
                    seen.append(request)
                    answer = reply(number, count, request)
                    if answer is None:
                        return
                    sock.sendall(answer)
                    count += 1

    def serve() -> None:
        number = 0
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=talk, args=(sock, number), daemon=True).start()
                number += 1

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        listener.close()


def client(url: str) -> Web:
    return Web(web.parse(url), connect=2, silence=2)


def fetch(source: Web, path: str = "x") -> bytes:
    """A whole answer, whose connection is kept."""
    answer = source.get(path, {})
    assert answer.status == 200
    content = b""
    while data := answer.read(100):
        content += data
    answer.finish()
    return content


@pytest.mark.parametrize(
    "length",
    [b"Content-Length: 2\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
)
def test_a_connection_is_used_again(length: bytes) -> None:
    connections = set()

    def reply(connection: int, _: int, __: str) -> bytes:
        connections.add(connection)
        return b"HTTP/1.1 200 OK\r\n" + length

    with server(reply) as (port, seen):
        source = client(f"http://127.0.0.1:{port}")
        assert [fetch(source) for _ in range(3)] == [b"ok"] * 3
        source.close()
    assert len(seen) == 3
    assert connections == {0}


def test_a_connection_that_the_server_closed_meanwhile_is_not_used() -> None:
    def reply(_: int, count: int, __: str) -> bytes | None:
        return OK if count == 0 else None

    with server(reply) as (port, _):
        source = client(f"http://127.0.0.1:{port}")
        assert fetch(source) == b"ok"
        # The server has closed it once this arrives.
        kept = source._kept[0][1]
        kept.sock.sendall(b"x")
        kept.sock.settimeout(2)
        assert kept.sock.recv(1, socket.MSG_PEEK) == b""
        assert fetch(source) == b"ok"


def test_an_answer_that_was_not_read_to_its_end_is_not_mixed_with_the_next() -> None:
    with server(lambda *_: OK) as (port, _):
        source = client(f"http://127.0.0.1:{port}")
        source.get("x", {}).finish()
        assert not source._kept
        assert fetch(source) == b"ok"


def test_an_answer_that_is_cut_is_an_error() -> None:
    with server(lambda *_: None) as (port, _), pytest.raises(WebError, match="lost"):
        fetch(client(f"http://127.0.0.1:{port}"))

    def half(_: int, __: int, request: str) -> bytes | None:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok" if request[0] == "G" else None

    with server(half) as (port, _):
        source = client(f"http://127.0.0.1:{port}")
        answer = source.get("x", {})
        assert answer.read(100) == b"ok"
        # Anything but a request makes this server close.
        answer._connection.sock.sendall(b"x")
        with pytest.raises(WebError, match="in the middle of an answer"):
            answer.read(100)


def test_redirections_are_followed_and_credentials_stay_where_they_belong() -> None:
    with server(lambda *_: OK) as (other, seen_by_other):

        def reply(_: int, __: int, request: str) -> bytes:
            place = "/there/x y" if request.startswith("GET /here/") else "elsewhere"
            if request.startswith("GET /there/elsewhere"):
                place = f"http://127.0.0.1:{other}/end?a=b"
            head = f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n"
            return head.encode()

        with server(reply) as (port, seen):
            source = client(f"http://me:pass%40word@127.0.0.1:{port}/here/")
            assert fetch(source) == b"ok"
    assert [line.split()[1] for line in seen] == ["/here/x", "/there/x%20y", "/there/elsewhere"]
    # me:pass@word
    assert all("authorization: Basic bWU6cGFzc0B3b3Jk\r\n" in line for line in seen)
    assert seen_by_other[0].startswith("GET /end?a=b ")
    assert "authorization" not in seen_by_other[0].lower()


@pytest.mark.parametrize(
    ("place", "why"),
    [("/again", "too often"), ("file:///etc/passwd", "no http"), ("http://[", "no http")],
)
def test_a_redirection_to_nowhere_is_an_error(place: str, why: str) -> None:
    head = f"HTTP/1.1 301 Moved\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()
    with server(lambda *_: head) as (port, seen), pytest.raises(WebError, match=why):
        client(f"http://127.0.0.1:{port}").get("x", {})
    assert len(seen) <= 4


@pytest.mark.parametrize(
    "noise",
    [
        b"\x00" * 100,
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"x" * 70000,
    ],
)
def test_what_is_not_http_is_an_error(noise: bytes) -> None:
    with server(lambda *_: noise) as (port, _), pytest.raises(WebError, match="lost"):
        client(f"http://127.0.0.1:{port}").get("x", {})


@pytest.mark.parametrize(
    "url",
    ["http://", "ftp://a/", "http://a/?q=1", "http://a/#f", "http://a b/", "http://a:x/",
     "http://a:99999/", "http://a/\r\nx: y", "a"],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError):
        web.parse(url)


def test_an_address_with_everything() -> None:
    found = web.parse("https://u:p@[::1]:8443/a/b/")
    assert (found.server, found.path) == (web.Server("https", "::1", 8443), "/a/b")
    assert found.shown == "https://[::1]:8443/a/b"


def test_a_server_proves_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    process.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with server(lambda *_: OK, context) as (port, _):
        with pytest.raises(WebError, match="secure connection failed"):
            fetch(client(f"https://localhost:{port}"))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with pytest.raises(WebError, match="secure connection failed"):
            fetch(client(f"https://127.0.0.1:{port}"))
        assert fetch(client(f"https://localhost:{port}")) == b"ok"


def test_an_update_loads_no_http_library_but_pythons_own() -> None:
    program = (
        "import sys\nimport updater.update\n"
        "print({'requests', 'urllib3', 'chardet', 'certifi'} & set(sys.modules))\n"
        "import requests\nprint(requests.Session)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["set()", "<class 'requests.sessions.Session'>"]
