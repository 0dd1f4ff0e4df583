"""What a repository offers of one package: target ``packages/NAME/releases.json``.

Signed by the publisher's delegated role, whose paths are restricted to the
publisher's own names. It holds all that a resolver needs, so that a device
fetches one small file for each package it considers, and no image.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from manifests.index import Stream

FORMAT = 1


class Dependency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another package that must be there. versions: a constraint."""

    package: str
    versions: str = "*"


class Fit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A system it is made for. versions: a constraint on the image's version."""

    system: str
    versions: str = "*"


class Interface(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An IPC interface it provides. version: MAJOR.MINOR."""

    interface: str
    version: str


class RequiredInterface(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An IPC interface it calls. package: who provides it. versions: a constraint."""

    interface: str
    package: str
    versions: str = "*"


class PackageRelease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One version for one architecture ("all" for any).

    digest: fs-verity digest of the image (sha256, 4 KiB blocks, no salt), hex.
    signature: PKCS#7 of that digest by the publisher, base64 (DER).
    stream: the image as chunks. built: seconds since the epoch.
    capabilities: everything it asks for. state_version: schema of its state;
    migrates_from: schema versions whose state it can take over (its own included).
    """

    version: str
    kind: Literal["system", "feature", "library", "suite"]
    architecture: str
    summary: str
    digest: str
    signature: str
    stream: Stream
    built: int
    depends: tuple[Dependency, ...] = ()
    systems: tuple[Fit, ...] = ()
    provides: tuple[Interface, ...] = ()
    requires: tuple[RequiredInterface, ...] = ()
    capabilities: tuple[str, ...] = ()
    state_version: int = 1
    migrates_from: tuple[int, ...] = (1,)
    members: tuple[str, ...] = ()


class PackageReleases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole target; releases are sorted oldest first."""

    format: int
    package: str
    publisher: str
    releases: tuple[PackageRelease, ...]
