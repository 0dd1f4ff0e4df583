"""The package file NAME_VERSION_ARCH.opk: image, signature, trailer.

::

    0                              erofs image, whole blocks of 4 KiB
    IMAGE SIZE                     the publisher's signature (PKCS#7, DER)
    IMAGE SIZE + SIGNATURE SIZE    trailer, 32 bytes, little endian:
                                   "ORBITAL1", image size (8), signature size (8), zeros (8)

A device stores the first part under fs-verity, with the second as its
signature. Byte for byte: docs/package-format.md.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from imager.package.erofs import BLOCK, read_tree
from imager.package.pkcs7 import LONGEST, parse_signature
from imager.package.signing import require_permission, verify_signer
from imager.tree import Tree
from recovery.errors import ManifestError, TrustError
from recovery.packages import model
from recovery.packages.digest import file_digest

MAGIC = b"ORBITAL1"
SUFFIX = ".opk"
SBOM = "sbom.cdx.json"
_TRAILER = struct.Struct("<8sQQ8s")
_MANIFEST_AT_MOST = 1 << 20


@dataclass(frozen=True)
class OpkFile:
    """A package file whose parts fit together.

    image_size: bytes of the image, which is the first part of path. signature:
    PKCS#7 (DER). digest: fs-verity digest of the image, hex. signer: publisher
    of the key directory whose key signed it; None when nobody checked.
    """

    path: Path
    image_size: int
    signature: bytes
    digest: str
    manifest: model.Package
    signer: str | None

    @property
    def name(self) -> str:
        """NAME_VERSION_ARCH.opk, whatever the file is called."""
        return file_name(self.manifest)

    @cached_property
    def tree(self) -> Tree:
        """What is in the image; contents stay in the file."""
        return read_tree(self.path, self.image_size)


def file_name(manifest: model.Package) -> str:
    """How a package's file is called."""
    return f"{manifest.name}_{manifest.version}_{manifest.architecture}{SUFFIX}"


def write_opk(image: Path, signature: bytes, output: Path) -> None:
    """Writes a package file in one step, replacing one of that name."""
    size = image.stat().st_size
    if size % BLOCK:
        raise ManifestError(f"cannot pack {image}: it is not in whole blocks of {BLOCK} bytes")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        with image.open("rb") as source, partial.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
            out.write(signature)
            out.write(_TRAILER.pack(MAGIC, size, len(signature), b""))
        partial.rename(output)
    finally:
        partial.unlink(missing_ok=True)


def read_opk(path: Path, keys: Path | None = None) -> OpkFile:
    """Reads a package file; every byte of it is accounted for.

    keys: a key directory; with it, the signature is verified against the
    certificate of a publisher there, who must be the manifest's publisher and
    be allowed to sign that name. Without it nothing is known of who made it.

    Raises ManifestError when it is not a whole package file, TrustError when
    the signature does not hold.
    """
    try:
        image_size, signature = _split(path)
        digest = file_digest(path, image_size)
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ManifestError(
            f"cannot use {path}: it is not a whole package file",
            details=str(error),
            resolution="build it again with 'orbital package build', or copy it again",
        ) from error
    parse_signature(signature)
    # First whose it is, then what it says.
    signer = verify_signer(keys, signature, digest) if keys is not None else None
    manifest = _manifest(read_tree(path, image_size), path)
    if keys is not None and signer is not None:
        if signer != manifest.publisher:
            raise TrustError(
                f"cannot accept {path.name}: {signer} signed it, and it says that "
                f"{manifest.publisher} made it"
            )
        require_permission(keys, signer, manifest.name)
    return OpkFile(path, image_size, signature, digest, manifest, signer)


def _split(path: Path) -> tuple[int, bytes]:
    """Size of the image, and the signature. Raises OSError, ValueError."""
    with path.open("rb") as stream:
        total = stream.seek(0, os.SEEK_END)
        if total < _TRAILER.size:
            raise ValueError(f"it has only {total} bytes")
        stream.seek(total - _TRAILER.size)
        magic, image, signature, zeros = _TRAILER.unpack(stream.read(_TRAILER.size))
        if magic != MAGIC:
            raise ValueError("its last 32 bytes are not a package's trailer")
        if zeros != bytes(8):
            raise ValueError("its trailer has a part that this version does not know")
        if image + signature + _TRAILER.size != total or image % BLOCK or not image:
            raise ValueError(
                f"it has {total} bytes, and its trailer names {image} of image and "
                f"{signature} of signature"
            )
        if not 0 < signature <= LONGEST:
            raise ValueError(f"a signature of {signature} bytes")
        stream.seek(image)
        return image, stream.read(signature)


def _manifest(tree: Tree, path: Path) -> model.Package:
    entry = tree.get(model.MANIFEST)
    try:
        if entry is None or entry.kind != "file" or entry.size > _MANIFEST_AT_MOST:
            raise ValueError(f"there is no file {model.MANIFEST} of at most 1 MiB")
        return model.decode(entry.read())
    except ValueError as error:
        raise ManifestError(
            f"cannot use {path}: its manifest is not valid",
            details=str(error),
            resolution="build it again with the same version of Orbital as the device's",
        ) from error


def facts(opk: OpkFile) -> Mapping[str, object]:
    """What is known of a package file without its content, for --json."""
    return {
        "file": str(opk.path),
        "name": opk.manifest.name,
        "version": opk.manifest.version,
        "kind": opk.manifest.kind,
        "architecture": opk.manifest.architecture,
        "publisher": opk.manifest.publisher,
        "signer": opk.signer,
        "digest": opk.digest,
        "image_size": opk.image_size,
        "signature_size": len(opk.signature),
    }
