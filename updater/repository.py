"""A publisher's repository, opened: its source, and its metadata refreshed and verified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recovery.errors import FetchError, SpaceError
from updater.http import HttpSource
from updater.source import DirectorySource, Source
from updater.trust import TrustedRepository


def open_source(text: str) -> Source:
    """The source that a URL or a path names. Raises FetchError when it is neither."""
    if not text:
        raise FetchError(
            "cannot look for updates: no source is configured",
            resolution="name one with --source, or set it in /etc/orbital/update.json",
        )
    if text.startswith(("http://", "https://")):
        return HttpSource(text)
    if "://" in text and not text.startswith("file://"):
        raise FetchError(
            f"cannot use {text} as an update source: not http, https or a directory",
            resolution="name a URL or the path of a directory",
        )
    return DirectorySource(Path(text.removeprefix("file://")))


@contextmanager
def opened_source(text: str) -> Iterator[Source]:
    """The source that a URL or a path names, closed at the end. Raises FetchError."""
    source = open_source(text)
    try:
        yield source
    finally:
        source.close()


@contextmanager
def refreshed(
    source: Source, *, anchor: Path, state: Path, built: int, now: float
) -> Iterator[TrustedRepository]:
    """The repository at the source; the caller holds the lock, for what was seen is remembered.

    anchor: TUF root metadata of the running image. state: `/state/orbital`. built: of the
    image; now: what the clock says; both in seconds since the epoch. Raises TrustError,
    FetchError, SpaceError.
    """
    try:
        repository = TrustedRepository(
            source, anchor=anchor, directory=state / "tuf", built=built, now=now
        )
    except OSError as error:
        raise SpaceError(
            f"cannot keep metadata: {error.strerror}", details=str(error.filename or "")
        ) from error
    with repository:
        repository.refresh()
        yield repository
