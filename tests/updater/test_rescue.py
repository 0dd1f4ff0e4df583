"""Visits of the rescue system on real files: what is damaged, what comes back, and power cuts."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from manifests.index import Segment
from recovery.generations import Generation, PackageEntry
from recovery.rescue.decide import Wait
from recovery.slots import SlotState
from recovery.starts import Starts, wish
from recovery.state import Attempt, Quarantine, StateRecord, Trial
from recovery.value import replace
from tests.updater.images import SEGMENT, BuiltImage, content
from tests.updater.publisher import Publisher
from tests.updater.rescue_site import BOOT_SIZE, LOADERS, RescueDevice, build
from updater import transfer
from updater.source import Source

COUNTED = SlotState(bootable=True, successful=False, tries_left=3)
NO_ENTRY = SlotState(bootable=False, successful=False, tries_left=None)


@pytest.fixture(params=tuple(LOADERS))
def loader(request: pytest.FixtureRequest) -> str:
    """Each kind of boot loader that rescue repairs."""
    name: str = request.param
    return name


@pytest.fixture
def image(publisher: Publisher, loader: str) -> BuiltImage:
    """Version 1.0, published."""
    built = build(publisher, "1.0", loader)
    publisher.publish(built)
    return built


@pytest.fixture
def device(tmp_path: Path, publisher: Publisher, image: BuiltImage, loader: str) -> RescueDevice:
    """A device whose loader had nothing left to start."""
    return RescueDevice(tmp_path / "device", publisher, image, loader)


def restarts(device: RescueDevice, record: Starts | None = None) -> str:
    """One visit that ends in a restart; what it said."""
    course = device.enter(record)
    waits = course.by_itself()
    assert waits is None, (waits, course.problems)
    return device.said(course)


def asked(reason: str = "slot a cannot be opened") -> Starts:
    """The initramfs of a slot asked for rescue."""
    return Starts(rescue=True, asked=1, reason=reason, image="ab" * 16, starts=4)


def second_image(device: RescueDevice, version: str = "2.0") -> BuiltImage:
    """Another version, published."""
    built = build(device.publisher, version, device.loader)
    device.publisher.publish(built)
    return built


def put_beside(device: RescueDevice, image: BuiltImage, version: str) -> None:
    """The image in slot b, as the generation before the committed one."""
    device.fill("b", image)
    device.store.generations.write(
        Generation(2, "b", "gateway", version, image.index.root.root_hash, 1, 0, "update", "timer")
    )
    device.store.save(StateRecord(next_generation=3, committed=1, previous=2))


def test_both_slots_are_noise_and_the_committed_version_comes_back_in_place(
    device: RescueDevice, image: BuiltImage
) -> None:
    before = device.store.load()
    device.rot_all("a")
    device.rot_all("b")
    restarts(device, asked())
    assert device.holds("a", image)
    assert device.control.active_slot() == "a"
    assert device.control.slot_state("a") == COUNTED
    # The same generation: its /etc and its packages are where they were.
    assert device.store.load() == before
    assert device.starts.load() == Starts(rescued=1)


def test_one_segment_at_a_time_is_in_memory(
    device: RescueDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = []
    fetch = transfer.fetch_segment

    def noted(source: Source, segment: Segment, into: memoryview) -> memoryview:
        workers.append([t.name for t in threading.enumerate() if t.name.startswith("transfer-")])
        return fetch(source, segment, into)

    monkeypatch.setattr(transfer, "fetch_segment", noted)
    device.rot_all("a")
    restarts(device, asked())
    assert len(workers) > 1
    assert {len(names) for names in workers} == {1}


def test_only_what_is_damaged_is_fetched(device: RescueDevice, image: BuiltImage) -> None:
    device.rot("root-a", 5 * 4096)
    course = device.enter(asked())
    assert course.by_itself() is None
    assert device.holds("a", image)
    stored = image.index.root.stream.segments[5 * 4096 // SEGMENT].stored_size
    assert f" {stored} bytes fetched" in device.said(course)


def test_a_damaged_committed_slot_gives_way_to_a_whole_other_one(device: RescueDevice) -> None:
    other = build(device.publisher, "0.9", device.loader)
    put_beside(device, other, "0.9")
    device.rot("root-a", 0)
    restarts(device, asked())
    assert device.control.active_slot() == "b"
    assert device.control.slot_state("b") == COUNTED
    # Else the other one would see a committed slot that can start, and give way to it.
    assert device.control.slot_state("a") == NO_ENTRY


def test_the_visits_go_on_from_slot_to_slot_and_then_to_a_newer_version(
    device: RescueDevice,
) -> None:
    put_beside(device, build(device.publisher, "0.9", device.loader), "0.9")
    newer = second_image(device)
    restarts(device, asked())
    assert device.control.active_slot() == "a"
    restarts(device)
    assert device.control.active_slot() == "b"
    assert device.starts.load().rescued == 2
    restarts(device)
    # Both are whole and do not become healthy: only something newer may help.
    assert device.holds("b", newer)
    record = device.store.load()
    assert record.trial is not None and record.committed == 1
    made = device.store.generations.load(record.trial.generation)
    assert made is not None and (made.version, made.slot, made.parent) == ("2.0", "b", 1)
    assert device.control.active_slot() == "b"


def rot_artifact(device: RescueDevice, offset: int) -> None:
    """Changes three bytes of slot a's boot artifact."""
    with device.artifact("a").open("r+b") as file:
        file.seek(offset)
        found = file.read(3)
        file.seek(offset)
        file.write(bytes(byte ^ 0xFF for byte in found))


@pytest.mark.parametrize("offset", [0, 50_000])
def test_rot_in_a_boot_artifact_is_repaired_at_once(
    device: RescueDevice, image: BuiltImage, offset: int
) -> None:
    rot_artifact(device, offset)
    assert "boot artifact" in device.course().site.content("a").damage
    restarts(device, asked())
    assert device.holds("a", image)
    assert device.control.slot_state("a") == COUNTED


def test_a_damaged_boot_artifact_gives_way_to_a_whole_other_slot(device: RescueDevice) -> None:
    put_beside(device, build(device.publisher, "0.9", device.loader), "0.9")
    rot_artifact(device, 50_000)
    restarts(device, asked())
    assert device.control.active_slot() == "b"


@pytest.mark.parametrize("loader", ["systemd-boot", "grub"], indirect=True)
def test_rot_in_a_boot_artifact_without_hash_is_repaired_at_the_next_visit(
    device: RescueDevice,
) -> None:
    older = build(device.publisher, "0.9", device.loader, hashed=False)
    device.publisher.publish(older)
    device.fill("a", older)
    known = device.store.generations.load(1)
    assert known is not None
    root_hash = older.index.root.root_hash
    device.store.generations.write(replace(known, number=2, version="0.9", root_hash=root_hash))
    device.store.save(StateRecord(next_generation=3, committed=2))
    rot_artifact(device, 50_000)
    said = restarts(device, asked())
    assert "cannot be checked further" in said
    assert device.control.active_slot() == "a" and not device.holds("a", older)
    restarts(device)
    assert device.holds("a", older)
    assert device.control.slot_state("a") == COUNTED


@pytest.mark.parametrize("loader", ["systemd-boot"], indirect=True)
def test_under_secure_boot_an_unsigned_boot_artifact_is_damage(device: RescueDevice) -> None:
    device.fill("a", build(device.publisher, "0.9", device.loader, hashed=False))
    assert device.course().site.content("a").whole
    variables = device.root / "sys/firmware/efi/efivars"
    variables.mkdir(parents=True)
    name = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    (variables / name).write_bytes(b"\6\0\0\0\1")
    assert "not signed" in device.course().site.content("a").damage


def test_without_any_record_the_newest_version_is_installed(device: RescueDevice) -> None:
    newer = second_image(device)
    device.rot_all("a")
    device.store.path.unlink()
    for path in (device.store.root / "generations").iterdir():
        path.unlink()
    restarts(device, asked())
    assert device.holds("a", newer)
    assert device.control.active_slot() == "a"
    assert device.store.read() is None


def test_a_lost_loader_record_is_made_again(device: RescueDevice, image: BuiltImage) -> None:
    if device.loader == "systemd-boot":
        for path in (device.root / "run/orbital/boot/loader/entries").iterdir():
            path.unlink()
    else:
        device.rot("environment", 0, 70_000)
    restarts(device)
    assert device.control.active_slot() == "a"
    assert device.control.slot_state("a") == COUNTED
    assert device.holds("a", image)


def test_a_version_that_failed_here_is_neither_started_nor_installed(device: RescueDevice) -> None:
    bad = second_image(device)
    device.fill("b", bad)
    device.store.generations.write(
        Generation(2, "b", "gateway", "2.0", bad.index.root.root_hash, 1, 0, "update", "timer")
    )
    quarantine = Quarantine("2.0", "it never came up", 0, 2)
    device.store.save(StateRecord(next_generation=3, committed=1, quarantined=(quarantine,)))
    device.rot_all("a")
    restarts(device, asked())
    assert device.control.active_slot() == "a"
    # Started twice in vain, and nothing is damaged: 2.0 is not tried all the same.
    course = device.enter(Starts(rescued=2))
    assert course.by_itself() is None
    assert device.control.active_slot() == "a"
    assert "no version that could help" in "\n".join(course.problems)


@pytest.mark.parametrize(("tried", "starts"), [(1, "b"), (3, "a")])
def test_only_a_trial_that_used_up_its_tries_is_not_started_again(
    device: RescueDevice, tried: int, starts: str
) -> None:
    """The model check found the first: a power cut in a trial is no failure of it."""
    new = build(device.publisher, "2.0", device.loader)
    put_beside(device, new, "2.0")
    attempts = tuple(Attempt(f"boot-{n}", "early", "", 0) for n in range(tried))
    device.store.save(
        StateRecord(next_generation=3, committed=1, trial=Trial(2, 3, "boot-1", attempts))
    )
    device.rot_all("a")
    restarts(device, asked())
    assert device.control.active_slot() == starts


def test_nothing_left_says_what_a_person_must_bring(device: RescueDevice) -> None:
    device.rot_all("a")
    timestamp = device.publisher.repository / "metadata/timestamp.json"
    timestamp.write_bytes(timestamp.read_bytes().replace(b'"version": 2', b'"version": 9'))
    timestamp.write_bytes(timestamp.read_bytes()[:-40])
    course = device.enter(asked())
    waits = course.by_itself()
    assert isinstance(waits, Wait) and waits.retry
    assert "cannot trust" in "\n".join(course.problems)
    brought = course.what_to_bring()
    for word in ("gateway", "testboard", "metadata/", str(device.publisher.repository)):
        assert word in brought
    # Nothing was started, so nothing is counted.
    assert device.starts.load().rescued == 0


def test_a_stick_that_appears_while_the_network_is_asked_is_used(
    device: RescueDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the kernel seconds; found by the scenario in which a person types 2 at once."""
    stick = device.root / "run/orbital/stick/sda1"
    seen = iter([(), (stick,)])
    monkeypatch.setattr("recovery.rescue.sticks.repositories", lambda *_: next(seen))
    names = [name for name, _ in device.course().sources()]
    assert names == [device.config().update.source, str(stick)]
    monkeypatch.setattr("recovery.rescue.sticks.repositories", lambda *_: (stick,))
    names = [name for name, _ in device.course().sources()]
    assert names == [str(stick), device.config().update.source]


def test_six_starts_in_vain_and_rescue_stops(device: RescueDevice) -> None:
    course = device.enter(Starts(rescued=6))
    waits = course.by_itself()
    assert waits is not None and not waits.retry
    assert device.control.slot_state("a").successful


def test_a_trial_that_waits_is_taken_back_before_another_version_is_installed(
    device: RescueDevice,
) -> None:
    waiting = build(device.publisher, "2.0", device.loader)
    newest = second_image(device, "3.0")
    put_beside(device, waiting, "2.0")
    device.control.set_active("b", 3)
    device.store.save(StateRecord(next_generation=3, committed=1, trial=Trial(2, 3, "boot-1")))
    course = device.enter(wish(Starts(), "anna", ""))
    done = course.reinstall(str(device.publisher.repository), insist=True, slot="b")
    assert (done.version, done.slot, done.generation) == ("3.0", "b", 3)
    assert device.holds("b", newest)
    record = device.store.load()
    assert record.trial is not None and record.trial.generation == 3
    told = [(event.event, event.to_version) for event in device.store.history.events()]
    assert told == [("interrupted", "2.0"), ("installed", "3.0")]
    # The committed slot is whole and stays the way back; a start by hand is not counted.
    assert device.control.slot_state("a").successful
    assert device.starts.load().rescued == 0


def commit_for_the_loader_only(device: RescueDevice) -> BuiltImage:
    """Version 2.0 in slot b is committed, and the power is cut before the record says so."""
    tried = second_image(device)
    device.fill("b", tried)
    device.store.generations.write(
        Generation(2, "b", "gateway", "2.0", tried.index.root.root_hash, 1, 0, "update", "timer")
    )
    healthy = Attempt("boot", "health", "", 0)
    trial = Trial(generation=2, tries=3, armed_boot="past", attempts=(healthy,))
    device.store.save(StateRecord(next_generation=3, committed=1, trial=trial))
    device.control.set_active("b", 3)
    device.control.mark_successful("b")
    return tried


def test_what_the_loader_has_committed_is_started_though_its_record_says_a_trial(
    device: RescueDevice,
) -> None:
    """The model check found it: the other slot had rotted, and rescue took the attempts of the
    trial for a failure."""
    commit_for_the_loader_only(device)
    device.rot_all("a")
    shutil.rmtree(device.publisher.repository)
    course = device.enter(asked())
    assert course.site.diagnose().behind
    assert course.by_itself() is None
    assert device.control.active_slot() == "b"
    record = device.store.load()
    assert (record.committed, record.trial) == (2, None)


def test_what_the_loader_has_committed_is_not_overwritten(device: RescueDevice) -> None:
    """The model check found it: the power was cut between the loader's commit and the record's,
    and the slot that the record still calls the other one holds what is committed."""
    tried = commit_for_the_loader_only(device)
    newer = second_image(device, "3.0")
    restarts(device, replace(asked(), rescued=2))
    record = device.store.load()
    committed = device.store.generations.load(record.committed)
    assert committed is not None and (committed.version, committed.slot) == ("2.0", "b")
    assert device.holds("b", tried)
    assert device.holds("a", newer)
    assert record.trial is not None and device.control.active_slot() == "a"
    assert device.control.slot_state("b").successful


def test_packages_and_configuration_go_along_with_a_newer_version(device: RescueDevice) -> None:
    second_image(device)
    entry = PackageEntry("probe", "1.2", "feature", "cd" * 32, 3000, 1, 0, 0)
    committed = device.store.generations.load(1)
    assert committed is not None
    # Generation 4: as 1, with a package.
    with_package = replace(committed, number=4, parent=1, origin="package", packages=(entry,))
    device.store.generations.write(with_package)
    device.store.save(StateRecord(next_generation=5, committed=4))
    device.rot_all("a")
    course = device.enter(asked())
    done = course.reinstall(str(device.publisher.repository), slot="b")
    made = device.store.generations.load(done.generation)
    assert made is not None and made.parent == 4
    assert made.packages == (replace(entry, state=made.number),)


@pytest.mark.parametrize("loader", ["systemd-boot"], indirect=True)
def test_what_cannot_be_counted_is_not_started_by_itself(device: RescueDevice) -> None:
    """Else a slot that never becomes healthy and rescue might start each other for ever."""
    (device.root / "sys/class/block/vda1/uevent").write_text("PARTNAME=other\n")
    device.rot("root-a", 0)
    course = device.enter()
    assert isinstance(course.by_itself(), Wait)
    assert "cannot count this start" in "\n".join(course.problems)
    course.start("a", counted=False)
    assert device.control.slot_state("a") == COUNTED


def test_a_person_who_asked_is_waited_for_and_nothing_is_done(device: RescueDevice) -> None:
    device.rot_all("a")
    course = device.enter(wish(Starts(), "anna", "to look"))
    before = device.path("root-a").read_bytes()
    assert course.by_itself() == Wait("a person asked for rescue", retry=False)
    assert device.path("root-a").read_bytes() == before
    # An ordinary start is next, if the power is cut now.
    assert not device.starts.load().rescue
    # Nobody came: it goes on.
    course.site.forget_person()
    assert course.by_itself() is None
    assert device.control.slot_state("a") == COUNTED


def test_a_visit_that_repaired_something_is_not_taken_for_a_person_s(
    device: RescueDevice, image: BuiltImage
) -> None:
    """The loader fell back to rescue and told no reason; what was damaged is whole again."""
    if device.loader == "systemd-boot":
        # All of the artifact had been written when the power was cut, under its other name.
        device.artifact("a").with_suffix(".new").write_bytes(image.boot)
    device.artifact("a").write_bytes(content("noise", BOOT_SIZE))
    restarts(device, Starts())
    assert device.holds("a", image)
    assert device.control.slot_state("a") == COUNTED


def test_a_menu_entry_or_button_on_a_whole_device_waits_for_the_person(
    device: RescueDevice,
) -> None:
    course = device.enter(Starts())
    assert isinstance(course.by_itself(), Wait)
    assert device.control.slot_state("a").successful


@pytest.mark.parametrize("action", ["reset", "erase"])
def test_a_wish_that_cannot_be_fulfilled_is_told_to_the_person(
    device: RescueDevice, action: str
) -> None:
    record = replace(wish(Starts(), "anna", ""), action=action)
    if action == "reset":
        (device.root / "state/orbital/generations/2.json").mkdir()
    course = device.enter(record)
    assert isinstance(course.by_itself(), Wait)
    assert course.problems
    # It stays open: the person who asked is asked again after a restart.
    assert device.starts.load().action == action
