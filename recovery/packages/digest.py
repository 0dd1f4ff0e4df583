"""The fs-verity digest of a file, as the kernel would measure it. Pure; no kernel needed.

Merkle tree of SHA-256 over 4 KiB blocks, no salt; the digest is the SHA-256 of
the descriptor that holds the tree's root. Source: Linux,
Documentation/filesystems/fsverity.rst, "File digest computation", and
`struct fsverity_descriptor`, `struct fsverity_formatted_digest` there.
"""

from __future__ import annotations

import hashlib
import struct

from recovery.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

BLOCK = 4096
_LOG_BLOCK = 12
_VERSION = 1
_SHA256 = 1
_HASH_SIZE = 32
_READ = 256 * BLOCK
# version, algorithm, log2 of the block size, size of the salt, reserved,
# size of the data, root hash, salt, reserved.
_DESCRIPTOR = struct.Struct("<BBBB4xQ64s32s144x")


def file_digest(path: Path, size: int | None = None) -> str:
    """Digest of the file, or of its first size bytes; hex.

    Raises OSError, and StateError when the file is shorter than size.
    """
    return stream_digest(_chunks(path, size))


def stream_digest(chunks: Iterable[bytes]) -> str:
    """Digest of the chunks in a row (each of any length); hex.

    Holds 32 bytes for every 4 KiB that go by.
    """
    hashes = bytearray()
    size = 0
    rest = b""
    for chunk in chunks:
        size += len(chunk)
        data = rest + chunk if rest else chunk
        whole = len(data) - len(data) % BLOCK
        _hash_blocks(memoryview(data)[:whole], hashes)
        rest = data[whole:]
    if rest:
        hashes += hashlib.sha256(rest.ljust(BLOCK, b"\0")).digest()
    return hashlib.sha256(
        _DESCRIPTOR.pack(_VERSION, _SHA256, _LOG_BLOCK, 0, size, _root(hashes), b"")
    ).hexdigest()


def signed_message(digest: str) -> bytes:
    """What a publisher signs: the digest as the kernel formats it for the signature's check.

    digest: hex of 32 bytes. Raises ValueError when it is not.
    """
    raw = bytes.fromhex(digest)
    if len(raw) != _HASH_SIZE:
        raise ValueError(f"{digest!r} is not a SHA-256 digest")
    return b"FSVerity" + struct.pack("<HH", _SHA256, _HASH_SIZE) + raw


def _root(hashes: bytearray) -> bytes:
    """The root of the tree whose lowest level is hashes; zeros for an empty file."""
    if not hashes:
        return bytes(_HASH_SIZE)
    while len(hashes) > _HASH_SIZE:
        level = hashes + bytes(-len(hashes) % BLOCK)
        hashes = bytearray()
        _hash_blocks(memoryview(level), hashes)
    return bytes(hashes)


def _hash_blocks(data: memoryview, hashes: bytearray) -> None:
    sha256 = hashlib.sha256
    for start in range(0, len(data), BLOCK):
        hashes += sha256(data[start : start + BLOCK]).digest()


def _chunks(path: Path, size: int | None) -> Iterator[bytes]:
    with path.open("rb") as stream:
        if size is None:
            while data := stream.read(_READ):
                yield data
            return
        left = size
        while left:
            data = stream.read(min(_READ, left))
            if not data:
                raise StateError(f"cannot measure {path}: it is shorter than {size} bytes")
            left -= len(data)
            yield data
