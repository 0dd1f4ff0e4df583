"""Publishing packages: who may, what is refused, what devices then see."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from securesystemslib.signer import Signer

from imager.repository import listing, metadata
from imager.repository.delegations import ordered, publisher_of
from imager.repository.packages import migrates_from
from imager.repository.publish import publish, withdraw
from imager.repository.refresh import refresh
from imager.repository.releases import refuse_cycles
from manifests.interface import OsInterface
from manifests.package_index import PackageRelease
from recovery.errors import ManifestError, RefusedError, TrustError
from recovery.packages.model import Check, Dependency, Migration, Service
from recovery.reporter import SilentReporter
from tests.updater.packages.repository import (
    PackagePublisher,
    PackageReader,
    make_certificates,
    manifest,
)
from tests.updater.packages.universe import release
from tests.updater.power import Power, PowerCut
from tests.updater.publisher import MemoryKeyring, Publisher


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates that tests read and never change."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def publisher(tmp_path: Path, certificates: Path) -> PackagePublisher:
    """An empty repository with the publishers acme and base."""
    return PackagePublisher(tmp_path / "publisher", certificates)


class Only(MemoryKeyring):
    """A keyring that has only the private keys of some roles."""

    def __init__(self, other: MemoryKeyring, *roles: str) -> None:
        """Shares the keys of another."""
        self.keys, self.listed, self.roles = other.keys, other.listed, roles

    def signers(self, role: str) -> Sequence[Signer]:
        """See Keyring."""
        return super().signers(role) if role in self.roles else ()


def on_offer(publisher: Publisher) -> list[tuple[str, str, str]]:
    """Packages with version and publisher."""
    found = listing.packages(publisher.repository)
    return [(item.package, item.version, item.publisher) for item in found]


def role_versions(publisher: Publisher) -> dict[str, int]:
    """The version of every role."""
    return {role.role: role.version for role in listing.roles(publisher.repository)}


def test_a_new_repository_has_a_role_for_each_publisher(publisher: PackagePublisher) -> None:
    assert list(role_versions(publisher)) == [
        "root", "targets", "os", "publisher-acme", "publisher-base", "snapshot", "timestamp",
    ]  # fmt: skip
    targets = metadata.load(publisher.repository).targets.signed
    owners = {
        name: publisher_of(targets, name) for name in ("acme-vpn", "acme", "wireguard", "firewall")
    }
    assert owners == {"acme-vpn": "acme", "acme": "base", "wireguard": "acme", "firewall": "base"}


@pytest.mark.parametrize(
    ("listed", "order"),
    [
        ({"base": ["*"], "acme": ["acme-*"]}, ("acme", "base")),
        ({"b": ["b-*"], "a": ["a-*"]}, ("a", "b")),
        ({"wide": ["ab*", "exact-name"], "narrow": ["abc*"]}, ("narrow", "wide")),
        ({}, ()),
    ],
)
def test_narrow_patterns_come_before_wide_ones(
    listed: dict[str, list[str]], order: tuple[str, ...]
) -> None:
    assert ordered(listed) == order


def test_a_publisher_needs_no_key_of_others(publisher: PackagePublisher) -> None:
    keys = Only(publisher.keys, "publisher-acme", "snapshot", "timestamp")
    (done,) = publisher.offer(manifest("acme-vpn", "1.0"), keys=keys).packages
    assert (done.package, done.publisher) == ("acme-vpn", "acme")
    assert done.new_chunks > 0
    assert on_offer(publisher) == [("acme-vpn", "1.0", "acme")]
    with pytest.raises(TrustError, match=r"cannot sign publisher-base\.json"):
        publisher.offer(manifest("firewall", "1.0", publisher="base"), keys=keys)


def test_a_package_whose_publisher_nobody_knows(publisher: PackagePublisher) -> None:
    file = publisher.opk(manifest("stranger-tool", "1.0", publisher="stranger"))
    with pytest.raises(TrustError, match="cannot sign publisher-stranger"):
        publisher.offer(file)
    publisher.keys.keys["publisher-stranger"] = publisher.keys.keys["os"]
    with pytest.raises(TrustError, match="the name belongs to the publisher base"):
        publisher.offer(file)
    publisher.keys.listed = {"acme": ["acme-*"]}
    publisher.refresh()
    with pytest.raises(TrustError, match="lets no publisher offer it"):
        publisher.offer(file)


def test_images_and_packages_appear_in_one_step(publisher: PackagePublisher) -> None:
    before = role_versions(publisher)
    opk = publisher.opk(manifest("acme-vpn", "1.0"))
    done = publisher.offer(publisher.build("1.0").directory, opk)
    assert [item.version for item in done.images] == ["1.0"]
    assert [item.version for item in done.packages] == ["1.0"]
    changed = {
        role for role, version in role_versions(publisher).items() if version != before[role]
    }
    assert changed == {"os", "publisher-acme", "snapshot", "timestamp"}
    assert role_versions(publisher)["timestamp"] == before["timestamp"] + 1


def test_publishing_again_changes_nothing(publisher: PackagePublisher) -> None:
    file = publisher.opk(manifest("acme-vpn", "1.0"))
    publisher.offer(file)
    (again,) = publisher.offer(file).packages
    assert (again.new_chunks, again.new_bytes) == (0, 0)
    assert on_offer(publisher) == [("acme-vpn", "1.0", "acme")]


def test_a_published_version_never_changes(publisher: PackagePublisher) -> None:
    publisher.offer(manifest("acme-vpn", "1.0"))
    before = role_versions(publisher)
    with pytest.raises(RefusedError, match="is published with another image"):
        publisher.offer(publisher.opk(manifest("acme-vpn", "1.0"), seed="other"))
    assert role_versions(publisher) == before
    publisher.offer(publisher.opk(manifest("acme-vpn", "1.0", architecture="arm64"), seed="other"))


def test_a_package_file_alone_needs_an_intake(publisher: PackagePublisher) -> None:
    file = publisher.opk(manifest("acme-vpn", "1.0"))
    with pytest.raises(ManifestError, match="nothing is prepared for packages"):
        publish(publisher.repository, [file], publisher.keys, reporter=SilentReporter())


def test_what_is_published_says_all_that_the_manifest_says(
    publisher: PackagePublisher, tmp_path: Path
) -> None:
    service = Service("main", ("/usr/bin/x",), Check("active"), state=True, capabilities=("net.x",))
    file = publisher.opk(
        manifest(
            "acme-vpn",
            "1.0",
            kind="feature",
            depends=(Dependency("acme-lib", ">=1"),),
            services=(service,),
            state_version=3,
            migrations=(Migration("main", 2, 3, ("/usr/bin/up",)),),
        )
    )
    publisher.offer(file, manifest("acme-lib", "1.0"))
    (found,) = PackageReader(tmp_path / "device", publisher).releases("acme-vpn")
    assert found.kind == "feature"
    assert [(item.package, item.versions) for item in found.depends] == [("acme-lib", ">=1")]
    assert found.capabilities == ("net.x",)
    assert (found.state_version, found.migrates_from) == (3, (2, 3))
    assert (found.digest, found.built) == (publisher.digest(file), 1_700_000_000)
    assert found.stream.size == len(publisher.image(file))


def stateful(*names: str, migrations: Sequence[Migration], version: int) -> tuple[int, ...]:
    """migrates_from of a package with these services."""
    services = tuple(Service(name, ("/usr/bin/x",), Check("active"), state=True) for name in names)
    return migrates_from(
        manifest("x", "1.0", services=services, migrations=tuple(migrations), state_version=version)
    )


def test_state_is_taken_over_only_where_every_service_has_every_step() -> None:
    def step(service: str, source: int, target: int) -> Migration:
        return Migration(service, source, target, ("/usr/bin/up",))

    assert stateful("a", migrations=[], version=1) == (1,)
    assert stateful(migrations=[], version=4) == (4,)
    assert stateful("a", migrations=[step("a", 1, 2), step("a", 2, 3)], version=3) == (1, 2, 3)
    assert stateful("a", migrations=[step("a", 1, 2)], version=3) == (3,)
    assert stateful("a", migrations=[step("a", 3, 2), step("a", 1, 2)], version=2) == (1, 2, 3)
    assert stateful("a", "b", migrations=[step("a", 1, 2)], version=2) == (2,)


def test_a_package_that_would_depend_on_itself(publisher: PackagePublisher) -> None:
    one = manifest("acme-one", "1.0", depends=(Dependency("acme-two", "*"),))
    two = manifest("acme-two", "1.0", depends=(Dependency("acme-three", "*"),))
    three = manifest("acme-three", "1.0", depends=(Dependency("acme-one", "*"),))
    publisher.offer(one, two)
    with pytest.raises(RefusedError, match="would depend on itself") as caught:
        publisher.offer(three)
    for name in ("acme-one", "acme-two", "acme-three"):
        assert name in caught.value.details
    assert len(on_offer(publisher)) == 2
    # An older version may have depended on it.
    publisher.offer(manifest("acme-one", "1.1"))
    publisher.offer(three)


def test_cycles_are_found_among_newest_versions_only() -> None:
    def offered(**depends: Sequence[tuple[str, str]]) -> dict[str, tuple[PackageRelease, ...]]:
        return {
            name: tuple(release(name, version, *needs.split()) for version, needs in versions)
            for name, versions in depends.items()
        }

    refuse_cycles(offered(a=[("1.0", "b")], b=[("1.0", "c"), ("0.9", "a")], c=[("1.0", "")]))
    refuse_cycles(offered(a=[("1.0", "b c")], b=[("1.0", "d")], c=[("1.0", "d")], d=[]))
    for around in (
        offered(a=[("1.0", "a")]),
        offered(a=[("1.0", "b")], b=[("2.0", "a"), ("1.0", "")]),
        offered(x=[("1", "a")], a=[("1", "b")], b=[("1", "d c")], c=[("1", "a")], d=[("1", "")]),
    ):
        with pytest.raises(RefusedError, match="would depend on itself"):
            refuse_cycles(around)


def test_a_long_chain_is_no_cycle() -> None:
    count = 3000
    refuse_cycles(
        {f"p{n}": (release(f"p{n}", "1", f"p{n + 1}"),) for n in range(count)}
        | {f"p{count}": (release(f"p{count}", "1"),)}
    )


def test_what_nothing_satisfies_is_said(publisher: PackagePublisher) -> None:
    needs = manifest("acme-vpn", "1.0", depends=(Dependency("acme-lib", ">=2"),))
    (warning,) = publisher.offer(needs).warnings
    assert warning.startswith("acme-vpn 1.0 needs acme-lib >=2, which nothing published satisfies")
    assert publisher.offer(manifest("acme-lib", "1.0")).warnings == ()
    assert len(publisher.offer(publisher.opk(needs)).warnings) == 1
    publisher.offer(manifest("acme-lib", "2.1"))
    assert publisher.offer(publisher.opk(needs)).warnings == ()


def test_a_package_inside_an_image_satisfies(publisher: PackagePublisher) -> None:
    image = publisher.build("1.0")
    path = image.directory / "index.json"
    document = json.loads(path.read_bytes())
    document["packages"] = {"routing": "1.2"}
    path.write_text(json.dumps(document))
    publisher.publish(image)
    fits = manifest("acme-vpn", "1.0", depends=(Dependency("routing", ">=1"),))
    assert publisher.offer(fits).warnings == ()
    wants = manifest("acme-vpn", "2.0", depends=(Dependency("routing", ">=2"),))
    assert len(publisher.offer(wants).warnings) == 1


def test_withdrawal(publisher: PackagePublisher) -> None:
    publisher.offer(
        manifest("acme-lib", "1.0"),
        manifest("acme-vpn", "1.0", depends=(Dependency("acme-lib", "*"),)),
    )
    keys = Only(publisher.keys, "publisher-acme", "snapshot", "timestamp")
    done = withdraw(publisher.repository, "acme-lib", "1.0", keys, now=publisher.now)
    assert len(done.warnings) == 1 and "acme-vpn 1.0 needs acme-lib" in done.warnings[0]
    assert on_offer(publisher) == [("acme-vpn", "1.0", "acme")]
    for name, version in (("acme-lib", "1.0"), ("acme-vpn", "9"), ("unheard-of", "1.0")):
        with pytest.raises(RefusedError, match="it is not on offer"):
            withdraw(publisher.repository, name, version, publisher.keys, now=publisher.now)


def test_publication_cut_before_every_durable_step(
    publisher: PackagePublisher, tmp_path: Path
) -> None:
    """Devices see the state before or after, never a mixture; publishing again completes it."""
    publisher.offer(manifest("acme-vpn", "1.0"))
    file = publisher.opk(manifest("acme-vpn", "2.0"))
    untouched = publisher.copy("untouched")
    power = Power(None)
    with pytest.MonkeyPatch.context() as patch:
        power.install(patch)
        publisher.offer(file)
    outcomes = []
    for number, step in enumerate(power.steps):
        publisher.repository = publisher.base / f"cut-{number}"
        untouched.rename(publisher.repository)
        untouched = publisher.copy("untouched")
        with pytest.MonkeyPatch.context() as patch:
            Power(step).install(patch)
            with pytest.raises(PowerCut):
                publisher.offer(file)
        reader = PackageReader(tmp_path / f"device-{number}", publisher)
        seen = [item.version for item in reader.releases("acme-vpn")]
        assert seen in (["1.0"], ["1.0", "2.0"]), step
        outcomes.append(len(seen))
        publisher.offer(file)
        assert [item.version for item in reader.releases("acme-vpn")] == ["1.0", "2.0"]
    assert outcomes == sorted(outcomes), "one commit point"
    assert set(outcomes) == {1, 2}


# Publishers come and go ------------------------------------------------------------------


def test_refresh_adds_and_removes_publishers(publisher: PackagePublisher) -> None:
    publisher.offer(manifest("acme-vpn", "1.0"))
    publisher.keys.keys["publisher-late"] = MemoryKeyring({"late": []}).keys["publisher-late"]
    publisher.keys.listed = {"late": ["late-*"], "base": ["*"]}
    done = publisher.refresh()
    assert set(done.signed) == {"targets", "publisher-late", "snapshot", "timestamp"}
    assert done.warnings == ()
    assert on_offer(publisher) == []
    assert "publisher-acme" not in role_versions(publisher)
    assert set(publisher.refresh().signed) == {"snapshot", "timestamp"}
    # Who comes back goes on where it stopped: devices remember its version.
    publisher.keys.listed = {"acme": ["acme-*"], "base": ["*"]}
    assert publisher.refresh().signed["publisher-acme"] == 3
    assert on_offer(publisher) == []
    publisher.offer(publisher.opk(manifest("acme-vpn", "1.1")))


def test_changed_patterns_keep_what_is_offered(publisher: PackagePublisher) -> None:
    publisher.offer(manifest("acme-vpn", "1.0"), manifest("wireguard", "1.0"))
    publisher.keys.listed = {"acme": ["acme-*"], "base": ["*"]}
    done = publisher.refresh()
    assert set(done.signed) == {"targets", "snapshot", "timestamp"}
    assert on_offer(publisher) == [("acme-vpn", "1.0", "acme")]


def test_refresh_without_the_key_of_targets_only_says_so(publisher: PackagePublisher) -> None:
    publisher.keys.listed = {"base": ["*"]}
    keys = Only(publisher.keys, "snapshot", "timestamp")
    done = refresh(publisher.repository, keys, now=publisher.now)
    assert set(done.signed) == {"snapshot", "timestamp"}
    assert any("the key of targets is not at hand" in text for text in done.warnings)
    assert "publisher-acme" in role_versions(publisher)


def test_keys_without_a_list_leave_publishers_alone(publisher: PackagePublisher) -> None:
    publisher.keys.listed = None
    assert set(publisher.refresh().signed) == {"snapshot", "timestamp"}
    publisher.now += timedelta(days=170)
    assert "publisher-acme" in publisher.refresh().signed


def test_a_new_key_of_a_publisher_is_taken_over(
    publisher: PackagePublisher, tmp_path: Path
) -> None:
    publisher.offer(manifest("acme-vpn", "1.0"))
    reader = PackageReader(tmp_path / "device", publisher)
    assert reader.releases("acme-vpn")
    publisher.keys.keys["publisher-acme"] = MemoryKeyring({"acme": []}).keys["publisher-acme"]
    done = publisher.refresh()
    assert set(done.signed) == {"targets", "publisher-acme", "snapshot", "timestamp"}
    assert [item.version for item in reader.releases("acme-vpn")] == ["1.0"]
    publisher.offer(manifest("acme-vpn", "2.0"))
    assert len(reader.releases("acme-vpn")) == 2


def test_a_new_key_that_is_elsewhere_ends_what_the_stolen_one_offers(
    publisher: PackagePublisher, tmp_path: Path
) -> None:
    publisher.offer(manifest("acme-vpn", "1.0"))
    reader = PackageReader(tmp_path / "device", publisher)
    assert reader.releases("acme-vpn")
    publisher.keys.keys["publisher-acme"] = MemoryKeyring({"acme": []}).keys["publisher-acme"]
    keys = Only(publisher.keys, "targets", "snapshot", "timestamp")
    done = refresh(publisher.repository, keys, now=publisher.now)
    assert any("publisher-acme offers nothing until" in text for text in done.warnings)
    assert on_offer(publisher) == []
    with pytest.raises(TrustError, match="not signed by the right keys"):
        reader.releases("acme-vpn")
    publisher.offer(manifest("acme-vpn", "2.0"))
    assert [item.version for item in reader.releases("acme-vpn")] == ["2.0"]


def test_rotation_of_every_key(publisher: PackagePublisher, tmp_path: Path) -> None:
    publisher.offer(manifest("acme-vpn", "1.0"))
    reader = PackageReader(tmp_path / "device", publisher)
    assert reader.releases("acme-vpn")
    listed = publisher.keys.listed
    done = publisher.refresh(rotate=True, keys=MemoryKeyring(listed))
    assert {"root", "targets", "os", "publisher-acme", "publisher-base"} <= set(done.signed)
    assert [item.version for item in reader.releases("acme-vpn")] == ["1.0"]
    publisher.offer(manifest("acme-vpn", "2.0"))
    assert len(reader.releases("acme-vpn")) == 2


def test_rotation_whose_os_key_cannot_sign_is_refused(publisher: PackagePublisher) -> None:
    new = MemoryKeyring(publisher.keys.listed)
    keys = Only(new, "root", "targets", "snapshot", "timestamp")
    with pytest.raises(TrustError, match="cannot give the role os a new key"):
        refresh(publisher.repository, keys, rotate=True, old_keys=publisher.keys, now=publisher.now)
    assert role_versions(publisher)["root"] == 1


# What images promise to packages ----------------------------------------------------------


def test_interface_of_an_image_is_published(publisher: PackagePublisher) -> None:
    image = publisher.build("1.0")
    promise = OsInterface(1, "gateway", "1.0", "testboard", "x86_64", {}, (), (), {})
    (image.directory / "interface.json").write_bytes(msgspec.json.encode(promise))
    publisher.publish(image)
    reader = PackageReader(publisher.base / "device", publisher)
    with reader.repository() as repository:
        repository.refresh()
        data = repository.target("os/gateway/testboard/1.0/interface.json")
    assert data is not None
    assert msgspec.json.decode(data, type=OsInterface) == promise


@pytest.mark.parametrize("content", [b"{", b"other version"])
def test_interface_of_another_image_is_refused(publisher: PackagePublisher, content: bytes) -> None:
    image = publisher.build("1.0")
    promise = OsInterface(1, "gateway", "9.9", "testboard", "x86_64", {}, (), (), {})
    data = content if content == b"{" else msgspec.json.encode(promise)
    (image.directory / "interface.json").write_bytes(data)
    with pytest.raises(ManifestError, match="cannot publish"):
        publisher.publish(image)
