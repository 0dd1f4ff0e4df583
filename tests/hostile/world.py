"""A publisher, a hostile server with its repository, and a device that meets it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.hostile.server import HostileServer
from tests.updater.devices import FileDevice
from tests.updater.images import BuiltImage
from tests.updater.publisher import Publisher


class World:
    """Version 2.0 is published; the device runs 1.0 and has never looked for an update.

    recover: what an honest publisher does before the next good release; only
    theft of keys needs more than that release.
    """

    def __init__(self, base: Path) -> None:
        """Makes it in an empty directory."""
        self.base = base
        self.publisher = Publisher(base / "publisher")
        self.publisher.release("2.0")
        self.good = self.publisher.copy("good")
        self.server = HostileServer(self.repository)
        self.device = FileDevice(base / "device", self.publisher.anchor, source=self.server.url)
        self.recover: Callable[[], object] = lambda: None

    @property
    def repository(self) -> Path:
        """The publisher's repository, which the server serves."""
        return self.publisher.repository

    def release(self, version: str) -> None:
        """An honest release before the attack."""
        self.publisher.release(version)
        self.keep()

    def keep(self) -> None:
        """What is published now is what the publisher has when the attack is over."""
        shutil.rmtree(self.good)
        shutil.copytree(self.repository, self.good)

    def serve(self, directory: Path) -> None:
        """Another repository at the same address."""
        self.server.directory = directory

    def honest(self) -> BuiltImage:
        """The attack ends: the publisher's own repository, with a new release, is back."""
        self.server.trick = None
        self.publisher.repository = self.good
        self.recover()
        image = self.publisher.release("7.0")
        self.serve(self.repository)
        self.device.source = self.server.url
        return image

    def close(self) -> None:
        """Ends the server."""
        self.server.close()
