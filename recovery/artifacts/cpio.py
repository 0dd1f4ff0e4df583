"""GRUB's boot artifact: a newc archive whose last member tells the SHA-256 of all before it.

Linux, Documentation/driver-api/early-userspace/buffer-format.rst. An archive that was
built before there was such a member has its three files and nothing to check them by.
"""

from __future__ import annotations

from recovery.artifacts.content import Artifact, Checked, DamageError

SEAL = "sha256"
FILES = frozenset(("boot.cfg", "vmlinuz", "initrd"))
_END = "TRAILER!!!"
_MAGIC = b"070701"
_HEADER = 110
_LONGEST_NAME = 64
_HEX = frozenset(b"0123456789ABCDEFabcdef")
_SIZE, _NAME_SIZE = 6, 11


def seal(digest: bytes) -> bytes:
    """The content of the last member. digest: SHA-256 of the archive in front of it."""
    return digest.hex().encode() + b"\n"


def check(artifact: Artifact) -> Checked:
    """Raises DamageError, OSError."""
    found: list[str] = []
    at = 0
    while True:
        header = artifact.take(at, _HEADER)
        digits = header[len(_MAGIC) :]
        if header[: len(_MAGIC)] != _MAGIC or not _HEX.issuperset(digits):
            raise DamageError(f"has a damaged header at byte {at}")
        size, length = (int(digits[8 * n : 8 * n + 8], 16) for n in (_SIZE, _NAME_SIZE))
        if not 2 <= length <= _LONGEST_NAME:
            raise DamageError(f"has a damaged header at byte {at}")
        name = artifact.take(at + _HEADER, length)
        start = _aligned(at + _HEADER + length)
        end = _aligned(start + size)
        if end > artifact.size:
            raise DamageError("is cut short")
        text = name[:-1].decode("latin-1")
        sealed = SEAL in found
        if text == _END and name[-1] == 0 and size == 0 and set(found) >= FILES:
            return Checked(end, "" if sealed else "its archive carries no hash")
        if sealed or name[-1] or text in found or text not in (*FILES, SEAL):
            raise DamageError(f"has a file that does not belong there at byte {at}")
        if text == SEAL:
            wanted = seal(artifact.digest((0, at)))
            if size != len(wanted) or artifact.take(start, size) != wanted:
                raise DamageError("is not what its SHA-256 says")
        found.append(text)
        at = end


def _aligned(offset: int) -> int:
    return -(-offset // 4) * 4
