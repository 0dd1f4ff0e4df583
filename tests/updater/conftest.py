"""Fixtures: a publisher, and a device that reads its repository from nginx or a directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.updater.devices import FileDevice
from tests.updater.publisher import Publisher
from tests.updater.webserver import WebServer


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """An empty repository and its keys."""
    return Publisher(tmp_path / "publisher")


@pytest.fixture
def device(tmp_path: Path, publisher: Publisher) -> FileDevice:
    """A device that runs 1.0 and reads the repository's directory."""
    return FileDevice(tmp_path / "device", publisher.anchor, source=str(publisher.repository))


@pytest.fixture
def web(tmp_path: Path, publisher: Publisher) -> Iterator[WebServer]:
    """nginx serving the repository."""
    with WebServer(publisher.repository, tmp_path / "nginx") as server:
        yield server
