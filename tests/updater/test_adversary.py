"""Repositories and mirrors that lie: each is refused in plain words, with nothing changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from imager.repository.roles import Periods
from recovery.errors import FetchError, ManifestError, OrbitalError, RefusedError, TrustError
from tests.updater.devices import FileDevice
from tests.updater.publisher import MemoryKeyring, Publisher

ROLES = ("timestamp", "snapshot", "targets", "os")


def refused(
    device: FileDevice, error: type[OrbitalError], words: str, source: Path | None = None
) -> OrbitalError:
    """Runs an update that must fail before anything is changed; returns its error."""
    before = device.snapshot()
    with pytest.raises(error) as caught:
        device.update(source=str(source) if source else None)
    assert caught.value.brief.startswith("cannot ")
    assert words in str(caught.value)
    assert device.snapshot() == before
    device.assert_unaffected()
    return caught.value


def newest(repository: Path, role: str) -> Path:
    """The newest metadata file of a role."""
    if role == "timestamp":
        return repository / "metadata" / "timestamp.json"
    numbered = (repository / "metadata").glob(f"*.{role}.json")
    return max(numbered, key=lambda path: int(path.name.split(".")[0]))


def edit(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Changes the signed part of metadata and keeps its signatures."""
    document = json.loads(path.read_bytes())
    change(document["signed"])
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("role", ROLES)
def test_metadata_changed_after_signing(
    publisher: Publisher, device: FileDevice, role: str
) -> None:
    publisher.release("2.0")
    edit(newest(publisher.repository, role), lambda signed: signed.update(x="added"))
    words = "not signed by the right keys" if role == "timestamp" else "not the one that was signed"
    refused(device, TrustError, words)


@pytest.mark.parametrize("role", ROLES)
def test_metadata_that_is_not_json(publisher: Publisher, device: FileDevice, role: str) -> None:
    publisher.release("2.0")
    newest(publisher.repository, role).write_bytes(b"<html>welcome to the hotel</html>")
    refused(device, TrustError, "cannot trust")


@pytest.mark.parametrize("role", ROLES)
def test_metadata_that_is_missing(publisher: Publisher, device: FileDevice, role: str) -> None:
    publisher.release("2.0")
    newest(publisher.repository, role).unlink()
    refused(device, FetchError, "a file is missing")


def test_metadata_that_never_ends(publisher: Publisher, device: FileDevice) -> None:
    publisher.release("2.0")
    with newest(publisher.repository, "timestamp").open("ab") as file:
        file.write(b" " * 100_000)
    refused(device, TrustError, "longer than it may be")


def test_repository_of_somebody_else(device: FileDevice, tmp_path: Path) -> None:
    other = Publisher(tmp_path / "other")
    other.release("2.0")
    refused(device, TrustError, "not signed by the right keys", other.repository)


def test_somebody_else_signs_the_os_role(publisher: Publisher, device: FileDevice) -> None:
    publisher.release("2.0")
    publisher.keys.keys["os"] = MemoryKeyring().keys["os"]
    with pytest.raises(TrustError, match="the key of role os is not the one"):
        publisher.release("3.0")
    assert device.update().installed is not None


def test_root_rotated_by_too_few_keys(publisher: Publisher, device: FileDevice) -> None:
    publisher.release("2.0")
    path = publisher.repository / "metadata"
    document = json.loads((path / "1.root.json").read_bytes())
    document["signed"]["version"] = 2
    (path / "2.root.json").write_text(json.dumps(document))
    refused(device, TrustError, "not signed by the right keys")


@pytest.mark.parametrize(
    ("role", "periods"),
    [
        ("timestamp", Periods(timestamp=1)),
        ("snapshot", Periods(snapshot=1)),
        ("targets", Periods(targets=1)),
        ("os", Periods(os=1)),
        ("root", Periods(root=1)),
    ],
)
def test_expired_metadata(tmp_path: Path, role: str, periods: Periods) -> None:
    publisher = Publisher(tmp_path / "publisher", periods)
    publisher.release("2.0")
    device = FileDevice(tmp_path / "device", publisher.anchor, source=str(publisher.repository))
    device.clock += timedelta(days=2).total_seconds()
    error = refused(device, TrustError, "its metadata has expired")
    assert role in error.details
    assert "orbital repository refresh" in error.resolution


def test_a_refresh_makes_expired_metadata_good_again(
    publisher: Publisher, device: FileDevice
) -> None:
    image = publisher.release("2.0")
    device.clock += timedelta(days=100).total_seconds()
    refused(device, TrustError, "its metadata has expired")
    publisher.now += timedelta(days=100)
    publisher.refresh()
    device.update()
    device.assert_on_trial(image.root, image.boot, "2.0")


def test_clock_without_battery_accepts_what_was_valid_at_build_time(
    publisher: Publisher, device: FileDevice
) -> None:
    publisher.release("2.0")
    device.clock = 0
    assert device.check().plan is not None


def test_clock_set_back_does_not_revive_expired_metadata(
    publisher: Publisher, device: FileDevice
) -> None:
    old = publisher.copy("old")
    publisher.now += timedelta(days=100)
    publisher.release("2.0")
    device.clock += timedelta(days=100).total_seconds()
    device.check()
    device.clock = 0
    shutil.rmtree(device.store.root / "tuf" / "cache", ignore_errors=True)
    error = refused(device, TrustError, "cannot trust", old)
    assert "expired" in str(error) or "older" in str(error)


@pytest.mark.parametrize("lost", ["nothing", "cache", "torn"])
def test_replay_of_an_older_state(publisher: Publisher, device: FileDevice, lost: str) -> None:
    old = publisher.copy("old")
    publisher.release("2.0")
    device.check()
    for path in (device.store.root / "tuf").iterdir():
        if path.name != "seen.json" and lost != "nothing":
            path.unlink() if lost == "cache" else path.write_bytes(path.read_bytes()[:100])
    refused(device, TrustError, "older than what this device has seen", old)


def test_replay_of_old_targets_under_a_new_timestamp_is_mix_and_match(
    publisher: Publisher, device: FileDevice
) -> None:
    publisher.release("2.0")
    old = publisher.copy("old")
    publisher.release("3.0")
    for role in ("os", "snapshot"):
        name = newest(publisher.repository, role).name
        shutil.copy(newest(old, role), publisher.repository / "metadata" / name)
    refused(device, TrustError, "not the one that was signed")


def test_new_root_hidden_from_a_device_that_knows_it(
    publisher: Publisher, device: FileDevice
) -> None:
    publisher.release("2.0")
    old = publisher.copy("old")
    publisher.refresh(rotate=True, keys=MemoryKeyring())
    device.check()
    refused(device, TrustError, "root metadata is older", old)


def test_rotation_lets_versions_start_again_after_stolen_online_keys(
    publisher: Publisher, device: FileDevice
) -> None:
    from tuf.api.metadata import Metadata

    from imager.repository import metadata

    publisher.release("1.5")
    path = publisher.repository / "metadata" / "timestamp.json"
    stolen = Metadata.from_bytes(path.read_bytes())
    stolen.signed.version = 1_000_000
    metadata.sign(stolen, publisher.keys.signers("timestamp"))
    evil = publisher.copy("evil")
    (evil / "metadata" / "timestamp.json").write_bytes(stolen.to_bytes())
    device.check(source=str(evil))
    refused(device, TrustError, "older than what this device has seen")
    publisher.refresh(rotate=True, keys=MemoryKeyring())
    image = publisher.release("2.0")
    device.update()
    device.assert_on_trial(image.root, image.boot, "2.0")


def test_damaged_record_of_versions_is_reported(publisher: Publisher, device: FileDevice) -> None:
    publisher.release("2.0")
    device.check()
    (device.store.root / "tuf" / "seen.json").write_bytes(b"{")
    refused(device, OrbitalError, "damaged")


def test_tampered_index(publisher: Publisher, device: FileDevice) -> None:
    publisher.release("2.0")
    (path,) = (publisher.repository / "targets").rglob("2.0/*.index.json")
    path.write_bytes(path.read_bytes().replace(b'"x86_64"', b'"x86_65"'))
    refused(device, TrustError, "not the one that was signed")


def test_index_that_is_signed_and_makes_no_sense(publisher: Publisher, device: FileDevice) -> None:
    image = publisher.build("2.0")
    path = image.directory / "index.json"
    document = json.loads(path.read_bytes())
    document["root"]["stream"]["size"] += 4096
    path.write_text(json.dumps(document))
    publisher.publish(image)
    refused(device, ManifestError, "signed and not valid")


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("system", "has nothing for system"),
        ("board", "has nothing for system"),
        ("architecture", "its architecture is x86_64"),
    ],
)
def test_image_for_another_device(
    publisher: Publisher, tmp_path: Path, field: str, words: str
) -> None:
    publisher.release("2.0")
    device = FileDevice(
        tmp_path / "other",
        publisher.anchor,
        source=str(publisher.repository),
        system="else" if field == "system" else "gateway",
        board="else" if field == "board" else "testboard",
        architecture="else" if field == "architecture" else "x86_64",
    )
    refused(device, RefusedError, words)


def test_downgrade_without_permission(publisher: Publisher, device: FileDevice) -> None:
    publisher.release("0.9", downgrade_from=["5.0"])
    assert device.update().installed is None
    before = device.snapshot()
    with pytest.raises(RefusedError, match="the publisher has not permitted it"):
        device.update(to="0.9")
    assert device.snapshot() == before


def test_downgrade_with_signed_permission(publisher: Publisher, device: FileDevice) -> None:
    image = publisher.release("0.9", downgrade_from=["1.0"])
    assert device.update().installed is None, "a permission is not an invitation"
    device.update(to="0.9")
    device.assert_on_trial(image.root, image.boot, "0.9")


def test_version_that_is_not_on_offer(publisher: Publisher, device: FileDevice) -> None:
    publisher.release("2.0")
    before = device.snapshot()
    with pytest.raises(RefusedError, match="does not offer it"):
        device.update(to="7.0")
    with pytest.raises(RefusedError, match="already running"):
        device.update(to="1.0")
    assert device.snapshot() == before
