"""What the repository offers of packages: verified, checked, for this device.

``packages/NAME/releases.json`` is signed by the role of the publisher whose
name it is (`updater.trust`). The signature says who made it, not that it makes
sense, and the repository's operator says whose name it is, not the image: so
both are checked before a resolver sees a release.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec

from manifests.constraints import is_constraint
from manifests.decoding import decode_json
from manifests.fields import CapabilityName, InterfaceName, InterfaceVersion, Name
from manifests.package_delta import package_delta_target
from manifests.package_index import FORMAT, PackageRelease, PackageReleases
from manifests.versions import is_version, version_key
from recovery.errors import TrustError
from recovery.packages.digest import BLOCK
from recovery.packages.trust import Publishers
from updater.index import SHA256_TEXT, invalid, is_sha256, stream_problem
from updater.trust import TrustedRepository

ANY = "all"
"""The architecture of packages without machine code."""

LARGEST_SIGNATURE = 16128
"""Bytes; the kernel takes no longer one (FS_VERITY_MAX_SIGNATURE_SIZE)."""

_ROLE = "publisher-"
_ARCHITECTURE = re.compile("[a-z0-9][a-z0-9-]{0,31}")


class Offers:
    """The packages of a repository that was refreshed. Each is fetched when first asked for."""

    def __init__(
        self, repository: TrustedRepository, *, architecture: str, publishers: Publishers
    ) -> None:
        """architecture: Debian's name of the device's. publishers: of the running image."""
        self._repository = repository
        self._architecture = architecture
        self._publishers = publishers
        self._releases: dict[str, tuple[PackageRelease, ...]] = {}

    def releases(self, name: str) -> tuple[PackageRelease, ...]:
        """What is offered of a package for this device, oldest first; empty when nobody does.

        Raises TrustError when what is offered is not signed as it must be, or
        by somebody whom the image does not let sign that name; ManifestError
        when it makes no sense; FetchError when it cannot be read.
        """
        if name not in self._releases:
            self._releases[name] = self._read(name)
        return self._releases[name]

    def delta(self, name: str, release: PackageRelease, base: str) -> bytes | None:
        """The document of the delta to a release from the image with the digest base.

        None when the package's publisher offers none. Raises TrustError when it is not
        what was signed, FetchError when it cannot be read.
        """
        path = package_delta_target(name, release.digest, base)
        role = self._repository.role_of(_path(name))
        if role is None or self._repository.role_of(path) != role:
            return None
        return self._repository.target(path)

    def _read(self, name: str) -> tuple[PackageRelease, ...]:
        if not _is(Name, name):
            return ()
        path = _path(name)
        data = self._repository.target(path)
        if data is None:
            return ()
        document = decode(data, path)
        role = self._repository.role_of(path)
        if document.package != name or role != f"{_ROLE}{document.publisher}":
            raise TrustError(
                f"cannot trust what is offered of {name}",
                details=f"{path}, signed by the role {role}, says that it is of package "
                f"{document.package} and publisher {document.publisher}",
                resolution="tell the operator of the repository",
            )
        ours = [
            item for item in document.releases if item.architecture in (self._architecture, ANY)
        ]
        return self._trusted(name, document.publisher, ours)

    def _trusted(
        self, name: str, publisher: str, releases: list[PackageRelease]
    ) -> tuple[PackageRelease, ...]:
        """The releases whose image the running system would activate.

        A publisher may have changed its certificate, so that this image knows
        the signer of some releases only. Raises TrustError when it knows none.
        """
        found: list[PackageRelease] = []
        refused: TrustError | None = None
        for release in releases:
            try:
                signer = self._publishers.check(base64.b64decode(release.signature), name)
            except TrustError as error:
                refused = error
                continue
            if signer == publisher:
                found.append(release)
                continue
            refused = TrustError(
                f"cannot trust {name} {release.version}: its image is signed by {signer}, "
                f"it is offered by {publisher}",
                resolution="tell the publisher",
            )
        if refused is not None and not found:
            raise refused
        return tuple(found)


def _path(name: str) -> str:
    return f"packages/{name}/releases.json"


def decode(data: bytes, path: str) -> PackageReleases:
    """releases.json of a package. Raises ManifestError when it is not valid."""
    try:
        document = decode_json(data, PackageReleases)
    except msgspec.MsgspecError as error:
        raise invalid(path, str(error)) from error
    problem = _problem(document)
    if problem:
        raise invalid(path, problem)
    return document


def _problem(document: PackageReleases) -> str:
    """The first thing that is wrong with the document, or nothing."""
    if document.format != FORMAT:
        return f"its format is {document.format}, expected {FORMAT}"
    for release in document.releases:
        if not is_version(release.version):
            return f"{release.version!r} is not a version"
        if not _ARCHITECTURE.fullmatch(release.architecture):
            return f"{release.version}: {release.architecture!r} is not an architecture"
        problem = _image_problem(release) or _claims_problem(release)
        if problem:
            return f"{release.version}: {problem}"
    order = [(version_key(item.version), item.architecture) for item in document.releases]
    if order != sorted(set(order)):
        return "its releases are not sorted, or one is there twice"
    return ""


def _image_problem(release: PackageRelease) -> str:
    """The first thing that is wrong with how the image is described, or nothing."""
    if not is_sha256(release.digest):
        return f"digest is not {SHA256_TEXT}"
    try:
        signature = base64.b64decode(release.signature, validate=True)
    except (binascii.Error, ValueError):
        return "signature is not base64"
    if not 0 < len(signature) <= LARGEST_SIGNATURE:
        return f"signature cannot have {len(signature)} bytes"
    stream = release.stream
    if stream.size % BLOCK or stream.segment_size % BLOCK:
        return f"the image is not cut into multiples of {BLOCK} bytes"
    if release.built < 0:
        return f"built cannot be {release.built}"
    return stream_problem("image", stream)


def _claims_problem(release: PackageRelease) -> str:
    """The first thing that is wrong with what the package says of itself, or nothing."""
    names = {
        "depends on": [item.package for item in release.depends],
        "is made for": [item.system for item in release.systems],
        "has the member": list(release.members),
        "calls": [item.package for item in release.requires],
    }
    for what, found in names.items():
        for name in found:
            if not _is(Name, name):
                return f"{what} {name!r}, which is not a name"
    needed = names["depends on"]
    if len(needed) != len(set(needed)):
        return "depends on a package twice"
    if not set(release.members) <= set(needed):
        return "has a member that it does not depend on"
    constraints = [item.versions for item in release.depends]
    constraints += [item.versions for item in release.systems]
    constraints += [item.versions for item in release.requires]
    for constraint in constraints:
        if not is_constraint(constraint):
            return f"{constraint!r} is not a version constraint"
    for provided in release.provides:
        if not (_is(InterfaceName, provided.interface) and _is(InterfaceVersion, provided.version)):
            return f"provides {provided.interface!r} {provided.version!r}, which is no interface"
    for required in release.requires:
        if not _is(InterfaceName, required.interface):
            return f"requires {required.interface!r}, which is no interface"
    for capability in release.capabilities:
        if not _is(CapabilityName, capability):
            return f"{capability!r} is not a capability"
    if release.state_version < 1 or release.state_version not in release.migrates_from:
        return f"state_version {release.state_version} is not in migrates_from"
    return ""


def _is(kind: Any, text: str) -> bool:
    """Whether text is of one of the kinds that manifests are made of."""
    try:
        msgspec.convert(text, kind)
    except msgspec.ValidationError:
        return False
    # The patterns end in "$", which alone would let a final newline pass.
    return "\n" not in text
