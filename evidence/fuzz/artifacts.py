"""Readers of boot artifacts and of the firmware's FAT, as rescue looks at them."""

from __future__ import annotations

from collections.abc import Callable

from recovery.artifacts import authenticode, fat
from recovery.artifacts.check import check
from recovery.artifacts.content import Artifact, DamageError


def boot_artifact(kind: str) -> Callable[[bytes], None]:
    """A slot's boot artifact: whole or damaged, and whole means that its end is inside."""

    def read(data: bytes) -> None:
        try:
            found = check(kind, Artifact.of(data))
        except DamageError as error:
            str(error).encode()
            return
        assert 0 < found.end <= len(data)
        assert check(kind, Artifact.of(data)) == found

    return read


def program_signature(data: bytes) -> None:
    """The PKCS#7 inside a signed EFI program."""
    try:
        found = authenticode.read_signature(data)
    except ValueError:
        return
    assert len(found.digest) in (32, 48, 64)


def fat_files(data: bytes) -> None:
    """The file system in partition `firmware`; the input lies at its beginning."""
    image = Artifact.of(data.ljust(1 << 20, b"\0"))
    try:
        files = fat.top_files(image)
    except DamageError:
        return
    assert all(len(name) == 11 for name in files)
    assert fat.same_files(image, image) == ""
