"""IPC interfaces over versions of a package: what callers rely on is only broken by a new MAJOR."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from pathlib import Path

from imager.package.interfaces import interface_findings
from imager.package.opk import read_opk, write_opk
from imager.repository.chunks import write_stream
from imager.repository.packages import Incoming
from manifests.package_index import PackageRelease
from manifests.versions import version_key
from recovery.errors import RefusedError


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
    """Compares what the package provides with the newest version published before it.

    The definitions lie in the images, so that one is put together again from
    its chunks. Raises RefusedError when something breaks callers without a new
    MAJOR, TrustError when the repository's chunks are damaged.
    """
    previous = previous_release(before, new.release)
    if previous is None or not previous.provides or not new.release.provides:
        return
    with tempfile.TemporaryDirectory(prefix="orbital-publish.") as folder:
        image, file = Path(folder) / "image", Path(folder) / "previous.opk"
        write_stream(directory, previous.stream, image)
        write_opk(image, base64.b64decode(previous.signature), file)
        findings = list(interface_findings(new.package, new.opk.tree, read_opk(file)))
    if findings:
        raise RefusedError(
            f"cannot publish {new.name}: its interfaces break those of {previous.version}",
            details="\n".join(map(str, sorted(set(findings)))),
            resolution="undo the change, or give the interface a new MAJOR",
        )
