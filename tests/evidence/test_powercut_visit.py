"""A factory reset in the judge's model: wherever the cut came, by whichever way rescue comes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from evidence.powercut.boots import Device, Start
from evidence.powercut.state import OWNED, Files
from evidence.powercut.visit import consult
from recovery import generations, state
from recovery.bootcontrol.systemd_boot import entry_name, entry_text
from recovery.device import RescuePolicy
from recovery.generations import Generation, PackageEntry
from recovery.starts import Starts, to_bytes, wish
from recovery.state import StateRecord
from tests.imager import test_rescue_starts as script
from tests.recovery import builders

shell = script.shell
ROOT_HASH = "0123456789abcdef" * 4
WISH = to_bytes(wish(Starts(), "root", "", "reset"))
BEFORE = "1.0 + counter 1.0 + state of counter + /etc as changed"
_PACKAGE = PackageEntry("counter", "1.0", "feature", "c" * 64, 900, 2, 0, 0)
_GENERATION = Generation(
    2, "a", "gateway", "1.0", ROOT_HASH, 1, 0, "package", "root", (_PACKAGE,), etc=1
)
_CONTENT = {
    "state.json": state.encode(StateRecord(next_generation=3, committed=2)),
    "generations/2.json": generations.encode(_GENERATION),
    f"etc/1/upper/{OWNED}": b"changed",
    f"layers/counter/2/state/count/{OWNED}": b"changed",
}
FILES = Files(_CONTENT, images=frozenset(["c" * 64]))

CONFIG = dataclasses.replace(builders.CONFIG, rescue=RescuePolicy(partition="rescue"))


def start(record: bytes) -> Start:
    """A device with one slot."""
    entries = ((entry_name("a", None), entry_text("a", 1).encode()),)
    return Start(True, entries, (ROOT_HASH, ""), (ROOT_HASH, ""), record, rescue=True)


def rest(tmp_path: Path, found: Start, files: Files, *, remembers: bool = False) -> tuple[str, int]:
    """What runs in the end, and the visits of rescue until then."""
    end = Device(tmp_path / "device", found, files, CONFIG).rest(
        trials_die=False, remembers=remembers
    )
    assert not end.problem
    return end.runs, end.visits


@pytest.mark.parametrize("remembers", [False, True])
def test_a_wish_that_is_durable_is_fulfilled(tmp_path: Path, remembers: bool) -> None:
    assert rest(tmp_path, start(WISH), FILES, remembers=remembers) == ("1.0", 1)


@pytest.mark.parametrize("remembers", [False, True])
def test_without_a_wish_everything_is_as_before(tmp_path: Path, remembers: bool) -> None:
    for record in (b"", WISH.replace(b"=reset", b"=Reset"), to_bytes(Starts(asked=1))):
        assert rest(tmp_path, start(record), FILES, remembers=remembers) == (BEFORE, 0)


def test_a_reset_that_was_cut_after_its_commit_point_is_done_again(tmp_path: Path) -> None:
    """state.json names the new generation, and nothing was removed."""
    fresh = Generation(3, "a", "gateway", "1.0", ROOT_HASH, None, 0, "factory", "root")
    content = {
        **_CONTENT,
        "state.json": state.encode(StateRecord(next_generation=4, committed=3)),
        "generations/3.json": generations.encode(fresh),
    }
    # Rescue has taken back the wish, not what it is to do.
    record = to_bytes(Starts(action="reset", reason="asked by root"))
    files = dataclasses.replace(FILES, content=content)
    assert rest(tmp_path, start(record), files) == ("1.0", 1)
    assert not (tmp_path / "device/state/orbital/layers").exists()
    assert not (tmp_path / f"device/state/orbital/etc/1/upper/{OWNED}").exists()


def test_what_an_owner_had_changed_is_missed(tmp_path: Path) -> None:
    """Half a reset: the judge must see it."""
    for path in (f"etc/1/upper/{OWNED}", f"layers/counter/2/state/count/{OWNED}"):
        content = {name: data for name, data in _CONTENT.items() if name != path}
        runs, _ = rest(tmp_path, start(b""), dataclasses.replace(FILES, content=content))
        assert runs not in (BEFORE, "1.0")


def test_a_reset_on_a_device_whose_rescue_is_damaged_does_not_end(tmp_path: Path) -> None:
    found = dataclasses.replace(start(WISH), rescue=False)
    end = Device(tmp_path / "device", found, FILES, CONFIG).rest(trials_die=False)
    assert (end.runs, end.problem) == ("", "the rescue system is not whole")


@pytest.mark.build
@pytest.mark.parametrize(
    "record",
    [
        Starts(),
        Starts(rescue=True, reason="asked by root", action="reset"),
        Starts(action="erase", asked=2, loads=3),
        Starts(action="reset", asked=3, starts=8, image=ROOT_HASH[:32]),
        Starts(rescue=True, asked=9, rescued=2),
        *(Starts(image=ROOT_HASH[:32], starts=starts) for starts in (1, 7, 8, 99)),
        Starts(image=ROOT_HASH[:32], starts=9, asked=3),
        Starts(image="f" * 32, starts=8, asked=1),
    ],
)
def test_the_record_is_taken_as_the_initramfs_takes_it(
    shell: Path, tmp_path: Path, record: Starts
) -> None:
    said, after = script.consult(shell, tmp_path, to_bytes(record), ROOT_HASH)
    assert consult(record, ROOT_HASH) == (after, said.endswith("restart\n"))
