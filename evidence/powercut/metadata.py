"""Whether a device can still trust its repository: a refresh with what a power cut left of TUF."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recovery.errors import OrbitalError
from updater.source import DirectorySource
from updater.trust import TrustedRepository

FOLDER = "tuf"


@dataclass(frozen=True)
class Repository:
    """The repository of a recording. anchor: root in the image. now: seconds since the epoch."""

    directory: Path
    anchor: Path
    now: float

    def problem(self, content: Mapping[str, bytes], place: Path) -> str:
        """Why the device cannot refresh, by the code that ships; "" when it can.

        content: files of /orbital by path. place: is emptied.
        """
        shutil.rmtree(place, ignore_errors=True)
        (place / FOLDER).mkdir(parents=True)
        for path, data in content.items():
            if path.startswith(f"{FOLDER}/"):
                (place / path).write_bytes(data)
        try:
            with TrustedRepository(
                DirectorySource(self.directory),
                anchor=self.anchor,
                directory=place / FOLDER,
                built=0,
                now=self.now,
            ) as repository:
                repository.refresh()
        except OrbitalError as error:
            return f"{error.brief}: {error.details}"
        return ""


def seen(content: Mapping[str, bytes]) -> tuple[int, int]:
    """Versions of root and timestamp that the device remembers; (0, 0) when it has none."""
    data = content.get(f"{FOLDER}/seen.json")
    if data is None:
        return 0, 0
    document = json.loads(data)
    return document["root"], document["timestamp"]
