"""A power cut before every durable step of a repair: the next visits end where one would have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recovery.generations import Generation
from recovery.starts import Starts, wish
from recovery.state import StateRecord
from tests.updater.images import BuiltImage
from tests.updater.power import Power, PowerCut
from tests.updater.publisher import Publisher
from tests.updater.rescue_site import BOOT_SIZE, RescueDevice, build

ASKED = Starts(rescue=True, reason="slot a cannot be opened")
VISITS = 3


@pytest.fixture(params=["systemd-boot", "grub"])
def loader(request: pytest.FixtureRequest) -> str:
    """One whose artifacts are files, one with partitions."""
    name: str = request.param
    return name


@pytest.fixture
def image(publisher: Publisher, loader: str) -> BuiltImage:
    """Version 1.0, published."""
    built = build(publisher, "1.0", loader)
    publisher.publish(built)
    return built


def cut_everywhere(
    tmp_path: Path,
    make: Callable[[Path], RescueDevice],
    check: Callable[[RescueDevice], None],
    record: Starts = ASKED,
) -> list[str]:
    """Cuts the first visit before each step; later ones are left in peace. The steps."""
    device = make(tmp_path / "device")
    power = Power(None)
    with pytest.MonkeyPatch.context() as patch:
        power.install(patch)
        assert device.enter(record).by_itself() is None
    check(device)
    for number, step in enumerate(power.steps):
        device = make(tmp_path / f"device-{number}")
        lossy = (device.path("root-a"), device.path("root-b"))
        cut = Power(step, lossy)
        device.starts.save(record)
        with pytest.MonkeyPatch.context() as patch:
            cut.install(patch)
            try:
                device.enter().by_itself()
            except PowerCut:
                cut.lose_unsynced()
                # What the loader would start now is started; here it never gets healthy.
                for _ in range(VISITS):
                    if finished(device, check):
                        break
                    patch.undo()
                    assert device.enter().by_itself() is None, f"cut before {step}"
        check(device)
    return power.steps


def finished(device: RescueDevice, check: Callable[[RescueDevice], None]) -> bool:
    """Whether nothing is left to be done."""
    try:
        check(device)
    except AssertionError:
        return False
    return True


def test_reinstallation_in_place(
    tmp_path: Path, publisher: Publisher, image: BuiltImage, loader: str
) -> None:
    def make(root: Path) -> RescueDevice:
        device = RescueDevice(root, publisher, image, loader)
        device.rot("root-a", 4096)
        device.artifact("a").write_bytes(b"noise" * (BOOT_SIZE // 5))
        return device

    def check(device: RescueDevice) -> None:
        assert device.holds("a", image)
        assert device.control.active_slot() == "a"
        assert device.store.load().committed == 1
        # None where the cut left the slot whole and its old entry: it starts as ever.
        assert device.starts.load().rescued <= VISITS

    steps = cut_everywhere(tmp_path, make, check)
    assert any("root-a" in step or "vda3" in step for step in steps)


def test_installation_of_a_newer_version(
    tmp_path: Path, publisher: Publisher, image: BuiltImage, loader: str
) -> None:
    newer = build(publisher, "2.0", loader)
    publisher.publish(newer)

    def make(root: Path) -> RescueDevice:
        device = RescueDevice(root, publisher, image, loader)
        device.rot("root-a", 4096)
        # What was committed is offered no more: only something newer is.
        generation = device.store.generations.load(1)
        assert generation is not None
        gone = Generation(
            2, "a", "gateway", "0.8", generation.root_hash, None, 0, "factory", "imager"
        )
        device.store.generations.write(gone)
        device.store.save(StateRecord(next_generation=3, committed=2))
        return device

    def check(device: RescueDevice) -> None:
        record = device.store.load()
        assert record.trial is not None and record.committed == 2
        made = device.store.generations.load(record.trial.generation)
        assert made is not None and (made.version, made.slot, made.parent) == ("2.0", "b", 2)
        assert device.holds("b", newer)
        assert device.control.active_slot() == "b"
        # What cannot start is no way back.
        assert not device.control.slot_state("a").bootable

    steps = cut_everywhere(tmp_path, make, check)
    assert any("state.json" in step for step in steps)


def test_a_start_of_the_other_slot(
    tmp_path: Path, publisher: Publisher, image: BuiltImage, loader: str
) -> None:
    other = build(publisher, "0.9", loader)

    def make(root: Path) -> RescueDevice:
        device = RescueDevice(root, publisher, image, loader)
        device.fill("b", other)
        device.rot("root-a", 4096)
        (device.publisher.repository / "metadata/timestamp.json").unlink(missing_ok=True)
        return device

    def check(device: RescueDevice) -> None:
        assert device.control.active_slot() == "b"
        assert not device.control.slot_state("a").bootable

    cut_everywhere(tmp_path, make, check)


def test_factory_reset(
    tmp_path: Path, publisher: Publisher, image: BuiltImage, loader: str
) -> None:
    def make(root: Path) -> RescueDevice:
        device = RescueDevice(root, publisher, image, loader)
        state = root / "state"
        for path in ("orbital/etc/1/upper/hostname", "orbital/layers/probe/1/schema", "var/data"):
            (state / path).parent.mkdir(parents=True, exist_ok=True)
            (state / path).write_text("mine\n")
        return device

    def check(device: RescueDevice) -> None:
        record, state = device.store.load(), device.root / "state"
        made = device.store.generations.load(record.committed)
        assert made is not None and made.parent is None and made.packages == ()
        assert (made.version, made.slot, made.root_hash) == (
            "1.0",
            "a",
            image.index.root.root_hash,
        )
        assert record.committed > 1 and record.trial is None
        assert not (state / "orbital/etc").exists()
        assert not (state / "orbital/layers").exists()
        assert (state / "var/data").read_text() == "mine\n"
        assert device.control.slot_state("a").successful
        assert device.starts.load().action == ""

    from recovery.value import replace

    record = replace(wish(Starts(), "anna", ""), action="reset")
    steps = cut_everywhere(tmp_path, make, check, record)
    assert any("state.json" in step for step in steps)
