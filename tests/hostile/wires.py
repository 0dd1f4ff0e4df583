"""Attacks of a server, or of somebody on the way to it: what is sent, and how."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Callable

from tests.hostile.server import Handler
from tests.hostile.world import World

# Endless data.


def endless(part: str) -> Callable[[World], None]:
    """A file that never ends, as chunks whose number nobody says."""

    def begin(world: World) -> None:
        def trick(handler: Handler) -> bool:
            if part not in handler.path:
                return False
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.endless(b"10000\r\n" + bytes(65536) + b"\r\n")
            return True

        world.server.trick = trick

    return begin


def endless_length(world: World) -> None:
    """Every file is said to have an exabyte."""

    def trick(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 60))
        handler.end_headers()
        handler.endless(bytes(65536))
        return True

    world.server.trick = trick


def endless_headers(world: World) -> None:
    """Headers without end."""

    def trick(handler: Handler) -> bool:
        handler.write(b"HTTP/1.1 200 OK\r\n")
        handler.endless(b"X-More: " + b"x" * 1000 + b"\r\n")
        return True

    world.server.trick = trick


def endless_roots(world: World) -> None:
    """Every number has a root: the newest one, again and again."""
    data = (world.repository / "metadata/1.root.json").read_bytes()

    def trick(handler: Handler) -> bool:
        if ".root.json" not in handler.path:
            return False
        handler.send(200, data)
        return True

    world.server.trick = trick


def bomb_as_encoding(world: World) -> None:
    """Everything comes as a gzip stream of zeros, which nobody asked for."""
    bomb = gzip.compress(bytes(8 << 20))

    def trick(handler: Handler) -> bool:
        handler.send(200, bomb, {"Content-Encoding": "gzip"})
        return True

    world.server.trick = trick


# Slow retrieval.


def slow(part: str, where: str) -> Callable[[World], None]:
    """Bytes that trickle, in the headers or in the body, or none at all."""

    def begin(world: World) -> None:
        def trick(handler: Handler) -> bool:
            if part not in handler.path:
                return False
            if where == "headers":
                handler.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            elif where == "body":
                handler.write(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n")
            handler.endless(b"" if where == "silence" else b"x", pause=0.1)
            return True

        world.server.trick = trick

    return begin


# Sizes, ranges, redirects, names, status.


def lying_length(offset: int) -> Callable[[World], None]:
    """Every answer is said to be longer or shorter than it is."""

    def begin(world: World) -> None:
        def trick(handler: Handler) -> bool:
            path = world.server.directory / handler.path.lstrip("/")
            if not path.is_file():
                return False
            data = path.read_bytes()
            handler.send(200, data, length=max(0, len(data) + offset))
            return True

        world.server.trick = trick

    return begin


def always(
    status: int, body: bytes = b"", headers: dict[str, str] | None = None, only: str = ""
) -> Callable[[World], None]:
    """The same answer to everything (or to what has this in its path)."""

    def begin(world: World) -> None:
        def trick(handler: Handler) -> bool:
            if only not in handler.path:
                return False
            handler.send(status, body, headers)
            return True

        world.server.trick = trick

    return begin


def raw(answer: bytes) -> Callable[[World], None]:
    """These bytes in answer to everything, then the end of the connection."""

    def begin(world: World) -> None:
        def trick(handler: Handler) -> bool:
            handler.write(answer)
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return True

        world.server.trick = trick

    return begin


def redirect(target: str) -> Callable[[World], None]:
    """Everything is elsewhere. {url} is the server's own address."""

    def begin(world: World) -> None:
        place = target.format(url=world.server.url)
        always(302, headers={"Location": place})(world)

    return begin


def tampered_cut(world: World) -> None:
    """Each chunk breaks off in its middle and goes on as another file of the same size."""

    def trick(handler: Handler) -> bool:
        if "/chunks/" not in handler.path:
            return False
        path = world.server.directory / handler.path.lstrip("/")
        data = path.read_bytes()
        middle = len(data) // 2
        if "range" in handler.headers:
            place = f"bytes {middle}-{len(data) - 1}/{len(data)}"
            handler.send(206, bytes(len(data) - middle), {"Content-Range": place})
        else:
            handler.send(200, data[:middle], {"ETag": '"same"'}, length=len(data))
        return True

    world.server.trick = trick
