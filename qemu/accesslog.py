"""The web server's access log: one JSON object a line, written by our own nginx format."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

# nginx, ngx_http_log_module: escape=json makes every value safe to put
# between quotes. bytes: the body only.
LOG_FORMAT = (
    "log_format orbital escape=json"
    ' \'{"time":$msec,"method":"$request_method","path":"$uri","status":$status,'
    '"bytes":$body_bytes_sent,"range":"$http_range","agent":"$http_user_agent",'
    '"complete":"$request_completion"}\';'
)


@dataclass(frozen=True)
class Request:
    """One answered request.

    time: seconds since the epoch at its end. bytes: of the body that were
    sent. range: the header, "" without one. complete: whether the client got
    the whole answer.
    """

    time: float
    method: str
    path: str
    status: int
    bytes: int
    range: str
    agent: str
    complete: bool


def parse(text: str) -> list[Request]:
    """The requests in the log, oldest first; a last line that is not whole is left out."""
    requests = []
    for line in text.splitlines(keepends=True):
        if line.endswith("\n") and line.strip():
            fields = json.loads(line)
            requests.append(Request(**{**fields, "complete": fields["complete"] == "OK"}))
    return requests


def bytes_by_path(requests: Iterable[Request]) -> dict[str, int]:
    """How many bytes were sent of each path."""
    totals: defaultdict[str, int] = defaultdict(int)
    for request in requests:
        totals[request.path] += request.bytes
    return dict(totals)
