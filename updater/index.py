"""The signed index, checked before anything relies on its numbers.

The signature says who made it, not that it makes sense: a wrong number in it
must not overrun memory or a slot.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from manifests.decoding import decode_json
from manifests.delta import Delta
from manifests.index import FORMAT, OsIndex, Releases, Stream
from recovery.errors import ManifestError, RefusedError
from updater import verity
from updater.runs import delta_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.device import DeviceConfig
    from updater.trust import TrustedRepository

LARGEST_SEGMENT = 16 << 20
"""Bytes of a segment that a device is willing to hold in memory."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
SHA256_TEXT = "64 lowercase hex digits"
_SALT = re.compile(r"([0-9a-f]{2}){0,256}")


def decode_releases(data: bytes) -> Releases:
    """What a repository offers. Raises ManifestError when it is not valid."""
    try:
        releases = decode_json(data, Releases)
    except msgspec.MsgspecError as error:
        raise invalid("releases.json", str(error)) from error
    if releases.format != FORMAT:
        raise invalid("releases.json", f"its format is {releases.format}, expected {FORMAT}")
    return releases


def decode_index(data: bytes) -> OsIndex:
    """An image's index. Raises ManifestError when it is not valid."""
    try:
        index = decode_json(data, OsIndex)
    except msgspec.MsgspecError as error:
        raise invalid("index.json", str(error)) from error
    problem = _problem(index)
    if problem:
        raise invalid("index.json", problem)
    return index


def published_index(
    repository: TrustedRepository, config: DeviceConfig, version: str
) -> tuple[OsIndex, str]:
    """A version's index for this device, and its SHA-256.

    Raises RefusedError when it is not there, ManifestError when it is not valid.
    """
    data = repository.target(f"os/{config.system}/{config.board}/{version}/index.json")
    if data is None:
        raise RefusedError(
            f"cannot install {version}: its index is not in the repository",
            resolution="tell the publisher",
        )
    return decode_index(data), hashlib.sha256(data).hexdigest()


def _problem(index: OsIndex) -> str:
    """The first thing that is wrong with the index, or nothing."""
    root = index.root
    if index.format != FORMAT:
        return f"its format is {index.format}, expected {FORMAT}"
    if not is_sha256(root.root_hash):
        return f"root_hash is not {SHA256_TEXT}"
    if not _SALT.fullmatch(root.salt):
        return "salt is not at most 256 bytes in lowercase hex"
    if root.hash_offset <= 0 or root.hash_offset % verity.BLOCK:
        return f"hash_offset {root.hash_offset} is not a positive multiple of {verity.BLOCK}"
    if root.stream.size != root.hash_offset:
        return f"its data has {root.stream.size} bytes, its hash tree begins at {root.hash_offset}"
    if root.stream.segment_size % verity.BLOCK:
        return f"the root image is not cut into multiples of {verity.BLOCK} bytes"
    return stream_problem("root", root.stream) or stream_problem("boot", index.boot.stream)


def decode_delta(data: bytes, index: OsIndex) -> Delta:
    """A delta to the image. Raises ManifestError when it is not valid."""
    try:
        delta = decode_json(data, Delta)
    except msgspec.MsgspecError as error:
        raise invalid("the delta", str(error)) from error
    problem = delta_problem(delta, index)
    if problem:
        raise invalid("the delta", problem)
    return delta


def is_sha256(text: str) -> bool:
    """Whether text is a digest as our documents write it."""
    return _SHA256.fullmatch(text) is not None


def stream_problem(name: str, stream: Stream) -> str:
    """The first thing that is wrong with a stream, or nothing."""
    if not 0 < stream.segment_size <= LARGEST_SEGMENT:
        return f"{name}: segment_size {stream.segment_size} is not from 1 to {LARGEST_SEGMENT}"
    if stream.size <= 0 or not is_sha256(stream.sha256):
        return f"{name}: size or sha256 is not valid"
    if len(stream.segments) != -(-stream.size // stream.segment_size):
        return f"{name}: {len(stream.segments)} segments cannot make {stream.size} bytes"
    last = len(stream.segments) - 1
    for number, segment in enumerate(stream.segments):
        size = stream.segment_size if number < last else stream.size - last * stream.segment_size
        if segment.size != size:
            return f"{name}: segment {number} has {segment.size} bytes, expected {size}"
        # zstd never makes data longer than this (ZSTD_compressBound).
        if not 0 < segment.stored_size <= size + size // 128 + 1024:
            return f"{name}: segment {number} cannot have {segment.stored_size} stored bytes"
        if not (is_sha256(segment.sha256) and is_sha256(segment.stored_sha256)):
            return f"{name}: a digest of segment {number} is not {SHA256_TEXT}"
    return ""


def invalid(name: str, details: str) -> ManifestError:
    """The error for a signed document that makes no sense."""
    return ManifestError(
        f"cannot use {name}: it is signed and not valid",
        details=details,
        resolution="tell the publisher; this may need a newer updater than this device has",
    )
