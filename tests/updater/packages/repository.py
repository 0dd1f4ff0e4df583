"""A repository of packages, a device that reads it, and fs-verity without a kernel."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from imager.keys import load_certificate
from imager.package.opk import OpkFile, file_name, write_opk
from imager.package.signing import KeyFileSigner
from imager.publishers import add_publisher, encode
from imager.repository import metadata
from imager.repository.deltas import DeltaMaker
from imager.repository.packages import Intake
from imager.repository.publish import Publication, publish
from imager.repository.roles import Periods
from manifests.index import Stream
from manifests.package_index import PackageRelease
from recovery import durable
from recovery.errors import TrustError
from recovery.packages import model, signer, trust
from recovery.packages.digest import file_digest
from recovery.reporter import SilentReporter
from tests.updater.images import content, cut_stream
from tests.updater.publisher import MemoryKeyring, Publisher
from updater.packages.offers import Offers
from updater.source import DirectorySource, Source
from updater.trust import TrustedRepository

PUBLISHERS: Mapping[str, Sequence[str]] = {"acme": ["acme-*", "wireguard"], "base": ["*"]}
BUILT = 1_700_000_000


def make_certificates(directory: Path) -> Path:
    """A key directory with certificates of PUBLISHERS and of a stranger."""
    for name, patterns in {**PUBLISHERS, "stranger": ["stranger-*"]}.items():
        add_publisher(directory, name, patterns)
    return directory


def manifest(name: str, version: str, publisher: str = "acme", **fields: Any) -> model.Package:
    """A library without dependencies, unless fields say otherwise."""
    values = {"kind": "library", "architecture": "amd64", "summary": f"The package {name}"}
    return model.Package(name=name, version=version, publisher=publisher, **{**values, **fields})


class PackagePublisher(Publisher):
    """Publishes packages whose images are plain bytes, signed like real ones."""

    def __init__(self, base: Path, certificates: Path, periods: Periods | None = None) -> None:
        """certificates: of `make_certificates`; may be shared, nothing is written there."""
        super().__init__(base, periods, MemoryKeyring(PUBLISHERS))
        self.certificates = certificates
        self._read: dict[Path, OpkFile] = {}

    def opk(
        self,
        package: model.Package,
        *,
        size: int = 200_000,
        seed: str = "",
        signed_by: str = "",
        data: bytes | None = None,
    ) -> Path:
        """Writes a package file. signed_by: whose certificate; by default the publisher's.
        data: the image, of whole blocks; otherwise one of that size is made up."""
        image = bytearray(
            content(f"{package.name} {package.version} {seed}", -(-size // 4096) * 4096)
            if data is None
            else data
        )
        # Where an erofs image has its time.
        struct.pack_into("<Q", image, 1024 + 24, BUILT)
        folder = self.base / "opk" / f"{len(self._read)}"
        folder.mkdir(parents=True)
        (folder / "image").write_bytes(image)
        digest = file_digest(folder / "image")
        public = self.certificates / "packages" / f"{signed_by or package.publisher}.pem"
        certificate = load_certificate(public)
        signature = KeyFileSigner(public.with_suffix(".key"), certificate).sign(digest)
        path = folder / file_name(package)
        write_opk(folder / "image", signature, path)
        self._read[path] = OpkFile(path, len(image), signature, digest, package, package.publisher)
        return path

    def image(self, path: Path) -> bytes:
        """The image in a package file."""
        return path.read_bytes()[: self._read[path].image_size]

    def digest(self, path: Path) -> str:
        """Its digest."""
        return self._read[path].digest

    def offer(
        self,
        *files: Path | model.Package,
        keys: MemoryKeyring | None = None,
        deltas: DeltaMaker | None = None,
    ) -> Publication:
        """Publishes packages: files, or manifests of which files are made."""
        paths = [item if isinstance(item, Path) else self.opk(item) for item in files]

        def cut(image: Path) -> tuple[Stream, Path]:
            # The image is gone when it has been read; its chunks must stay.
            place = self.base / "cut" / file_digest(image)
            return cut_stream(place, image.read_bytes()), place / "chunks"

        return publish(
            self.repository,
            paths,
            keys or self.keys,
            reporter=SilentReporter(),
            intake=Intake(lambda path: self._read[path], cut),
            deltas=deltas,
            now=self.now,
        )

    def sign_again(self, current: metadata.MetadataSet, *roles: str) -> None:
        """Publishes what was changed in targets and delegated roles, properly signed."""
        for role in roles:
            item = current.targets if role == "targets" else current.delegated[role]
            item.signed.version = current.next_version(role)
            metadata.sign(item, self.keys.signers(role))
            metadata.save_numbered(self.repository, role, item)
        metadata.commit(
            self.repository,
            current,
            periods=metadata.load_config(self.repository),
            now=self.now,
            snapshot_signers=self.keys.signers("snapshot"),
            timestamp_signers=self.keys.signers("timestamp"),
        )


@dataclass
class TableVerity:
    """Stands for the kernel: knows which files are under fs-verity, by inode.

    publishers: whose signatures it accepts.
    """

    publishers: trust.Publishers
    files: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    enabled: int = 0

    def enable(self, path: Path, signature: bytes, /) -> None:
        """Accepts signatures of known publishers; over which digest is the caller's to check."""
        by = signer.of_signature(signature)
        if by not in [item.signer for item in self.publishers.publishers]:
            raise TrustError(f"cannot trust {path}: the kernel refuses its signature")
        durable.sync_file(path)
        self.enabled += 1
        self.files[path.stat().st_ino] = (file_digest(path), signature)

    def measure(self, file: Path, /) -> str:
        """The digest of the file when it was enabled."""
        found = self.files.get(file.stat().st_ino)
        if found is None:
            raise TrustError(f"cannot trust {file}: it is not under fs-verity")
        return found[0]


class PackageReader:
    """The part of a device that reads packages."""

    def __init__(self, base: Path, publisher: PackagePublisher, image: Path | None = None) -> None:
        """image: root of an image with the publishers' certificates; made when None."""
        self.base = base
        self.publisher = publisher
        self.clock = publisher.now.timestamp()
        self.store = base / "store"
        self.tuf = base / "tuf"
        self.publishers = trust.load(image or make_image(base / "image", publisher.certificates))
        self.verity = TableVerity(self.publishers)

    def repository(self, source: Source | Path | None = None) -> TrustedRepository:
        """The repository, not refreshed."""
        place = source or self.publisher.repository
        return TrustedRepository(
            DirectorySource(place) if isinstance(place, Path) else place,
            anchor=self.publisher.anchor,
            directory=self.tuf,
            built=BUILT,
            now=self.clock,
        )

    def releases(
        self, name: str, source: Source | Path | None = None, architecture: str = "amd64"
    ) -> tuple[PackageRelease, ...]:
        """What is offered of a package now."""
        with self.repository(source) as repository:
            repository.refresh()
            offers = Offers(repository, architecture=architecture, publishers=self.publishers)
            return offers.releases(name)


def make_image(root: Path, certificates: Path, names: Sequence[str] = tuple(PUBLISHERS)) -> Path:
    """What an image says of publishers, below root."""
    folder = root / trust.DIRECTORY / "publishers"
    folder.mkdir(parents=True)
    listed = {name: tuple(PUBLISHERS.get(name, ("*",))) for name in names}
    (folder.parent / "publishers.json").write_bytes(encode(listed))
    for name in names:
        certificate = load_certificate(certificates / "packages" / f"{name}.pem")
        (folder / f"{name}.der").write_bytes(certificate.public_bytes(Encoding.DER))
    return root
