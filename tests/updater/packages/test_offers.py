"""What a device believes of releases.json, and when it fetches it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imager.repository.publish import withdraw
from imager.repository.refresh import refresh
from imager.repository.roles import Periods
from manifests.package_index import PackageReleases
from recovery.errors import ManifestError, TrustError
from tests.updater.packages.repository import (
    PackagePublisher,
    PackageReader,
    make_certificates,
    make_image,
    manifest,
)
from tests.updater.publisher import MemoryKeyring
from updater.packages.offers import Offers, decode
from updater.source import DirectorySource


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates that tests read and never change."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def publisher(tmp_path: Path, certificates: Path) -> PackagePublisher:
    """An empty repository with two publishers."""
    return PackagePublisher(tmp_path / "publisher", certificates)


@pytest.fixture
def reader(tmp_path: Path, publisher: PackagePublisher) -> PackageReader:
    """A device that trusts both."""
    return PackageReader(tmp_path / "device", publisher)


class CountingSource(DirectorySource):
    """Remembers what was read."""

    def __init__(self, directory: Path) -> None:
        """Nothing was read yet."""
        super().__init__(directory)
        self.paths: list[str] = []

    def open(self, path: str, max_size: int) -> Iterator[bytes]:
        """See Source."""
        self.paths.append(path)
        return super().open(path, max_size)


def test_a_package_that_nobody_offers_is_not_an_error(reader: PackageReader) -> None:
    assert reader.releases("acme-vpn") == ()
    assert reader.releases("../../etc/passwd") == ()
    assert reader.releases("wireguard\n") == ()


def test_releases_arrive_as_they_were_published_oldest_first(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    old, new = manifest("acme-vpn", "1.9"), manifest("acme-vpn", "1.10")
    publisher.offer(new)
    publisher.offer(old)
    assert [item.version for item in reader.releases("acme-vpn")] == ["1.9", "1.10"]


def test_only_images_for_this_machine_are_offered(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    for architecture in ("amd64", "arm64"):
        publisher.offer(manifest("acme-vpn", "1.0", architecture=architecture))
    publisher.offer(manifest("acme-vpn", "1.1", architecture="all"))
    found = reader.releases("acme-vpn", architecture="arm64")
    assert [(item.version, item.architecture) for item in found] == [
        ("1.0", "arm64"), ("1.1", "all"),
    ]  # fmt: skip


def test_one_small_file_is_fetched_for_each_package_and_once(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    publisher.offer(*(manifest(f"acme-{number}", "1.0") for number in range(5)))
    source = CountingSource(publisher.repository)
    with reader.repository(source) as repository:
        repository.refresh()
        offers = Offers(repository, architecture="amd64", publishers=reader.publishers)
        before = len(source.paths)
        first = offers.releases("acme-1")
        assert offers.releases("acme-1") == first
        offers.releases("acme-2")
    read = [path.rpartition("/")[2].partition(".")[2] for path in source.paths[before:]]
    assert read == ["publisher-acme.json", "releases.json", "releases.json"]


def test_a_publishers_role_is_kept_for_the_next_time(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    publisher.offer(manifest("acme-vpn", "1.0"))
    reader.releases("acme-vpn")
    source = CountingSource(publisher.repository)
    assert reader.releases("acme-vpn", source)
    assert not [path for path in source.paths if "publisher-" in path]
    # A cache that was torn or lost is fetched again.
    (reader.tuf / "publisher-acme.json").write_bytes(b"{")
    assert reader.releases("acme-vpn")


def test_a_publisher_who_has_signed_nothing_yet_offers_nothing(
    tmp_path: Path, certificates: Path
) -> None:
    publisher = PackagePublisher(tmp_path / "publisher", certificates)
    publisher.keys.listed = {**(publisher.keys.listed or {}), "late": ["late-*"]}
    late = MemoryKeyring({"late": []}).keys["publisher-late"]

    class PublicOnly(MemoryKeyring):
        """Knows late's public key and cannot sign with it."""

        def __init__(self, other: MemoryKeyring) -> None:
            self.listed, self.keys = other.listed, {**other.keys, "publisher-late": late}

        def signers(self, role: str):  # type: ignore[no-untyped-def]
            return () if role == "publisher-late" else super().signers(role)

    done = refresh(publisher.repository, PublicOnly(publisher.keys), now=publisher.now)
    assert any("publisher-late offers nothing" in text for text in done.warnings)
    reader = PackageReader(tmp_path / "device", publisher)
    assert reader.releases("late-vpn") == ()


def test_a_publisher_whom_the_image_does_not_know_is_refused(
    tmp_path: Path, publisher: PackagePublisher
) -> None:
    publisher.offer(manifest("acme-vpn", "1.0"))
    image = make_image(tmp_path / "image", publisher.certificates, names=["base"])
    reader = PackageReader(tmp_path / "device", publisher, image)
    with pytest.raises(TrustError, match="does not know who signed it"):
        reader.releases("acme-vpn")


def test_a_new_certificate_hides_only_what_the_old_one_signed(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    publisher.offer(
        publisher.opk(manifest("acme-vpn", "1.0"), signed_by="stranger"),
        publisher.opk(manifest("acme-vpn", "2.0")),
    )
    assert [item.version for item in reader.releases("acme-vpn")] == ["2.0"]


def test_withdrawn_releases_are_gone(publisher: PackagePublisher, reader: PackageReader) -> None:
    publisher.offer(manifest("acme-vpn", "1.0"), manifest("acme-vpn", "2.0"))
    withdraw(publisher.repository, "acme-vpn", "2.0", publisher.keys, now=publisher.now)
    assert [item.version for item in reader.releases("acme-vpn")] == ["1.0"]
    withdraw(publisher.repository, "acme-vpn", "1.0", publisher.keys, now=publisher.now)
    assert reader.releases("acme-vpn") == ()


def test_an_operator_who_moves_a_name_to_another_publisher(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    publisher.offer(manifest("wireguard", "1.0"))
    publisher.keys.listed = {"acme": ["acme-*"], "base": ["*"]}
    publisher.refresh()
    assert reader.releases("wireguard") == (), "acme's role may not offer it any more"
    publisher.offer(manifest("wireguard", "1.1", publisher="base"))
    assert [item.version for item in reader.releases("wireguard")] == ["1.1"]


# What a signed document may say wrongly -----------------------------------------------


Change = Callable[[dict[str, Any]], object]


def release_of(document: dict[str, Any]) -> dict[str, Any]:
    """The first release."""
    found: dict[str, Any] = document["releases"][0]
    return found


CHANGES: dict[str, tuple[Change, str]] = {
    "format": (lambda d: d.update(format=2), "its format is 2"),
    "unknown key": (lambda d: d.update(extra=1), "unknown field"),
    "version": (lambda d: release_of(d).update(version="01"), "is not a version"),
    "version with newline": (lambda d: release_of(d).update(version="1.0\n"), "is not a version"),
    "kind": (lambda d: release_of(d).update(kind="kernel"), "Invalid enum value"),
    "architecture": (lambda d: release_of(d).update(architecture="../x"), "not an architecture"),
    "digest": (lambda d: release_of(d).update(digest="../../etc"), "digest is not 64"),
    "digest in capitals": (lambda d: release_of(d).update(digest="A" * 64), "digest is not 64"),
    "signature text": (lambda d: release_of(d).update(signature="%%%"), "not base64"),
    "signature empty": (lambda d: release_of(d).update(signature=""), "cannot have 0 bytes"),
    "signature long": (
        lambda d: release_of(d).update(signature=base64.b64encode(bytes(20_000)).decode()),
        "cannot have 20000 bytes",
    ),
    "size": (lambda d: release_of(d)["stream"].update(size=4096), "segments cannot make"),
    "size of no whole blocks": (
        lambda d: release_of(d)["stream"].update(size=200_001), "multiples of 4096",
    ),
    "negative size": (lambda d: release_of(d)["stream"].update(size=-4096), "not valid"),
    "segment size": (
        lambda d: release_of(d)["stream"].update(segment_size=1 << 30), "segment_size",
    ),
    "segment": (
        lambda d: release_of(d)["stream"]["segments"][0].update(size=4096), "segment 0 has 4096",
    ),
    "stored size": (
        lambda d: release_of(d)["stream"]["segments"][0].update(stored_size=1 << 40),
        "cannot have 1099511627776 stored bytes",
    ),
    "chunk": (
        lambda d: release_of(d)["stream"]["segments"][0].update(stored_sha256="../" * 10),
        "a digest of segment 0",
    ),
    "built": (lambda d: release_of(d).update(built=-1), "built cannot be -1"),
    "constraint": (
        lambda d: release_of(d).update(depends=[{"package": "x", "versions": "^1"}]),
        "not a version constraint",
    ),
    "system": (
        lambda d: release_of(d).update(systems=[{"system": "Gate Way", "versions": "*"}]),
        "not a name",
    ),
    "dependency twice": (
        lambda d: release_of(d).update(depends=[{"package": "x"}, {"package": "x"}]), "twice",
    ),
    "member": (lambda d: release_of(d).update(members=["y"]), "does not depend on"),
    "interface": (
        lambda d: release_of(d).update(provides=[{"interface": "tunnel", "version": "1.0"}]),
        "is no interface",
    ),
    "interface version": (
        lambda d: release_of(d).update(provides=[{"interface": "a.b", "version": "1"}]),
        "is no interface",
    ),
    "required interface": (
        lambda d: release_of(d).update(requires=[{"interface": "x y", "package": "x"}]),
        "is no interface",
    ),
    "capability": (
        lambda d: release_of(d).update(capabilities=["CAP_SYS_ADMIN"]), "not a capability",
    ),
    "state": (lambda d: release_of(d).update(state_version=7), "not in migrates_from"),
    "order": (lambda d: d["releases"].reverse(), "not sorted"),
    "twice": (lambda d: d["releases"].append(d["releases"][-1]), "there twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_document_that_makes_no_sense_is_refused(
    publisher: PackagePublisher, reader: PackageReader, name: str
) -> None:
    publisher.offer(manifest("acme-vpn", "1.0"), manifest("acme-vpn", "2.0"))
    whole = PackageReleases(1, "acme-vpn", "acme", reader.releases("acme-vpn"))
    document = json.loads(msgspec.json.encode(whole))
    decode(json.dumps(document).encode(), "packages/acme-vpn/releases.json")
    change, words = CHANGES[name]
    change(document)
    with pytest.raises(ManifestError, match="it is signed and not valid") as caught:
        decode(json.dumps(document).encode(), "packages/acme-vpn/releases.json")
    assert words in caught.value.details


def test_an_expired_role_harms_its_own_packages_only(tmp_path: Path, certificates: Path) -> None:
    publisher = PackagePublisher(tmp_path / "publisher", certificates, Periods(publisher=10))
    publisher.offer(manifest("acme-vpn", "1.0"), manifest("tool", "1.0", publisher="base"))
    publisher.now += timedelta(days=12)
    without = MemoryKeyring(publisher.keys.listed)
    without.keys = {**publisher.keys.keys}
    del without.keys["publisher-acme"]
    done = refresh(publisher.repository, without, now=publisher.now)
    assert any("publisher-acme has expired" in text for text in done.warnings)
    reader = PackageReader(tmp_path / "device", publisher)
    with pytest.raises(TrustError, match="its metadata has expired"):
        reader.releases("acme-vpn")
    assert [item.version for item in reader.releases("tool")] == ["1.0"]
    publisher.refresh()
    assert [item.version for item in reader.releases("acme-vpn")] == ["1.0"]
