"""GET requests over connections that are kept: what `updater.http` needs of HTTP, and no more.

On http.client of the standard library. urllib3 can do the same; loading it took as long as all
of an update's trust, and a device loads it for every check.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, urljoin, urlsplit

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

_HEADER_SECONDS = 30.0
_REDIRECTS = 3
_REDIRECTED = frozenset({301, 302, 303, 307, 308})
# Connections that wait for their next request.
_KEPT = 4
_NOT_IN_URL = re.compile(r"[\s\x00-\x20\x7f<>\"\\^`{|}]")
# What a path may hold as it is: RFC 3986, 3.3, and the percent sign of what is encoded already.
_IN_PATH = "/%:@!$&'()*+,;="


class WebError(Exception):
    """No answer, or the rest of one, came over a connection; says why in plain words."""


@dataclass(frozen=True)
class Server:
    """Where to connect to."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True)
class Address:
    """A URL in parts. shown: the URL without credentials. authorization: header for them."""

    server: Server
    path: str
    shown: str
    authorization: str | None


def parse(url: str) -> Address:
    """Reads an http or https URL without query and fragment. Raises ValueError."""
    if _NOT_IN_URL.search(url):
        raise ValueError("not a URL")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http or https address")
    if parts.query or parts.fragment:
        raise ValueError("more than an address and a path")
    user, separator, network = parts.netloc.rpartition("@")
    token = base64.b64encode(unquote(user).encode()).decode() if separator else ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Address(
        Server(parts.scheme, parts.hostname, port),
        parts.path.rstrip("/"),
        f"{parts.scheme}://{network}{parts.path}".rstrip("/"),
        f"Basic {token}" if separator else None,
    )


class Answer:
    """What a server answers; to be read to its end, or closed."""

    def __init__(
        self, web: Web, server: Server, connection: _Connection, response: http.client.HTTPResponse
    ) -> None:
        self.status = response.status
        self._web = web
        self._server = server
        self._connection = connection
        self._response = response

    @property
    def left(self) -> int | None:
        """Bytes of its body that are still to come; None when the server does not say."""
        return self._response.length

    @property
    def has_end(self) -> bool:
        """Whether its body can be told from one that was cut."""
        return self._response.length is not None or bool(self._response.chunked)

    def header(self, name: str) -> str:
        """A header's value, or nothing."""
        return self._response.headers.get(name, "")

    def read(self, size: int) -> bytes:
        """What of the body is there, at most size bytes; nothing at its end. Raises WebError."""
        try:
            data = self._response.read1(size)
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise _plain(error) from error
        if not data and self.left:
            raise WebError("the connection was lost (in the middle of an answer)")
        return data

    def finish(self) -> None:
        """Keeps the connection of an answer that was read to its end."""
        ended = self._response.isclosed() or self.left == 0
        self._response.close()
        if ended and not self._response.will_close:
            self._web.keep(self._server, self._connection)
        else:
            self._connection.close()

    def close(self) -> None:
        """Gives up the connection."""
        self._response.close()
        self._connection.close()


class Web:
    """Connections to the servers of one URL. Usable from several threads.

    connect, silence: longest wait for a connection, and for the next byte, in seconds.
    """

    def __init__(self, address: Address, *, connect: float, silence: float) -> None:
        self._address = address
        self._connect = connect
        self._silence = silence
        self._lock = threading.Lock()
        self._kept: list[tuple[Server, _Connection]] = []
        self._closed = False
        self._context: ssl.SSLContext | None = None

    def get(self, path: str, headers: Mapping[str, str]) -> Answer:
        """The answer to a request for a path below the URL; redirections are followed.

        Raises WebError when there is none.
        """
        server, target = self._address.server, f"{self._address.path}/{path}"
        for _ in range(_REDIRECTS + 1):
            sent = {"user-agent": "orbital", "accept-encoding": "identity", **headers}
            # Credentials are for their own server, not for where it sends us.
            if self._address.authorization and server == self._address.server:
                sent["authorization"] = self._address.authorization
            answer = self._request(server, quote(target, safe=_IN_PATH + "?"), sent)
            place = answer.header("location")
            if answer.status not in _REDIRECTED or not place:
                return answer
            answer.close()
            server, target = _redirected(server, target, place)
        raise WebError("the server redirects too often")

    def keep(self, server: Server, connection: _Connection) -> None:
        """Keeps a connection for the next request."""
        with self._lock:
            if not self._closed and len(self._kept) < _KEPT:
                self._kept.append((server, connection))
                return
        connection.close()

    def close(self) -> None:
        """Closes what is kept, and what is in use once it has been used."""
        with self._lock:
            kept, self._kept = self._kept, []
            self._closed = True
        for _, connection in kept:
            connection.close()

    def _request(self, server: Server, target: str, headers: Mapping[str, str]) -> Answer:
        connection = self._take(server) or self._open(server)
        try:
            connection.request("GET", target, headers=headers)
            with _header_deadline(connection.sock):
                response = connection.getresponse()
        except (http.client.HTTPException, OSError, ValueError) as error:
            connection.close()
            raise _plain(error) from error
        except BaseException:
            connection.close()
            raise
        return Answer(self, server, connection, response)

    def _take(self, server: Server) -> _Connection | None:
        """A kept connection on which nothing has come: else its server has closed it."""
        while True:
            with self._lock:
                found = next((item for item in self._kept if item[0] == server), None)
                if found is None:
                    return None
                self._kept.remove(found)
            connection = found[1]
            if connection.sock and not _readable(connection.sock):
                return connection
            connection.close()

    def _open(self, server: Server) -> _Connection:
        connection: _Connection
        if server.scheme == "https":
            connection = http.client.HTTPSConnection(
                server.host, server.port, timeout=self._connect, context=self._secure()
            )
        else:
            connection = http.client.HTTPConnection(server.host, server.port, timeout=self._connect)
        try:
            connection.connect()
        except (OSError, ValueError) as error:
            connection.close()
            raise _plain(error, "the server cannot be reached") from error
        connection.sock.settimeout(self._silence)
        return connection

    def _secure(self) -> ssl.SSLContext:
        """Servers prove who they are, with the system's authorities."""
        with self._lock:
            if self._context is None:
                import ssl

                self._context = ssl.create_default_context()
                self._context.minimum_version = ssl.TLSVersion.TLSv1_2
            return self._context


_Connection = http.client.HTTPConnection


def _redirected(server: Server, target: str, place: str) -> tuple[Server, str]:
    """The server and the target to which an answer points."""
    port = f":{server.port}" if server.port not in (80, 443) else ""
    host = f"[{server.host}]" if ":" in server.host else server.host
    try:
        parts = urlsplit(urljoin(f"{server.scheme}://{host}{port}{target}", place))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError
        new = Server(
            parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        )
    except ValueError as error:
        raise WebError("the server redirects to no http or https address") from error
    return new, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _plain(error: Exception, otherwise: str = "") -> WebError:
    """What happened, in plain words."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return WebError("the server's name cannot be resolved")
    # The name of a class of a module that plain HTTP does not need.
    if any(kind.__name__ == "SSLError" for kind in type(error).__mro__):
        return WebError(f"the secure connection failed ({error})")
    return WebError(otherwise or f"the connection was lost ({error or type(error).__name__})")


def _shutdown(sock: socket.socket) -> None:
    """Ends a connection under a thread that waits in it."""
    with contextlib.suppress(OSError):
        # The plain method: SSLSocket.shutdown would drop its state under the reader.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


@contextlib.contextmanager
def _header_deadline(sock: socket.socket | None) -> Iterator[None]:
    """Bounds the time for all headers: the socket's timeout only bounds each byte."""
    if sock is None:
        yield
        return
    timer = threading.Timer(_HEADER_SECONDS, _shutdown, [sock])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
