"""Tables for the pure parts: choosing, planning, window, policy, versions seen, verity."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from manifests.index import OsIndex, Release, Releases
from recovery.device import DeviceConfig, UpdatePolicy
from recovery.errors import ManifestError, OrbitalError, RefusedError, SpaceError, TrustError
from recovery.state import Quarantine, StateRecord
from tests.updater.images import build_image
from updater import policy, unattended, verity
from updater.index import decode_index
from updater.journal import Journal
from updater.plan import MARGIN, Facts, choose, plan
from updater.seen import Seen, advance
from updater.window import Window, parse

CONFIG = DeviceConfig(
    system="gateway",
    version="2.0",
    board="testboard",
    architecture="x86_64",
    built=0,
    boot_control="systemd-boot",
    boot_partition="esp",
    state="state",
    slots={"a": "root-a", "b": "root-b"},
)


def record(*quarantined: str) -> StateRecord:
    """A quiet device on which these versions have failed."""
    entries = tuple(
        Quarantine(version=version, reason="hung", time=1, generation=1) for version in quarantined
    )
    return StateRecord(next_generation=2, committed=1, quarantined=entries)


def offered(*releases: str | Release) -> Releases:
    """A releases.json for this device."""
    made = tuple(r if isinstance(r, Release) else Release(r) for r in releases)
    return Releases(1, "gateway", "testboard", made)


@pytest.mark.parametrize(
    ("releases", "quarantined", "wanted", "expected"),
    [
        (offered(), (), None, None),
        (offered("1.0", "2.0"), (), None, None),
        (offered("2.1", "2.10", "2.9"), (), None, "2.10"),
        (offered("2.1-rc1"), (), None, "2.1-rc1"),
        (offered("2.0-rc1"), (), None, None),
        (offered("2.1", "2.2"), ("2.2",), None, "2.1"),
        (offered("2.1", "2.2"), ("2.2",), "2.2", "2.2"),
        (offered("2.1", "2.2"), (), "2.1", "2.1"),
        (offered(Release("1.0", downgrade_from=("2.0",))), (), None, None),
        (offered(Release("1.0", downgrade_from=("2.0",))), (), "1.0", "1.0"),
        (offered("2.2"), ("2.2",), None, "it is quarantined"),
        (offered(Release("1.0", downgrade_from=("1.9",))), (), "1.0", "has not permitted it"),
        (offered("2.0"), (), "2.0", "already running"),
        (offered("2.1"), (), "9", "does not offer it"),
        (Releases(1, "router", "testboard", (Release("3"),)), (), None, "they are for router"),
        (Releases(1, "gateway", "other", (Release("3"),)), (), "3", "on other"),
    ],
)
def test_choice(
    releases: Releases, quarantined: tuple[str, ...], wanted: str | None, expected: str | None
) -> None:
    try:
        chosen = choose(releases, CONFIG, record(*quarantined), wanted)
    except RefusedError as error:
        assert expected is not None
        assert expected in error.brief
        return
    assert (chosen.version if chosen else None) == expected


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> OsIndex:
    """The index of a small image."""
    return build_image(tmp_path_factory.mktemp("build") / "b", "2.1").index


def facts(index: OsIndex, *, slot: int = 0, free: int = 0, present: int = 0) -> Facts:
    """A disk on which the image just fits, more or less the given bytes."""
    return Facts(
        slot="b",
        slot_size=index.root.hash_offset + verity.tree_size(index.root.hash_offset) + slot,
        boot_free=index.boot.stream.size + MARGIN + free,
        boot_present=present,
    )


def planned(index: OsIndex, disk: Facts, journal: Journal | None = None) -> list[str]:
    """The kinds of the actions."""
    made = plan(index, index_sha256="aa", version="2.1", config=CONFIG, facts=disk, journal=journal)
    assert all(action.reason for action in made.actions)
    return [action.kind for action in made.actions]


def test_plan_for_an_image_that_just_fits(index: OsIndex) -> None:
    assert planned(index, facts(index)) == [
        "release-slot",
        "fetch-pieces",
        "verify-slot",
        "write-boot-artifact",
        "start-trial",
    ]


@pytest.mark.parametrize(
    ("journal", "keeps"),
    [
        (None, False),
        (Journal("aa", "b", "2.1"), True),
        (Journal("bb", "b", "2.1"), False),
        (Journal("aa", "a", "2.1"), False),
    ],
)
def test_pieces_are_looked_for_only_after_an_interrupted_install_of_the_same_image(
    index: OsIndex, journal: Journal | None, keeps: bool
) -> None:
    assert ("keep-pieces" in planned(index, facts(index), journal)) == keeps


@pytest.mark.parametrize(
    ("slot", "free", "present", "expected"),
    [
        (-1, 0, 0, "slot b is too small"),
        (0, -1, 0, "boot partition is too small"),
        (0, -10, 9, "boot partition is too small"),
        (0, -10, 10, "remove-boot-artifact"),
    ],
)
def test_plan_counts_every_byte(
    index: OsIndex, slot: int, free: int, present: int, expected: str
) -> None:
    disk = facts(index, slot=slot, free=free, present=present)
    try:
        assert expected in planned(index, disk)
    except SpaceError as error:
        assert expected in error.brief


@pytest.mark.parametrize("field", ["system", "board", "architecture", "version"])
def test_plan_for_another_device_is_refused(index: OsIndex, field: str) -> None:
    other = msgspec.structs.replace(index, **{field: "else"})
    with pytest.raises(RefusedError, match=f"its {field} is else"):
        planned(other, facts(index))


BREAKAGES: dict[str, dict[str, object]] = {
    "format": {"format": 2},
    "architecture missing": {"architecture": None},
    "unknown key": {"surprise": 1},
    "root.hash_offset": {"root.hash_offset": 4097},
    "root.hash_offset zero": {"root.hash_offset": 0},
    "root.root_hash": {"root.root_hash": "../../etc/passwd"},
    "root.salt": {"root.salt": "abc"},
    "root.stream.size": {"root.stream.size": 1},
    "root.stream.segment_size": {"root.stream.segment_size": 1 << 30},
    "boot.stream.segment_size": {"boot.stream.segment_size": 0},
    "boot.stream.sha256": {"boot.stream.sha256": "zz"},
    "segment size": {"root.stream.segments.0.size": 1},
    "segment digest": {"root.stream.segments.0.stored_sha256": "../x"},
    "segment too large to store": {"root.stream.segments.0.stored_size": 1 << 40},
    "segments missing": {"root.stream.segments": []},
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_index_that_makes_no_sense(index: OsIndex, breakage: str) -> None:
    document: Any = json.loads(msgspec.json.encode(index))
    decode_index(json.dumps(document).encode())
    for path, value in BREAKAGES[breakage].items():
        *parents, last = path.split(".")
        place = document
        for name in parents:
            place = place[int(name)] if isinstance(place, list) else place[name]
        place[last] = value
    with pytest.raises(ManifestError, match="signed and not valid"):
        decode_index(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("start", "end", "inside", "outside"),
    [
        ("02:00", "04:00", ["02:00", "03:59"], ["01:59", "04:00", "14:00"]),
        ("22:00", "04:00", ["22:00", "23:59", "00:00", "03:59"], ["04:00", "12:00", "21:59"]),
        ("23:59", "00:00", ["23:59"], ["00:00", "23:58"]),
        ("06:00", "06:00", ["05:59", "06:00", "18:00"], []),
    ],
)
def test_window(start: str, end: str, inside: list[str], outside: list[str]) -> None:
    window = parse(start, end)
    assert window is not None
    for text in (*inside, *outside):
        moment = datetime.fromisoformat(f"2026-03-29T{text}:30")
        assert window.contains(moment) == (text in inside), text


def test_no_window_is_any_time() -> None:
    assert parse("", "") is None
    assert str(parse("22:00", "04:00")) == "22:00-04:00"
    assert isinstance(parse("22:00", "04:00"), Window)


@pytest.mark.parametrize("texts", [("", "04:00"), ("22:00", ""), ("24:00", "1:00"), ("x", "y")])
def test_window_that_is_not_one(texts: tuple[str, str]) -> None:
    with pytest.raises(ManifestError, match="cannot use the maintenance window"):
        parse(*texts)


NIGHT = UpdatePolicy(source="http://x", automatic=True, window_start="22:00", window_end="04:00")


@pytest.mark.parametrize(
    ("given", "hour", "expected"),
    [
        (NIGHT, 23, ""),
        (NIGHT, 12, "outside the maintenance window 22:00-04:00"),
        (UpdatePolicy(source="http://x", automatic=True), 12, ""),
        (UpdatePolicy(source="http://x"), 12, "automatic updates are off"),
        (UpdatePolicy(automatic=True), 12, "no update source is configured"),
    ],
)
def test_unattended(given: UpdatePolicy, hour: int, expected: str) -> None:
    assert unattended.reason_to_wait(given, datetime(2026, 1, 1, hour)) == expected


def override(tmp_path: Path, text: str) -> UpdatePolicy:
    """The policy with this text in /etc/orbital/update.json."""
    path = tmp_path / policy.OVERRIDE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return policy.load_policy(CONFIG, tmp_path)


def test_policy_of_the_image_holds_without_a_file(tmp_path: Path) -> None:
    assert policy.load_policy(CONFIG, tmp_path) == CONFIG.update


def test_policy_is_overridden_key_by_key(tmp_path: Path) -> None:
    changed = override(tmp_path, '{"automatic": true, "source": "http://y", "prefer": "time"}')
    assert changed == UpdatePolicy(source="http://y", automatic=True, prefer="time")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"automatic": "yes"}',
        '{"automatik": true}',
        '{"window_start": "22:00"}',
        '{"window_start": "22:00", "window_end": "25:00"}',
        '{"prefer": "speed"}',
    ],
)
def test_policy_with_a_mistake_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError, match=r"^cannot use"):
        override(tmp_path, text)


SEEN = Seen(root=2, timestamp=9, snapshot=5, targets={"os": 4}, online_keys=("k",), time=100)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, ""),
        ({"timestamp": 10, "snapshot": 6, "targets": {"os": 5, "more": 1}, "time": 50}, ""),
        ({"root": 1}, "root"),
        ({"timestamp": 8}, "timestamp"),
        ({"snapshot": 4}, "snapshot"),
        ({"targets": {"os": 3}}, "os"),
        ({"targets": {}}, "os"),
        ({"root": 3, "online_keys": ("new",), "timestamp": 1, "snapshot": 1, "targets": {}}, ""),
        ({"root": 1, "online_keys": ("new",)}, "root"),
    ],
)
def test_versions_seen(changes: dict[str, object], refused: str) -> None:
    new = msgspec.structs.replace(SEEN, **changes)
    try:
        advanced = advance(SEEN, new)
    except TrustError as error:
        assert refused
        assert f"its {refused} metadata is older" in error.brief
        return
    assert not refused
    assert advanced.time == 100
    assert advanced.timestamp == new.timestamp


# Root hashes made by veritysetup 2.7.5 (cryptsetup) from the same data and salt.
VERITYSETUP = {
    2: "2720ecab2bf9377534285bfa7d9eb0e33f9ee815fb54a63857cbd54b2ced0809",
    128: "535be3f2e997022aad24ef5db47de73e859fbf36b84228dd621d34c014f7c90a",
    129: "7fc4b886b69d129b6d0ba39657bfeac61a7abc215f47cd25b0ea0d3a0423f2d7",
    20000: "f3e9c33586d6087720b043560f27b62f386a3d2fcfd43e14e47155163dce1384",
}


@pytest.mark.parametrize("blocks", VERITYSETUP)
def test_root_hash_is_the_one_of_veritysetup(blocks: int) -> None:
    salt = bytes.fromhex("ab" * 32)
    data = hashlib.shake_128(b"x").digest(blocks * verity.BLOCK)
    levels = verity.build_levels(verity.hash_blocks(data, salt), salt)
    assert verity.root_hash(levels, salt).hex() == VERITYSETUP[blocks]
    assert verity.tree_size(len(data)) == verity.BLOCK + sum(map(len, levels))


def test_the_tree_of_a_slot_follows_from_its_data(tmp_path: Path) -> None:
    image = build_image(tmp_path, "1.0", data_blocks=300)
    data = image.index.root.hash_offset
    tree = verity.HashTree(image.index.root)
    for at in (*range(65536, data, 65536), 0):
        tree.add(at, image.root[at : min(at + 65536, data)])
    slot = bytearray(image.root[:data])
    for offset, content in tree.parts():
        assert offset == len(slot)
        slot += content
    assert bytes(slot) == image.root


def test_a_changed_byte_of_a_slot_is_found(tmp_path: Path) -> None:
    image = build_image(tmp_path, "1.0", data_blocks=300)
    slot = bytearray(image.root[: image.index.root.hash_offset])
    slot[12345] ^= 1
    tree = verity.HashTree(image.index.root)
    tree.add(0, slot)
    with pytest.raises(OrbitalError, match="does not hold the signed image"):
        next(tree.parts())


def test_slot_that_was_not_read_back_whole_is_not_accepted(tmp_path: Path) -> None:
    image = build_image(tmp_path, "1.0")
    tree = verity.HashTree(image.index.root)
    tree.add(0, image.root[:65536])
    with pytest.raises(OrbitalError, match="were not read back"):
        next(tree.parts())
