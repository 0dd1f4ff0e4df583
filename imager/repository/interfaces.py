"""IPC interfaces over versions of a package: what callers rely on is only broken by a new MAJOR."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imager.repository.packages import Incoming
from manifests.package_index import PackageRelease
from manifests.versions import version_key


def previous_release(
    before: Sequence[PackageRelease], new: PackageRelease
) -> PackageRelease | None:
    """The newest published release below the new one, of its architecture if there is one."""
    below = [item for item in before if version_key(item.version) < version_key(new.version)]
    return max(
        below,
        key=lambda item: (version_key(item.version), item.architecture == new.architecture),
        default=None,
    )


def refuse_broken_interfaces(
    directory: Path, before: Sequence[PackageRelease], new: Incoming
) -> None:
    """Compares what the package provides with its newest published version below it.

    Raises RefusedError when a definition changed in a way that breaks callers
    and the interface's MAJOR did not, or its version went down.
    """
    previous_release(before, new.release)
