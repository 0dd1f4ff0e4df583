"""Debian packages for a test's own use: unpacked on the host, never part of an image."""

from __future__ import annotations

import tarfile
from pathlib import Path

from imager.package.sources import fetch_debian
from qemu.lab import Lab


def unpack(lab: Lab, output: Path, *names: str) -> Path:
    """The files of Debian packages (not of what they depend on), in one folder."""
    for package in fetch_debian(names, "amd64", lab.cache):
        with tarfile.open(package.data) as tar:
            tar.extractall(output, filter="tar")
    return output
