"""Images in the store: verified at every use, mounted once each.

What the store's files are is decided by the kernel and the image, never by
the disk: the kernel opens a file under fs-verity only when a key of the image
signed its digest, every block is checked when it is read, and here the digest
is compared with the generation's, the signer with the image's publishers, and
the manifest with the entry.
"""

from __future__ import annotations

import os

from recovery.errors import OrbitalError, StateError, TrustError
from recovery.packages import fsverity, model, mountapi, trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from recovery.packages.paths import Paths


class Store:
    """The store of a device and the images mounted from it."""

    def __init__(self, paths: Paths, publishers: trust.Publishers) -> None:
        """publishers: of the running image."""
        self.paths = paths
        self.publishers = publishers
        self._manifests: dict[str, tuple[model.Package, str]] = {}

    def verify(self, digest: str, package: str) -> str:
        """Checks that the stored file is that image, signed by one who may sign the name.

        Returns the publisher. Raises TrustError; StateError when the file is absent.
        """
        path = self.paths.stored(digest)
        try:
            fd = fsverity.open_verified(path)
        except FileNotFoundError as error:
            raise StateError(
                f"cannot find the image of package {package} in the store",
                details=str(path),
                resolution="install the package again",
            ) from error
        try:
            found = fsverity.measure(fd)
            if found != digest:
                raise TrustError(
                    f"cannot trust {path}: it is another file",
                    details=f"its fs-verity digest is {found}",
                    resolution="install the package again",
                )
            return self.publishers.check(fsverity.signature(fd), package)
        finally:
            os.close(fd)

    def open(self, digest: str, package: str, version: str = "") -> model.Package:
        """Verifies an image, mounts it and returns its manifest, which must agree.

        version: "" for any. Raises TrustError, StateError; OSError when the
        image cannot be read (an altered block).
        """
        known = self._known(digest)
        if known is None:
            publisher = self.verify(digest, package)
            self.mount(digest)
            manifest = self._read(digest, package)
        else:
            manifest, publisher = known
        _agree(manifest, package, version, publisher)
        self._manifests[digest] = (manifest, publisher)
        return manifest

    def manifest(self, digest: str) -> model.Package:
        """The manifest of an image whose name nobody has told. Raises as `open`."""
        known = self._known(digest)
        if known is not None:
            return known[0]
        path = self.paths.stored(digest)
        # A name is needed to check the signature, and only the image has it. Reading
        # it is safe: the kernel has checked that one of our publishers signed these bytes.
        try:
            if fsverity.measure(path) != digest:
                raise TrustError(f"cannot trust {path}: it is another file")
        except FileNotFoundError as error:
            raise StateError(
                "cannot find an image in the store",
                details=str(path),
                resolution="install the package again",
            ) from error
        mounted = self.is_mounted(digest)
        self.mount(digest)
        try:
            return self.open(digest, self._read(digest, digest).name)
        except BaseException:
            if not mounted:
                mountapi.detach(self.paths.image(digest))
            raise

    def is_mounted(self, digest: str) -> bool:
        """Whether the image is mounted."""
        return os.path.ismount(self.paths.image(digest))

    def mount(self, digest: str) -> Path:
        """Mounts an image, once; returns where. The caller has verified it."""
        target = self.paths.image(digest)
        if not self.is_mounted(digest):
            target.mkdir(parents=True, exist_ok=True)
            mountapi.attach(mountapi.erofs(self.paths.stored(digest)), target)
        return target

    def _known(self, digest: str) -> tuple[model.Package, str] | None:
        """What was read of an image, as long as the mount that was verified then is there."""
        return self._manifests.get(digest) if self.is_mounted(digest) else None

    def _read(self, digest: str, package: str) -> model.Package:
        path = self.paths.image(digest) / model.MANIFEST
        try:
            return model.decode(path.read_bytes())
        except ValueError as error:
            raise TrustError(
                f"cannot use package {package}: its manifest is not valid: {error}",
                resolution="its publisher has to build it again",
            ) from error


def reason(error: Exception) -> str:
    """Why a package failed, on one line."""
    if isinstance(error, OrbitalError):
        return "; ".join(part for part in (error.brief, error.details) if part).replace("\n", " ")
    return f"cannot read the package: {error}"


def _agree(manifest: model.Package, package: str, version: str, publisher: str) -> None:
    for what, found, wanted in (
        ("name", manifest.name, package),
        ("version", manifest.version, version or manifest.version),
        ("publisher", manifest.publisher, publisher),
    ):
        if found != wanted:
            raise TrustError(
                f"cannot trust package {package}: the {what} in its image is {found}, not {wanted}"
            )
