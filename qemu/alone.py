"""What only one process at a time may do to files that several share."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Waits until nobody else is in here for that path; True. The lock is a file beside it,
    .NAME.lock; a process that ends releases it. The path itself need not exist, its parent must.

    wait: or else False while somebody is.
    """
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
