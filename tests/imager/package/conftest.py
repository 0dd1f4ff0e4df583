"""Fixtures: keys whose publisher may sign everything, and the workbench."""

from __future__ import annotations

from pathlib import Path

import pytest

from imager.publishers import add_development_publisher
from imager.tools import Tools
from tests.imager.package.bench import Bench


@pytest.fixture(scope="session")
def publisher_keys(keys: Path) -> Path:
    """A key directory with a list of publishers."""
    add_development_publisher(keys)
    return keys


@pytest.fixture
def bench(tmp_path: Path, tools: Tools, publisher_keys: Path) -> Bench:
    """A workbench of one's own."""
    return Bench(tmp_path, tools, publisher_keys)
