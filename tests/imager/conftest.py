"""Fixtures of the imager's tests: the real tools, and keys made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from imager.cache import Cache, default_directory
from imager.keys import make_development_keys
from imager.tools import Tools, prepare_tools


@pytest.fixture(scope="session")
def tools() -> Tools:
    """The pinned tools tree; from the cache, or built from the Debian mirror."""
    return prepare_tools(Cache(default_directory()))


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key directory that tests read and never change."""
    directory = tmp_path_factory.mktemp("keys") / "keys"
    make_development_keys(directory)
    return directory


@pytest.fixture(scope="session")
def rogue_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of somebody whom the device does not trust."""
    directory = tmp_path_factory.mktemp("rogue") / "keys"
    make_development_keys(directory)
    return directory
