"""Makes the frames of a delta between two compressed images. Reads top to bottom: `make_opened`.

Both images are opened into files of their own; matching, executables and encoding then work on
these as they do on images that were never compressed.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from delta.clusters import LIBRARY, Settings, closer
from imager.delta import stream
from imager.delta.opened import (
    OpenedImage,
    Piece,
    closes,
    find_settings,
    is_compressed,
    open_image,
)
from imager.delta.opened_frame import encode_opened
from imager.delta.opened_plan import Images, OpenedFrame, plan_opened
from imager.delta.streams import Streams
from recovery.reporter import Reporter

# The libzstd of devices, Debian trixie's libzstd1. Only the same one closes clusters as they do.
DEVICE_LIBRARY = 10507
# Clusters that one job closes.
_BATCH = 32

Paths = tuple[Path, int, Path, int]


@dataclass(frozen=True)
class CloseJob:
    """streams: the images. pieces: clusters of the new one."""

    streams: Paths
    pieces: tuple[Piece, ...]
    settings: Settings

    @property
    def cost(self) -> int:
        """Grows with what is compressed."""
        return sum(piece.opened for piece in self.pieces)


@dataclass(frozen=True)
class OpenedJob:
    """closed: the images; opened: their opened streams. rewrites: of the frame's references."""

    closed: Paths
    opened: Paths
    frame: OpenedFrame
    rewrites: tuple[bytes | None, ...]
    settings: Settings
    level: int

    @property
    def cost(self) -> int:
        """Grows with what is not copied."""
        return self.frame.inside.coded + 1


def make_opened(
    closed: Paths,
    *,
    piece: int,
    level: int,
    workers: int | None,
    reporter: Reporter,
) -> list[stream.Frame] | None:
    """Frames, each of one piece, that make the new image out of the old one.

    None when not both images are compressed in a way that can be repeated here. Raises ToolError
    when an image cannot be read.
    """
    with Streams.open(*closed) as images, tempfile.TemporaryDirectory() as folder:
        if not (is_compressed(images.old) and is_compressed(images.new)):
            return None
        if LIBRARY != DEVICE_LIBRARY:
            reporter.message(
                f"the delta will be large: to open a compressed image takes libzstd "
                f"{DEVICE_LIBRARY}, Python's zstandard here has {LIBRARY}: install zstandard 0.25"
            )
            return None
        reporter.stage("delta: open")
        names = Path(folder) / "old", Path(folder) / "new"
        with names[0].open("wb") as before, names[1].open("wb") as after:
            opened = open_image(images.old, before), open_image(images.new, after)
        settings = find_settings(images.new, opened[1])
        if settings is None:
            return None
        same = _same(images, *opened)
        paths: Paths = (names[0], opened[0].size, names[1], opened[1].size)
        with stream.hired(workers or os.cpu_count() or 1, paths) as crew:
            changed = [
                found for found in opened[1].pieces if found.cluster and found.offset not in same
            ]
            tasks = [
                CloseJob(closed, tuple(changed[first : first + _BATCH]), settings)
                for first in range(0, len(changed), _BATCH)
            ]
            results = crew.run(close, tasks, stream.progressing(tasks, reporter))
            closing = frozenset(offset for result in results for offset in result)
            reporter.stage("delta: match")
            with Streams.open(*paths) as streams:
                units, code = streams.matched((opened[0].layout, opened[1].layout))
            frames = plan_opened(
                Images(
                    *opened,
                    units=units,
                    same=same,
                    closing=closing,
                    is_code=frozenset(pair.numbers for pair in code),
                ),
                closed[3],
                piece=piece,
                pieces=1,
            )
            plan = stream.Plan(tuple(units), tuple(frame.inside for frame in frames), code)
            rewrites = stream.learned(plan, crew, reporter)
            reporter.stage("delta: encode")
            jobs = [
                OpenedJob(
                    closed,
                    paths,
                    frame,
                    tuple(rewrites.get(item) for item in frame.inside.references),
                    settings,
                    level,
                )
                for frame in frames
            ]
            payloads = crew.run(encode, jobs, stream.progressing(jobs, reporter))
    return [stream.Frame(1, payload) for payload in payloads]


def _same(images: Streams, old: OpenedImage, new: OpenedImage) -> dict[int, int]:
    """Clusters of the new image, and where the old one has the same bytes."""
    known: dict[bytes, int] = {}
    for piece in old.pieces:
        if piece.cluster:
            known.setdefault(_digest(images.old, piece), piece.offset)
    found = {
        piece.offset: known.get(_digest(images.new, piece)) for piece in new.pieces if piece.cluster
    }
    images.forget()
    return {offset: there for offset, there in found.items() if there is not None}


def _digest(image: memoryview, piece: Piece) -> bytes:
    return hashlib.sha256(image[piece.offset : piece.offset + piece.closed]).digest()


def close(task: CloseJob) -> list[int]:
    """Offsets of the clusters that come back as they were."""
    closing = closer(task.settings)
    with Streams.open(*task.streams) as images:
        return [piece.offset for piece in task.pieces if closes(images.new, piece, closing)]


def encode(task: OpenedJob) -> bytes:
    """The payload of a frame."""
    with Streams.open(*task.closed) as closed, Streams.open(*task.opened) as opened:
        return encode_opened(
            task.frame,
            task.rewrites,
            task.settings,
            closed=(closed.old, closed.new),
            opened=(opened.old, opened.new),
            level=task.level,
        )
