"""A power cut before every durable step of an install: always bootable, always continued."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from recovery.value import replace
from tests.updater.devices import FileDevice
from tests.updater.images import BuiltImage
from tests.updater.power import Power, PowerCut
from tests.updater.publisher import Publisher
from updater import install


@dataclass(frozen=True)
class Cut:
    """What a device looked like when the power came back."""

    at: str
    committed_to_trial: bool
    kept: int


def all_steps(base: Path, publisher: Publisher) -> list[str]:
    """The durable steps of an update that nothing disturbs."""
    device = FileDevice(base / "device", publisher.anchor, source=str(publisher.repository))
    device.check()  # the metadata's own durable steps have their own test
    power = Power(None)
    with pytest.MonkeyPatch.context() as patch:
        power.install(patch)
        device.update()
    return power.steps


def cut_everywhere(
    tmp_path: Path, publisher: Publisher, image: BuiltImage, *, reboot: bool
) -> list[Cut]:
    """Cuts the update of a fresh device before each step in turn; checks each aftermath."""
    cuts: list[Cut] = []
    for number, step in enumerate(all_steps(tmp_path / "undisturbed", publisher)):
        base = tmp_path / f"device-{number}"
        device = FileDevice(base, publisher.anchor, source=str(publisher.repository))
        device.check()
        power = Power(step, (device.device.slots["b"], device.device.staged_artifact("b")))
        with pytest.MonkeyPatch.context() as patch:
            power.install(patch)
            try:
                device.update()
            except PowerCut:
                pass
            else:
                # How many pieces one flush takes in depends on the moment.
                assert step.startswith(("fsync root-b", "fsync b.new"))
                continue
        power.lose_unsynced()
        cuts.append(aftermath(device, image, step, reboot=reboot))
    return cuts


def aftermath(device: FileDevice, image: BuiltImage, at: str, *, reboot: bool) -> Cut:
    """Checks the device after a cut, then lets it continue and checks again."""
    record = device.store.read()
    assert record is not None, f"state lost by a cut before {at}"
    if device.boot_control.active_slot() == "b":
        device.assert_on_trial(image.root, image.boot, "2.0")
        return Cut(at, committed_to_trial=True, kept=0)
    device.assert_unaffected()
    assert not device.boot_control.slot_state("b").bootable
    if reboot:
        # What the next boot does with a trial that was never armed; the
        # decision itself is tested with recovery.
        if record.trial is not None:
            device.store.save(replace(record, trial=None))
        device.reopened()
    outcome = device.update()
    assert outcome.installed is not None
    device.assert_on_trial(image.root, image.boot, "2.0")
    return Cut(at, committed_to_trial=False, kept=outcome.installed.kept)


@pytest.mark.parametrize("reboot", [True, False], ids=["reboot", "killed"])
def test_cut_before_every_durable_step(tmp_path: Path, publisher: Publisher, reboot: bool) -> None:
    image = publisher.release("2.0")
    cuts = cut_everywhere(tmp_path, publisher, image, reboot=reboot)
    steps = [cut.at for cut in cuts]
    # Every arrow of the write order was really cut.
    for name in (
        "install.json",
        "fsync root-b",
        "fsync b.new",
        "rename b.efi",
        "rename 2.json",
        "rename state.json",
        "fsync history.jsonl",
        "rename orbital-b+3.conf",
        "unlink install.json",
    ):
        assert any(name in step for step in steps), f"no cut at {name}: {steps}"
    # One commit point: before it never on trial, after it always.
    first = next(number for number, cut in enumerate(cuts) if cut.committed_to_trial)
    assert steps[first - 1] == "rename orbital-b+3.conf #1"
    assert all(cut.committed_to_trial for cut in cuts[first:])
    # What was flushed before the cut is not fetched again.
    written = image.index.root.stream.size + image.index.boot.stream.size
    assert cuts[first - 1].kept == written


def test_cut_before_every_durable_step_of_the_metadata(
    tmp_path: Path, publisher: Publisher
) -> None:
    publisher.release("2.0")
    undisturbed = FileDevice(
        tmp_path / "device", publisher.anchor, source=str(publisher.repository)
    )
    power = Power(None)
    with pytest.MonkeyPatch.context() as patch:
        power.install(patch)
        undisturbed.check()
    assert "rename seen.json #1" in power.steps
    for number, step in enumerate(power.steps):
        device = FileDevice(
            tmp_path / f"device-{number}", publisher.anchor, source=str(publisher.repository)
        )
        with pytest.MonkeyPatch.context() as patch:
            Power(step).install(patch)
            with pytest.raises(PowerCut):
                device.check()
        assert device.check().plan is not None


def test_a_killed_updater_leaves_no_trial_that_blocks_the_next_one(
    publisher: Publisher, device: FileDevice
) -> None:
    image = publisher.release("2.0")
    with pytest.MonkeyPatch.context() as patch:

        def killed(*_: object) -> None:
            raise PowerCut

        patch.setattr(type(device.boot_control), "set_active", killed)
        with pytest.raises(PowerCut):
            device.update()
    record = device.store.load()
    assert record.trial is not None
    assert install.drop_unarmed_trial(device.device)
    assert device.store.load().trial is None
    assert device.store.history.events()[-1].event == "interrupted"
    device.update()
    device.assert_on_trial(image.root, image.boot, "2.0")
