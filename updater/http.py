"""A repository on a web server: any server of static files.

A file whose transfer broke off is continued where it stopped when the server
supports ranges (RFC 9110, 14) and says with a strong ETag that the file is the
same; otherwise it is read again from its start.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

import urllib3
from urllib3 import connection, connectionpool
from urllib3.exceptions import (
    HTTPError,
    LocationParseError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    SSLError,
)
from urllib3.util import Retry, Timeout, make_headers, parse_url

from recovery.errors import FetchError
from updater.source import BLOCK, NoRangesError, NotFoundError, too_long, too_short

_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_HEADER_SECONDS = 30.0
_WHOLE = 1 << 20
# No file has a place of 20 digits, and Python refuses to read thousands of them.
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-[0-9]{1,19}/")


@dataclass(frozen=True)
class Limits:
    """What a server may cost us, in seconds unless said otherwise.

    connect, silence: longest wait for a connection and for the next byte.
    min_rate, rate_window: bytes a second that must arrive, measured over the
        window: below it the connection counts as lost (slow loris).
    first_contact: how long to try until the server answers for the first time.
    patience: how long to try again after a loss without receiving anything new.
    longest_pause: the cap of the doubling pause between attempts.
    """

    connect: float = 10.0
    silence: float = 15.0
    min_rate: int = 512
    rate_window: float = 20.0
    first_contact: float = 20.0
    patience: float = 180.0
    longest_pause: float = 15.0


class _Lost(Exception):
    """The connection is lost or hopeless; another attempt may work."""


class _SoFar:
    """What of a file has been handed on. etag: of that file, empty when the server gave none."""

    def __init__(self) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self.etag = ""

    def add(self, block: bytes) -> None:
        """Notes what is handed on."""
        self.size += len(block)
        self.digest.update(block)


class HttpSource:
    """A repository behind http: or https:.

    Keeps connections alive, one for each thread that reads. A file that was
    interrupted is continued, or asked for again; then what was already handed
    on is compared and skipped. A reader never notices.
    """

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        """Raises FetchError when the URL cannot be used."""
        try:
            parsed = parse_url(url)
        except LocationParseError as error:
            raise _bad_url(url) from error
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query:
            raise _bad_url(url)
        # Credentials go into a header and never into a name or a log.
        self._base = parsed._replace(auth=None).url.rstrip("/")
        self._limits = limits or Limits()
        # Percent-encoded in a URL; sent in UTF-8, where urllib3 takes each character for a byte.
        auth = unquote(parsed.auth).encode().decode("latin-1") if parsed.auth else None
        headers = make_headers(basic_auth=auth, user_agent="orbital")
        headers["accept-encoding"] = "identity"
        self._pool = urllib3.PoolManager(
            headers=headers,
            maxsize=4,
            timeout=Timeout(connect=self._limits.connect, read=self._limits.silence),
            # Our own loop retries: it must also cover losses in mid-file.
            retries=Retry(total=None, connect=0, read=0, status=0, other=0, redirect=3),
        )
        self._pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        self._answered = False
        self._no_ranges = False
        self._closed = threading.Event()

    @property
    def name(self) -> str:
        """The URL, without credentials."""
        return self._base

    def open(self, path: str, max_size: int) -> Iterator[bytes]:
        """The bytes of a file; see Source."""
        so_far = _SoFar()
        return self._persistent(path, so_far, lambda: self._attempt(path, max_size, so_far))

    def open_range(self, path: str, offset: int, size: int) -> Iterator[bytes]:
        """Bytes of a file; see Source. A server that has not known ranges is not asked again."""
        so_far = _SoFar()
        return self._persistent(
            path, so_far, lambda: self._range(path, offset + so_far.size, size - so_far.size)
        )

    def _persistent(
        self, path: str, so_far: _SoFar, attempt: Callable[[], Iterator[bytes]]
    ) -> Iterator[bytes]:
        """What attempts give, until one comes to its end or nothing new comes any more."""
        heard = time.monotonic()
        pause = 0.5
        while True:
            try:
                for block in attempt():
                    so_far.add(block)
                    yield block
                    heard, pause = time.monotonic(), 0.5
            except _Lost as error:
                patience = self._limits.patience if self._answered else self._limits.first_contact
                if time.monotonic() + pause > heard + patience:
                    raise FetchError(
                        f"cannot fetch {path} from {self.name}: {error}",
                        details=f"tried for {patience:.0f} s without receiving anything new",
                        resolution="check the network and the server, then run the command "
                        "again: it continues where it stopped",
                    ) from error.__cause__
                if self._closed.wait(pause):
                    raise FetchError(f"cannot fetch {path}: stopped") from error
                pause = min(pause * 2, self._limits.longest_pause)
                continue
            return

    def close(self) -> None:
        """Closes the connections and ends pauses."""
        self._closed.set()
        self._pool.clear()

    def _attempt(self, path: str, max_size: int, so_far: _SoFar) -> Iterator[bytes]:
        """One request. What was handed on before is compared and not yielded.

        Raises _Lost when another attempt may work.
        """
        response = self._request(path, so_far)
        passed, seen = so_far.size, so_far.digest.copy()
        with _used_up(response):
            size = passed if response.status == 206 else 0
            remaining = response.length_remaining
            if remaining is not None and size + remaining > max_size:
                raise too_long(self.name, path, max_size)
            again = seen.copy() if size else hashlib.sha256()
            for data in self._body(response):
                size += len(data)
                if size > max_size:
                    raise too_long(self.name, path, max_size)
                skip = max(0, len(data) - max(0, size - passed))
                again.update(data[:skip])
                if skip and size >= passed and again.digest() != seen.digest():
                    raise _changed(self.name, path)
                if skip < len(data):
                    yield data[skip:]
            if size < passed:
                raise _Lost("the answer was shorter than before")

    def _range(self, path: str, first: int, size: int) -> Iterator[bytes]:
        """One request for a part of a file that never changes. Raises _Lost, NoRangesError."""
        if not size:
            return
        if self._no_ranges:
            raise NoRangesError(path, self.name)
        response = self._get(path, {"range": f"bytes={first}-{first + size - 1}"})
        with _used_up(response):
            if response.status == 200:
                # Most of it is on its way already, so it is taken rather than sent in vain.
                small = 0 < (response.length_remaining or 0) <= _WHOLE
                whole = b"".join(self._body(response) if small else ())
                self._no_ranges = True
                raise NoRangesError(path, self.name, whole)
            if response.status != 206:
                raise self._refused(path, response.status)
            if _range_start(response) != first or response.length_remaining is None:
                raise _Lost("the server answers with another range than was asked for")
            if response.length_remaining != size:
                raise too_short(self.name, path)
            for data in self._body(response):
                size -= len(data)
                yield data
            if size:
                raise _Lost("the answer was shorter than it said")

    def _get(self, path: str, extra: dict[str, str] | None) -> urllib3.BaseHTTPResponse:
        if extra:
            extra = extra | {name: str(value) for name, value in self._pool.headers.items()}
        try:
            response = self._pool.request(
                "GET",
                f"{self._base}/{path}",
                headers=extra,
                preload_content=False,
                decode_content=False,
            )
        # ValueError: urllib's opinion of an address to which a server redirects.
        except (HTTPError, OSError, ValueError) as error:
            raise _lost(error) from error
        self._answered = True
        return response

    def _request(self, path: str, so_far: _SoFar) -> urllib3.BaseHTTPResponse:
        headers = None
        if so_far.size and so_far.etag:
            # Without If-Range two versions of a file could be mixed.
            headers = {"range": f"bytes={so_far.size}-", "if-range": so_far.etag}
        response = self._get(path, headers)
        if response.status == 206 and headers and response.length_remaining is not None:
            if _range_start(response) == so_far.size:
                return response
            response.close()
            so_far.etag = ""
            raise _Lost("the server answers with another range than was asked for")
        if response.status == 416 and headers:
            response.close()
            so_far.etag = ""
            raise _Lost("the server does not have the range any more")
        if response.status == 200 and (response.length_remaining is not None or response.chunked):
            # The tag of a later answer may be that of another file.
            so_far.etag = "" if so_far.size else _strong_etag(response)
            return response
        response.close()
        if response.status == 200:
            # An answer that ends with its connection cannot be told from one
            # that was cut; so is one whose headers were cut. Servers of static
            # files say the length.
            raise _Lost("the server does not say how long its answer is")
        raise self._refused(path, response.status)

    def _refused(self, path: str, status: int) -> Exception:
        """The error for an answer without content."""
        if status == 416:
            return too_short(self.name, path)
        if status in (403, 404, 410):
            # Object stores answer 403 for what is not there (TUF, 5.3.3).
            return NotFoundError(
                f"cannot fetch {path} from {self.name}: no such file (HTTP {status})",
                resolution="check the source's address; if it is right, the repository there is "
                "incomplete",
            )
        if status in _RETRIED_STATUS:
            return _Lost(f"the server answers HTTP {status}")
        return FetchError(
            f"cannot fetch {path} from {self.name}: the server answers HTTP {status}",
            resolution="check the source's address and the server",
        )

    def _body(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        """The body as it arrives, in blocks of a useful size."""
        window_start = time.monotonic()
        in_window = 0
        held: list[bytes] = []
        held_size = 0
        while True:
            try:
                # read1 returns what is there: a trickle cannot hold us in one call.
                data = response.read1(BLOCK)
            except (HTTPError, OSError) as error:
                if held:
                    yield b"".join(held)
                raise _lost(error) from error
            if not data:
                break
            held.append(data)
            held_size += len(data)
            if held_size >= BLOCK:
                yield b"".join(held)
                held, held_size = [], 0
                # Time the reader took does not count against the server.
                window_start, in_window = time.monotonic(), 0
                continue
            in_window += len(data)
            elapsed = time.monotonic() - window_start
            if elapsed > self._limits.rate_window:
                if in_window < self._limits.min_rate * elapsed:
                    raise _Lost(f"the server sends less than {self._limits.min_rate} bytes/s")
                window_start, in_window = time.monotonic(), 0
        if held:
            yield b"".join(held)


@contextlib.contextmanager
def _used_up(response: urllib3.BaseHTTPResponse) -> Iterator[None]:
    """Only a connection whose answer is read to its end in here is used again."""
    try:
        yield
    except BaseException:
        response.close()
        raise
    response.release_conn()


def _strong_etag(response: urllib3.BaseHTTPResponse) -> str:
    """The entity tag that stands for these very bytes (RFC 9110, 8.8.3), or nothing."""
    etag = response.headers.get("etag", "")
    return etag if etag.startswith('"') else ""


def _range_start(response: urllib3.BaseHTTPResponse) -> int:
    """Where a partial answer begins; -1 when it does not say."""
    found = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
    return int(found[1]) if found else -1


def _changed(name: str, path: str) -> FetchError:
    return FetchError(
        f"cannot fetch {path} from {name}: it changed while it was read",
        resolution="run the command again",
    )


def _lost(error: Exception) -> _Lost:
    """What happened, in plain words."""
    reason: BaseException | None = error.reason if isinstance(error, MaxRetryError) else error
    if isinstance(reason, NameResolutionError):
        return _Lost("the server's name cannot be resolved")
    if isinstance(reason, NewConnectionError):
        return _Lost("the server cannot be reached")
    if isinstance(reason, SSLError):
        return _Lost(f"the secure connection failed ({reason})")
    return _Lost(f"the connection was lost ({reason})")


def _bad_url(url: str) -> FetchError:
    host = url.rpartition("@")[2]
    return FetchError(
        f"cannot use {host} as an update source: not an http or https address",
        resolution="name a URL such as https://updates.example.org/repository, or a directory",
    )


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


class _HttpConnection(connection.HTTPConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
        with _header_deadline(self.sock):
            return super().getresponse()


class _HttpsConnection(connection.HTTPSConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3
        with _header_deadline(self.sock):
            return super().getresponse()


class _HttpPool(connectionpool.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(connectionpool.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection
