"""Target files: DIR/targets/PARENT/SHA256.NAME for each target PARENT/NAME."""

from __future__ import annotations

from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import TargetFile

from recovery import durable
from recovery.errors import TrustError

Targets = dict[str, TargetFile]
"""The targets of one role, by path."""


def read_target(directory: Path, target: TargetFile) -> bytes:
    """A target's bytes, verified. Raises TrustError when they are damaged or missing."""
    path = _file(directory, target)
    try:
        data = path.read_bytes()
        target.verify_length_and_hashes(data)
    except (OSError, RepositoryError) as error:
        raise TrustError(
            f"cannot use {path}: missing or damaged",
            details=str(error),
            resolution="restore the repository from a mirror or a backup",
        ) from error
    return data


def add_target(directory: Path, targets: Targets, path: str, data: bytes) -> None:
    """Writes a target's bytes and names them in targets.

    The file's name has its digest, so nothing that devices read now is replaced.
    """
    target = TargetFile.from_data(path, data, ["sha256"])
    file = _file(directory, target)
    durable.make_directory(file.parent)
    durable.replace_file(file, data)
    targets[path] = target


def _file(directory: Path, target: TargetFile) -> Path:
    parent, _, name = target.path.rpartition("/")
    return directory / "targets" / parent / f"{target.hashes['sha256']}.{name}"
