"""One HTTP request on stdin, its answer on stdout: what a socket-activated unit runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from updater.packages.metrics import CONTENT_TYPE

_LINE = 4096
_HEADERS = 100


def answer(request: BinaryIO, response: BinaryIO, collect: Callable[[], str]) -> int:
    """Answers GET and HEAD of /metrics, and refuses all else. Returns the status."""
    status, body, head = _decide(request, collect)
    reason = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}[status]
    kind = CONTENT_TYPE if status == 200 else "text/plain; charset=utf-8"
    lines = [
        f"HTTP/1.1 {status} {reason}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *(["Allow: GET, HEAD"] if status == 405 else []),
        "Connection: close",
        "",
        "",
    ]
    response.write("\r\n".join(lines).encode() + (b"" if head else body))
    response.flush()
    return status


def _decide(request: BinaryIO, collect: Callable[[], str]) -> tuple[int, bytes, bool]:
    words = request.readline(_LINE).split()
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return 400, b"cannot read this request\n", False
    # Read on: a client that is still writing when we close sees a reset connection.
    for _ in range(_HEADERS):
        if request.readline(_LINE) in (b"\r\n", b"\n", b""):
            break
    head = words[0] == b"HEAD"
    if words[0] not in (b"GET", b"HEAD"):
        return 405, b"only GET and HEAD\n", False
    if words[1].partition(b"?")[0] != b"/metrics":
        return 404, b"only /metrics is here\n", head
    return 200, collect().encode(), head
