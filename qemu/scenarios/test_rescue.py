"""The rescue system on a device of which little is left, from the artifacts that ship.

One telling scenario for each board in CI; the others are the campaign's (`-m campaign`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from imager.signing import load_pe_signer
from qemu.lab import BUILT
from qemu.scenarios.rescuing import (
    BOARDS,
    ENTERED,
    MENU,
    MIB,
    RESCUE_SECONDS,
    SECRET,
    Bench,
)
from recovery.bootcontrol.loads import limit
from recovery.starts import MOST_UNFINISHED, Starts

pytestmark = pytest.mark.boot

Make = Callable[..., Bench]
every_board = pytest.mark.parametrize("bench", BOARDS, indirect=True)
uefi = pytest.mark.parametrize("bench", BOARDS[:1], indirect=True)


@every_board
def test_a_device_of_which_only_rescue_is_left_comes_back_by_itself(bench: Make) -> None:
    """Slots, state, and what starts them are noise; the network has the image."""
    rescued = bench(settled=False)
    # U-Boot's script is the board's: where it is lost nothing starts any more.
    rescued.damage(rescued.station.boot_label, "root-a", "state")
    rescued.machine.start()
    rescued.machine.wait_console(ENTERED, RESCUE_SECONDS)
    status = rescued.back().status()
    assert (status["version"], status["committed"]) == (rescued.station.lab.version, True)
    assert rescued.machine.console.search("installed") is not None


@pytest.mark.campaign
@every_board
def test_a_wish_starts_rescue_once(bench: Make) -> None:
    wished = bench(settled=True)
    wished.machine.start()
    wished.back().orbital("system", "rescue", "--reason", "a look around", check=False)
    wished.wait_entered("a look around")
    wished.machine.wait_console(MENU, RESCUE_SECONDS)
    wished.type("8")
    assert wished.back().status()["slot"] == "a"


@pytest.mark.campaign
@every_board
def test_a_factory_reset_makes_etc_new_and_keeps_slot_and_data(bench: Make) -> None:
    reset = bench(settled=True)
    reset.ask("", "reset")
    reset.machine.start()
    reset.machine.wait_console("orbital: rescue: reset: generation", RESCUE_SECONDS)
    device = reset.back()
    assert reset.machine.run("test -e /etc/owner", check=False).returncode == 1
    assert reset.machine.run("head -n 1 /var/lib/secret").output.strip() == SECRET
    assert device.status()["version"] == reset.station.lab.version
    assert [event["event"] for event in device.history()].count("reset") == 1


@pytest.mark.campaign
@every_board
def test_damage_of_each_part_is_repaired(bench: Make) -> None:
    """One after the other, on one device: root image, records of the loader, what starts, state.

    Each time the slot's own system must run again; after the last one it must settle, too.
    """
    damaged = bench(settled=True)
    station = damaged.station
    boot = station.boot_label
    entered = []
    for labels in (("root-a",), ("environment",), (boot,), (boot, "root-a"), ("state",)):
        # Nothing is counted of what was before; but a root image that is damaged stops a start
        # without a trace, and of so many starts this is the last one.
        damaged.record(Starts(image=station.image, starts=MOST_UNFINISHED - 1))
        damaged.damage(*labels)
        damaged.machine.start()
        damaged.started()
        entered.append(damaged.machine.console.search(ENTERED) is not None)
        if labels == ("state",):
            status = damaged.back().status()
            assert (status["version"], status["slot"]) == (station.lab.version, "a")
            assert status["committed"] is True
        damaged.machine.kill()
    # On UEFI the partition holds nothing but the start record, which is lost.
    assert entered == [True, not station.uefi, True, True, entered[-1]]


@pytest.mark.campaign
@uefi
def test_rescue_starts_when_the_entries_of_both_slots_are_gone(bench: Make) -> None:
    """The loader is there, and finds only the entry on the partition rescue."""
    lost = bench(settled=False)
    lost.change_esp("mdel", "::/loader/entries/orbital-a.conf")
    lost.machine.start()
    lost.machine.wait_console(ENTERED, RESCUE_SECONDS)
    assert lost.back().status()["slot"] == "a"


@pytest.mark.campaign
@uefi
def test_a_committed_slot_that_the_loader_cannot_start_leads_to_rescue(
    bench: Make, tmp_path: Path
) -> None:
    """Nothing counts its starts: systemd-boot comes back to the firmware, which goes on.

    It has a boot option for the rescue system, since the first healthy boot wrote one.
    """
    refused = bench(settled=True)
    noise = tmp_path / "noise"
    noise.write_bytes(random.Random(6).randbytes(MIB))
    refused.change_esp("mcopy", "-o", noise, "::/EFI/orbital/a.efi")
    refused.machine.start()
    refused.machine.wait_console(ENTERED, RESCUE_SECONDS)
    status = refused.back().status()
    assert (status["slot"], status["version"]) == ("a", refused.station.lab.version)


@pytest.mark.campaign
@uefi
def test_a_committed_kernel_that_never_reaches_early_boot_leads_to_rescue(
    bench: Make, tmp_path: Path
) -> None:
    """A boot artifact that is signed and whole, and whose kernel panics at every start."""
    dying = bench(settled=True)
    lab = dying.station.lab
    artifact, damaged = tmp_path / "a.efi", tmp_path / "damaged.efi"
    dying.change_esp("mcopy", "::/EFI/orbital/a.efi", damaged)
    data = damaged.read_bytes()
    # The header of the first program: without it the kernel has none to start.
    at = data.rindex(b"070701", 0, data.index(b"# First program of every Orbital boot"))
    damaged.write_bytes(data[:at] + b"noise!" + data[at + 6 :])
    load_pe_signer(lab.keys, lab.tools, time=BUILT).sign(damaged, artifact)
    dying.change_esp("mcopy", "-o", artifact, "::/EFI/orbital/a.efi")
    dying.machine.start()
    dying.wait_entered("starts in a row did not reach early boot")
    assert dying.machine.console.text.count("Kernel panic") == limit(
        lab.product.manifest.trial.tries
    )
    # Rescue finds it whole and lets it start; then it compares it with the index.
    status = dying.back().status()
    assert (status["slot"], status["version"]) == ("a", lab.version)


@pytest.mark.campaign
@every_board
def test_starts_that_never_become_healthy_lead_to_rescue(bench: Make) -> None:
    """The power fails in each. Rescue finds the device whole, and lets it start again."""
    impatient = bench(settled=True)
    for _ in range(MOST_UNFINISHED):
        impatient.machine.start()
        impatient.machine.wait_console("orbital: generation [0-9]+, version", RESCUE_SECONDS)
        assert impatient.machine.console.search(ENTERED) is None
        impatient.machine.kill()
    impatient.machine.start()
    impatient.wait_entered(f"{MOST_UNFINISHED} starts")
    impatient.machine.wait_console("slot a starts next", RESCUE_SECONDS)
    status = impatient.back().status()
    assert (status["slot"], status["committed"]) == ("a", True)
