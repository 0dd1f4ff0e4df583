"""Where an image is cut into slices: so that what an update leaves alone stays whole.

A device finds a slice wherever it lies in its running image, so only this one place decides
how images are cut, and may decide otherwise at any time. Files begin at a block of their own
(erofs); in steps from a file's start a change costs one step, and files that moved are found.
"""

from __future__ import annotations

from itertools import pairwise

from imager.delta.erofs import Buffer, is_erofs, read_layout
from manifests.slices import LARGEST_SLICE
from recovery.errors import ToolError

STEP = 64 << 10
"""Bytes of a slice, as a rule: of a file, or of files that lie side by side."""
_LARGE = 512 << 20


def step_of(size: int) -> int:
    """The step for an image of that size: a map of all its slices must fit into a device."""
    step = STEP
    while size > _LARGE and step < LARGEST_SLICE:
        size, step = size // 2, step * 2
    return step


def cut(image: Buffer, size: int, segment_size: int) -> list[tuple[int, int]]:
    """Start and end of each slice of the first size bytes, in order; segments end slices."""
    step = step_of(size)
    starts = set(range(0, size, segment_size))
    try:
        extents = read_layout(image).extents() if is_erofs(image) else []
    except ToolError:
        extents = []
    # What lies between files (inodes, names, ends of files) changes with every image.
    between = LARGEST_SLICE if extents else step
    at = 0
    group: int | None = None
    for node in extents:
        end = node.data + node.data_size
        if end > size:
            break
        if node.data > at:
            starts.update(range(at, node.data, between))
            group = None
        if node.data_size > step // 2:
            starts.update(range(node.data, end, step))
            group = None
        elif group is None or end - group > step:
            starts.add(node.data)
            group = node.data
        at = end
    starts.update(range(at, size, between))
    ordered = [*sorted(starts), size]
    return list(pairwise(ordered))
