"""Publishers and mirrors that lie about packages: refused in plain words, nothing is stored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, TargetFile, Targets

from imager.publishers import encode
from imager.repository import metadata
from imager.repository.publish import withdraw
from imager.repository.roles import Periods
from manifests.package_index import PackageReleases
from recovery.errors import FetchError, ManifestError, OrbitalError, TrustError
from recovery.packages import trust
from tests.updater.packages.repository import (
    PackagePublisher,
    PackageReader,
    make_certificates,
    manifest,
)
from tests.updater.publisher import MemoryKeyring
from tests.updater.test_adversary import edit, newest

ACME = "publisher-acme"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates that tests read and never change."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def publisher(tmp_path: Path, certificates: Path) -> PackagePublisher:
    """A repository that offers acme-vpn 1.0."""
    made = PackagePublisher(tmp_path / "publisher", certificates)
    made.offer(manifest("acme-vpn", "1.0"))
    return made


@pytest.fixture
def reader(tmp_path: Path, publisher: PackagePublisher) -> PackageReader:
    """A device that trusts the publishers acme and base."""
    return PackageReader(tmp_path / "device", publisher)


def refused(
    reader: PackageReader,
    error: type[OrbitalError],
    words: str,
    source: Path | None = None,
    name: str = "acme-vpn",
) -> OrbitalError:
    """Asks for a package, which must fail in words, and be forgotten."""
    before = {path: path.read_bytes() for path in reader.tuf.glob("publisher-*.json")}
    with pytest.raises(error) as caught:
        reader.releases(name, source)
    assert caught.value.brief.startswith("cannot ")
    assert words in str(caught.value)
    assert {path: path.read_bytes() for path in reader.tuf.glob("publisher-*.json")} == before
    assert not reader.store.exists()
    return caught.value


def refused_once(
    reader: PackageReader, error: type[OrbitalError], words: str, name: str = "acme-vpn"
) -> OrbitalError:
    """As `refused`; the role itself is right, and kept."""
    with pytest.raises(error) as caught:
        reader.releases(name)
    assert words in str(caught.value)
    assert not reader.store.exists()
    return caught.value


def sign_by_hand(
    publisher: PackagePublisher, change: Callable[[Targets], object], *, role: str = ACME
) -> None:
    """A publisher signs what it likes with its own key; snapshot and timestamp follow."""
    current = metadata.load(publisher.repository)
    item = current.delegated[role]
    change(item.signed)
    item.signed.version = current.next_version(role)
    metadata.sign(item, publisher.keys.signers(role))
    metadata.save_numbered(publisher.repository, role, item)
    metadata.commit(
        publisher.repository,
        current,
        periods=Periods(),
        now=publisher.now,
        snapshot_signers=publisher.keys.signers("snapshot"),
        timestamp_signers=publisher.keys.signers("timestamp"),
    )


def document_of(publisher: PackagePublisher, name: str = "acme-vpn") -> dict[str, Any]:
    """releases.json as published."""
    files = (publisher.repository / "targets" / "packages" / name).glob("*.releases.json")
    newest_file = max(files, key=lambda path: path.stat().st_mtime_ns)
    found: dict[str, Any] = json.loads(newest_file.read_bytes())
    return found


def put(publisher: PackagePublisher, path: str, data: bytes) -> Callable[[Targets], None]:
    """Names a target with these bytes, and writes it."""
    target = TargetFile.from_data(path, data, ["sha256"])
    parent, _, name = path.rpartition("/")
    file = publisher.repository / "targets" / parent / f"{target.hashes['sha256']}.{name}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return lambda targets: targets.targets.update({path: target})


def test_releases_changed_after_signing(publisher: PackagePublisher, reader: PackageReader) -> None:
    (path,) = (publisher.repository / "targets").rglob("*.releases.json")
    path.write_bytes(path.read_bytes().replace(b'"1.0"', b'"9.0"'))
    refused_once(reader, TrustError, "not the one that was signed")


def test_releases_that_never_end(publisher: PackagePublisher, reader: PackageReader) -> None:
    (path,) = (publisher.repository / "targets").rglob("*.releases.json")
    with path.open("ab") as file:
        file.write(b" " * 1_000_000)
    refused_once(reader, TrustError, "longer than it may be")


def test_releases_that_are_missing(publisher: PackagePublisher, reader: PackageReader) -> None:
    (path,) = (publisher.repository / "targets").rglob("*.releases.json")
    path.unlink()
    refused_once(reader, FetchError, "a file is missing")


def test_role_changed_after_signing(publisher: PackagePublisher, reader: PackageReader) -> None:
    edit(newest(publisher.repository, ACME), lambda signed: signed.update(x="added"))
    refused(reader, TrustError, "not the one that was signed")


def test_role_that_is_not_json(publisher: PackagePublisher, reader: PackageReader) -> None:
    newest(publisher.repository, ACME).write_bytes(b"<html>welcome to the hotel</html>")
    refused(reader, TrustError, "cannot trust")


def test_role_that_is_missing(publisher: PackagePublisher, reader: PackageReader) -> None:
    newest(publisher.repository, ACME).unlink()
    refused(reader, FetchError, "a file is missing")


def test_role_signed_by_another_publisher(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    publisher.keys.keys[ACME] = publisher.keys.keys["publisher-base"]
    with pytest.raises(TrustError, match="the key of role publisher-acme is not the one"):
        publisher.offer(manifest("acme-vpn", "2.0"))
    sign_by_hand(publisher, lambda _targets: None)
    refused(reader, TrustError, "not signed by the right keys")
    assert reader.releases("base-thing") == (), "others are not affected"


def test_role_replayed_from_before(publisher: PackagePublisher, reader: PackageReader) -> None:
    """An old role with the name of the new one: snapshot knows the digest of the new one."""
    old = newest(publisher.repository, ACME).read_bytes()
    publisher.offer(manifest("acme-vpn", "2.0"))
    newest(publisher.repository, ACME).write_bytes(old)
    refused(reader, TrustError, "not the one that was signed")


@pytest.mark.parametrize("lost", ["nothing", "cache"])
def test_whole_repository_replayed_from_before(
    publisher: PackagePublisher, reader: PackageReader, lost: str
) -> None:
    old = publisher.copy("old")
    publisher.offer(manifest("acme-vpn", "2.0"))
    assert len(reader.releases("acme-vpn")) == 2
    if lost == "cache":
        for path in reader.tuf.glob("*.json"):
            if path.name != "seen.json":
                path.unlink()
    refused(reader, TrustError, "older than what this device has seen", old)


def test_stolen_online_keys_cannot_bring_back_a_withdrawn_release(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    """A new snapshot and timestamp that name the publisher's older role: seen.json remembers."""
    bad = newest(publisher.repository, ACME)
    withdraw(publisher.repository, "acme-vpn", "1.0", publisher.keys, now=publisher.now)
    assert reader.releases("acme-vpn") == ()
    current = metadata.load(publisher.repository)
    current.delegated[ACME] = Metadata[Targets].from_bytes(bad.read_bytes())
    metadata.commit(
        publisher.repository,
        current,
        periods=Periods(),
        now=publisher.now,
        snapshot_signers=publisher.keys.signers("snapshot"),
        timestamp_signers=publisher.keys.signers("timestamp"),
    )
    refused(reader, TrustError, "older than what this device has seen")
    (reader.tuf / "snapshot.json").unlink()
    refused(reader, TrustError, "publisher-acme metadata is older")


def test_snapshot_that_forgets_a_publisher(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    assert reader.releases("acme-vpn")
    current = metadata.load(publisher.repository)
    del current.snapshot.signed.meta[f"{ACME}.json"]
    del current.delegated[ACME]
    metadata.commit(
        publisher.repository,
        current,
        periods=Periods(),
        now=publisher.now,
        snapshot_signers=publisher.keys.signers("snapshot"),
        timestamp_signers=publisher.keys.signers("timestamp"),
    )
    refused(reader, TrustError, "cannot trust")


def test_mix_of_two_moments(publisher: PackagePublisher, reader: PackageReader) -> None:
    """The old snapshot and role under the new timestamp."""
    old = publisher.copy("old")
    publisher.offer(manifest("acme-vpn", "2.0"))
    for role in (ACME, "snapshot"):
        name = newest(publisher.repository, role).name
        shutil.copy(newest(old, role), publisher.repository / "metadata" / name)
    refused(reader, TrustError, "not the one that was signed")


def test_expired_role(tmp_path: Path, certificates: Path) -> None:
    publisher = PackagePublisher(tmp_path / "p2", certificates, Periods(publisher=1))
    publisher.offer(manifest("acme-vpn", "1.0"))
    reader = PackageReader(tmp_path / "d2", publisher)
    reader.clock += timedelta(days=2).total_seconds()
    error = refused(reader, TrustError, "its metadata has expired")
    assert ACME in error.details


# Publishers who overstep ---------------------------------------------------------------


def test_publishing_a_name_of_another_publisher(publisher: PackagePublisher) -> None:
    with pytest.raises(TrustError, match="the name belongs to the publisher acme"):
        publisher.offer(manifest("acme-vpn", "2.0", publisher="base"))
    with pytest.raises(TrustError, match="the name belongs to the publisher base"):
        publisher.offer(manifest("firewall", "2.0", publisher="acme"))


def test_role_that_lists_a_package_of_another_is_not_asked(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    """acme signs a releases.json of the package "firewall", which is base's."""
    document = {**document_of(publisher), "package": "firewall"}
    data = json.dumps(document).encode()
    sign_by_hand(publisher, put(publisher, "packages/firewall/releases.json", data))
    assert reader.releases("firewall") == ()
    assert reader.releases("acme-vpn"), "what acme may sign is not affected"


def test_role_that_lists_an_os_image_is_not_asked(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    path = "os/gateway/testboard/releases.json"
    sign_by_hand(publisher, put(publisher, path, b"{}"))
    with reader.repository() as repository:
        repository.refresh()
        assert repository.role_of(path) == "os"
        assert repository.target(path) is None
        assert repository.target("packages/acme-vpn/releases.json") is not None
        assert repository.target("packages/acme-vpn/other.json") is None
        assert repository.target("index.json") is None


def test_role_that_delegates_what_it_does_not_have(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    """acme delegates everything to itself under the name of base: nobody looks there."""
    key = publisher.keys.signers(ACME)[0].public_key

    def delegate(targets: Targets) -> None:
        role = DelegatedRole("publisher-base", [key.keyid], 1, True, paths=["packages/*/*"])
        targets.delegations = Delegations({key.keyid: key}, {"publisher-base": role})

    sign_by_hand(publisher, delegate)
    publisher.offer(manifest("firewall", "1.0", publisher="base"))
    assert [item.version for item in reader.releases("firewall")] == ["1.0"]
    assert [item.version for item in reader.releases("acme-vpn")] == ["1.0"]
    # And where acme itself offers nothing, its delegation leads to a role it cannot sign.
    with pytest.raises(TrustError, match="not signed by the right keys"):
        reader.releases("acme-other")


@pytest.mark.parametrize(
    ("field", "value"), [("package", "acme-other"), ("publisher", "base"), ("publisher", "")]
)
def test_document_of_something_else(
    publisher: PackagePublisher, reader: PackageReader, field: str, value: str
) -> None:
    data = json.dumps({**document_of(publisher), field: value}).encode()
    sign_by_hand(publisher, put(publisher, "packages/acme-vpn/releases.json", data))
    error = refused_once(reader, TrustError, "cannot trust what is offered of acme-vpn")
    assert value in error.details


def test_image_signed_by_another_publisher(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    publisher.offer(publisher.opk(manifest("acme-tool", "1.0"), signed_by="base"))
    refused_once(reader, TrustError, "is signed by base, it is offered by acme", "acme-tool")


def test_image_signed_by_a_stranger(publisher: PackagePublisher, reader: PackageReader) -> None:
    publisher.offer(publisher.opk(manifest("acme-tool", "1.0"), signed_by="stranger"))
    refused_once(reader, TrustError, "does not know who signed it", "acme-tool")


def test_publisher_who_may_not_sign_the_name_by_the_images_own_list(
    tmp_path: Path, publisher: PackagePublisher
) -> None:
    """The operator of the repository gives acme a name that the image does not."""
    publisher.keys.listed = {"acme": ["acme-*", "firewall"], "base": ["*"]}
    publisher.refresh()
    publisher.offer(manifest("firewall", "1.0"))
    reader = PackageReader(tmp_path / "device2", publisher)
    listed = reader.base / "image" / trust.DIRECTORY / "publishers.json"
    listed.write_bytes(encode({"acme": ("acme-*",), "base": ("*",)}))
    reader.publishers = trust.load(reader.base / "image")
    refused_once(reader, TrustError, "acme may not sign that name", "firewall")


def test_sizes_that_lie(publisher: PackagePublisher, reader: PackageReader) -> None:
    document = document_of(publisher)
    document["releases"][0]["stream"]["segments"][0]["stored_size"] = 1 << 50
    data = json.dumps(document).encode()
    sign_by_hand(publisher, put(publisher, "packages/acme-vpn/releases.json", data))
    refused_once(reader, ManifestError, "it is signed and not valid")


def test_document_of_a_newer_format(publisher: PackagePublisher, reader: PackageReader) -> None:
    data = msgspec.json.encode(PackageReleases(2, "acme-vpn", "acme", ()))
    sign_by_hand(publisher, put(publisher, "packages/acme-vpn/releases.json", data))
    refused_once(reader, ManifestError, "its format is 2")


def test_role_whose_name_is_that_of_a_record(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    """A delegated role called "seen" must not become seen.json on the device."""
    current = metadata.load(publisher.repository)
    keys = MemoryKeyring({"x": []}).keys["publisher-x"]
    public = keys[0].public_key
    delegations = current.targets.signed.delegations
    assert delegations is not None and delegations.roles is not None
    role = DelegatedRole("seen", [public.keyid], 1, True, paths=["packages/evil/releases.json"])
    delegations.roles = {"seen": role, **delegations.roles}
    delegations.keys[public.keyid] = public
    current.targets.signed.version += 1
    metadata.sign(current.targets, publisher.keys.signers("targets"))
    metadata.save_numbered(publisher.repository, "targets", current.targets)
    evil = Metadata(Targets(expires=publisher.now + timedelta(days=9)))
    metadata.sign(evil, keys)
    current.delegated["seen"] = evil
    metadata.save_numbered(publisher.repository, "seen", evil)
    metadata.commit(
        publisher.repository,
        current,
        periods=Periods(),
        now=publisher.now,
        snapshot_signers=publisher.keys.signers("snapshot"),
        timestamp_signers=publisher.keys.signers("timestamp"),
    )
    assert reader.releases("evil") == ()
    assert "online_keys" in json.loads((reader.tuf / "seen.json").read_bytes())
