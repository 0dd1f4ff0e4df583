"""The publisher's commands, seen from python-tuf's own client where a device would look."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import DelegatedRole

from imager.repository import listing, metadata
from imager.repository.create import create
from imager.repository.delegations import OS_PATHS
from imager.repository.refresh import refresh
from imager.repository.roles import Periods
from recovery.errors import ManifestError, OrbitalError, RefusedError, SpaceError, TrustError
from tests.updater.devices import FileDevice
from tests.updater.power import Power, PowerCut
from tests.updater.publisher import MemoryKeyring, Publisher


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """An empty repository and its keys."""
    return Publisher(tmp_path / "publisher")


def device_of(publisher: Publisher, name: str) -> FileDevice:
    """A fresh device that reads the repository."""
    base = publisher.base.parent / name
    return FileDevice(base, publisher.anchor, source=str(publisher.repository))


def versions(publisher: Publisher) -> list[str]:
    """What is on offer, oldest first."""
    return [offer.version for offer in listing.offers(publisher.repository)]


def test_new_repository_offers_nothing_and_is_whole(publisher: Publisher) -> None:
    assert versions(publisher) == []
    state = {role.role: role.version for role in listing.roles(publisher.repository)}
    assert state == {"root": 1, "targets": 1, "os": 1, "snapshot": 1, "timestamp": 1}
    root = metadata.load_root(publisher.repository).signed
    assert (root.roles["root"].threshold, len(root.roles["root"].keyids)) == (2, 3)
    assert root.consistent_snapshot


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("os/gateway/qemu/releases.json", True),
        ("os/gateway/qemu/1.0/index.json", True),
        ("os/gateway/qemu/1.0/sbom.cdx.json", True),
        ("os/gateway/qemu/1.0/extra/index.json", False),
        ("os/gateway/releases.json", False),
        ("packages/acme/router/1.0", False),
        ("index.json", False),
    ],
)
def test_os_role_may_sign_its_own_paths_only(path: str, allowed: bool) -> None:
    role = DelegatedRole("os", ["k"], 1, True, paths=list(OS_PATHS))
    assert role.is_delegated_path(path) == allowed


def test_directory_that_holds_something_is_not_used(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="there is one"):
        create(publisher.repository, publisher.keys, periods=Periods())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(RefusedError, match="not empty"):
        create(tmp_path / "photos", publisher.keys, periods=Periods())


def test_releases_are_listed_in_the_order_of_versions(publisher: Publisher) -> None:
    for version in ("1.10", "1.2", "1.2-rc1"):
        publisher.release(version)
    assert versions(publisher) == ["1.2-rc1", "1.2", "1.10"]


def test_several_images_appear_in_one_step(publisher: Publisher) -> None:
    first, second = publisher.build("1.0"), publisher.build("2.0")
    before = listing.roles(publisher.repository)[-1].version
    publisher.publish(first, second, summary="spring")
    assert listing.roles(publisher.repository)[-1].version == before + 1
    assert {offer.summary for offer in listing.offers(publisher.repository)} == {"spring"}


def test_publishing_again_adds_no_chunk_and_can_add_a_permission(publisher: Publisher) -> None:
    image = publisher.build("1.0")
    (first,) = publisher.publish(image, summary="kept")
    assert first.new_chunks > 0
    (again,) = publisher.publish(image, downgrade_from=["2.0"])
    assert (again.new_chunks, again.new_bytes) == (0, 0)
    (offer,) = listing.offers(publisher.repository)
    assert (offer.summary, offer.downgrade_from) == ("kept", ("2.0",))


def test_published_version_never_changes(publisher: Publisher) -> None:
    publisher.release("1.0")
    other = publisher.build("1.0", data_blocks=90)
    with pytest.raises(RefusedError, match="published with other contents"):
        publisher.publish(other)


@pytest.mark.parametrize("damage", ["chunk missing", "chunk changed", "sbom changed", "no index"])
def test_incomplete_build_is_refused_and_nothing_published(
    publisher: Publisher, damage: str
) -> None:
    image = publisher.build("1.0")
    chunk = next(path for path in (image.directory / "chunks").rglob("*") if path.is_file())
    if damage == "chunk missing":
        chunk.unlink()
    elif damage == "chunk changed":
        chunk.write_bytes(bytes(chunk.stat().st_size))
    elif damage == "sbom changed":
        (image.directory / "sbom.cdx.json").write_bytes(b"{}")
    else:
        (image.directory / "index.json").unlink()
    with pytest.raises(ManifestError, match="cannot publish"):
        publisher.publish(image)
    assert versions(publisher) == []
    assert not list(publisher.repository.rglob("*.tmp"))


def test_full_disk_leaves_the_state_before(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.release("1.0")
    image = publisher.build("2.0")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("recovery.durable.stage_file", full)
        with pytest.raises(SpaceError, match="devices still see the state before"):
            publisher.publish(image)
    assert versions(publisher) == ["1.0"]


def test_two_publishers_at_once(publisher: Publisher) -> None:
    image = publisher.build("1.0")
    with (
        metadata.locked(publisher.repository),
        pytest.raises(RefusedError, match="another publisher is at work"),
    ):
        publisher.publish(image)


def test_publication_cut_before_every_durable_step(publisher: Publisher) -> None:
    """Devices see the state before or after, never a mixture; publishing again completes it."""
    publisher.release("2.0")
    image = publisher.build("3.0")
    base = publisher.repository
    untouched = publisher.copy("untouched")
    power = Power(None)
    with pytest.MonkeyPatch.context() as patch:
        power.install(patch)
        publisher.publish(image)
    committed = False
    for number, step in enumerate(power.steps):
        publisher.repository = publisher.base / f"cut-{number}"
        untouched.rename(publisher.repository)
        untouched = publisher.copy("untouched")
        with pytest.MonkeyPatch.context() as patch:
            Power(step).install(patch)
            with pytest.raises(PowerCut):
                publisher.publish(image)
        seen = versions(publisher)
        assert seen in (["2.0"], ["2.0", "3.0"]), step
        plan = device_of(publisher, f"device-{number}").check().plan
        assert plan is not None
        assert plan.version == seen[-1]
        if seen == ["2.0"]:
            assert not committed, "the commit point was passed twice"
            publisher.publish(image)
        committed = seen != ["2.0"]
        assert versions(publisher) == ["2.0", "3.0"]
    assert committed
    publisher.repository = base


def test_tampered_repository_is_not_published_to(publisher: Publisher) -> None:
    publisher.release("1.0")
    path = publisher.repository / "metadata" / "2.os.json"
    path.write_bytes(path.read_bytes().replace(b'"1.0', b'"6.6'))
    with pytest.raises(TrustError, match="missing or damaged"):
        publisher.release("2.0")


def test_refresh_renews_what_expires_and_leaves_the_rest(publisher: Publisher) -> None:
    publisher.release("1.0")
    first = publisher.refresh()
    assert set(first.signed) == {"snapshot", "timestamp"}
    publisher.now += timedelta(days=170)
    later = publisher.refresh()
    assert set(later.signed) == {"snapshot", "timestamp", "targets", "os"}
    publisher.now += timedelta(days=180)
    last = publisher.refresh()
    assert last.signed["root"] == 2
    assert all(
        role.expires > publisher.now + timedelta(days=10)
        for role in listing.roles(publisher.repository)
    )


class OnlineKeyring(MemoryKeyring):
    """Only snapshot and timestamp can sign; the public keys of all are known."""

    def __init__(self, other: MemoryKeyring) -> None:
        """Shares the keys of another keyring."""
        self.keys, self.listed = other.keys, other.listed

    def signers(self, role: str):  # type: ignore[no-untyped-def]
        """See Keyring."""
        return self.keys[role] if role in ("snapshot", "timestamp") else ()


def test_refresh_with_online_keys_warns_about_the_others(publisher: Publisher) -> None:
    publisher.release("1.0")
    now = publisher.now + timedelta(days=185)
    done = refresh(publisher.repository, OnlineKeyring(publisher.keys), now=now)
    assert set(done.signed) == {"snapshot", "timestamp"}
    text = "\n".join(done.warnings)
    assert "root expires in 180 days" in text
    for role in ("targets", "os"):
        assert f"{role} has expired" in text


def test_refresh_with_foreign_keys_is_refused(publisher: Publisher) -> None:
    with pytest.raises(TrustError, match="is not the one that root names"):
        refresh(publisher.repository, MemoryKeyring())


def test_rotation_without_the_old_root_keys_is_refused(publisher: Publisher) -> None:
    with pytest.raises(TrustError, match="signatures of the old and of the new"):
        refresh(publisher.repository, MemoryKeyring(), rotate=True)
    assert metadata.load_root(publisher.repository).signed.version == 1


def test_rotation_cut_before_every_durable_step_is_completed_by_another_refresh(
    publisher: Publisher,
) -> None:
    publisher.release("2.0")
    untouched = publisher.copy("untouched")
    old, new = publisher.keys, MemoryKeyring()
    power = Power(None)
    with pytest.MonkeyPatch.context() as patch:
        power.install(patch)
        publisher.refresh(rotate=True, keys=new)
    for number, step in enumerate(power.steps):
        publisher.repository = publisher.base / f"cut-{number}"
        untouched.rename(publisher.repository)
        untouched = publisher.copy("untouched")
        publisher.keys = old
        with pytest.MonkeyPatch.context() as patch:
            Power(step).install(patch)
            with pytest.raises(PowerCut):
                publisher.refresh(rotate=True, keys=new)
        publisher.keys = old
        publisher.refresh(rotate=True, keys=new)
        plan = device_of(publisher, f"device-{number}").check().plan
        assert plan is not None
        assert plan.version == "2.0"


def test_missing_repository(tmp_path: Path) -> None:
    with pytest.raises(OrbitalError, match=r"^cannot use"):
        listing.offers(tmp_path)
    with pytest.raises(RefusedError, match="not a repository"):
        refresh(tmp_path, MemoryKeyring())
