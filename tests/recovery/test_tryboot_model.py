"""A whole device under the Raspberry Pi's firmware, whose rules its documentation gives.

QEMU cannot run that firmware, so it is modelled (`loaders.tryboot`): what is
here checked are the model against the documentation, and the product against
the model, with the power cut before every durable operation of an update.

What the firmware does ("autoboot.txt" and "Fail-safe OS updates"):

* It reads 512 bytes of autoboot.txt; the filters are [all], [none] and [tryboot].
* A reboot with the argument "0 tryboot" sets a flag, which the firmware clears
  before it starts anything. Without power there is no flag.
* It never writes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recovery.bootcontrol.tryboot import REBOOT_PARAMETER
from recovery.slots import BootControl, Slot
from tests.recovery import loaders
from tests.recovery.builders import NO_ENTRY, SUCCESSFUL
from tests.recovery.loaders import MEMORY, TrybootBench
from tests.recovery.powercut import power_cut
from tests.recovery.test_agent import UNHEALTHY, Machine

A_AND_B = b"[all]\ntryboot_a_b=1\nboot_partition=3\n[tryboot]\nboot_partition=5\n"


@pytest.mark.parametrize(
    ("file", "unasked", "asked"),
    [
        # The documentation's example, before and after its update.
        pytest.param(A_AND_B, ("a",), ("b",), id="example"),
        pytest.param(
            b"[all]\ntryboot_a_b=1\nboot_partition=5\n[tryboot]\nboot_partition=3\n",
            ("b",), ("a",), id="example-committed",
        ),
        pytest.param(b"boot_partition=5\n", ("b",), ("b",), id="no-filter-is-for-all"),
        pytest.param(
            b"[none]\nboot_partition=5\n" + A_AND_B, ("a",), ("b",), id="none-never-passes"
        ),
        pytest.param(A_AND_B + b"[all]\nboot_partition=3\n", ("a",), ("a",), id="the-last-counts"),
        pytest.param(
            b"[all]\nboot_partition=3\n" + b"#" * 512 + b"\nboot_partition=5\n",
            ("a",), ("a",), id="beyond-512-bytes",
        ),
        # Neither slot is named: the first partition that the firmware can start.
        pytest.param(b"", ("a", "b"), ("a", "b"), id="empty"),
    ],
)  # fmt: skip
def test_the_model_reads_autoboot_txt_as_documented(
    file: bytes, unasked: tuple[Slot, ...], asked: tuple[Slot, ...]
) -> None:
    for is_asked, expected in ((False, unasked), (True, asked)):
        found = loaders.tryboot(file, asked=is_asked)
        assert (*found.slots, *found.last) == expected


class Pi(Machine):
    """A device with that firmware; it has booted its factory image once.

    deaf: its kernel passes the reboot's argument to nobody, as Debian's does.
    """

    bench: TrybootBench
    deaf = False
    powered = True

    @classmethod
    def new(cls, root: Path) -> Pi:
        machine = cls.factory(root)
        assert isinstance(machine, cls)
        machine.probation_boots = 50  # starts after a cut are no crash loop here
        (root / "bench").mkdir()
        machine.bench = TrybootBench(root / "bench")
        assert machine.run()
        return machine

    @property
    def control(self) -> BootControl:
        return self.bench.control

    def load(self) -> Slot:
        asked = self.powered and not self.deaf
        slot = self.bench.boot() if asked else self.bench.lose_power()
        assert slot is not None
        self.slot = slot
        self.powered = True
        self.boots = self.bench.boots
        identity = self.root / "proc/sys/kernel/random/boot_id"
        identity.parent.mkdir(parents=True, exist_ok=True)
        identity.write_text(f"{self.boot_id}\n")
        return slot

    def lose_power(self) -> None:
        """The next start is one that nobody asked for."""
        self.powered = False

    def rests(self) -> None:
        """Boots until the device has stayed up twice in a row."""
        up = 0
        for _ in range(8):
            up = up + 1 if self.run() else 0
            if up == 2:
                break
        assert up == 2, f"no rest: {self.said}"
        record = self.store.load()
        committed = self.store.generations.load(record.committed)
        assert committed is not None
        assert record.trial is None
        assert committed.version == self.running_version()
        assert self.control.slot_state(self.slot) == SUCCESSFUL

    def end_probation(self) -> None:
        agent = self.boot()
        assert agent is not None
        agent.settle()
        agent.probation()


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


def test_a_good_update_is_tried_once_and_then_stays_without_being_asked_for(memory: Path) -> None:
    pi = Pi.new(memory / "pi")
    pi.install("2.0")
    assert (pi.bench.root / REBOOT_PARAMETER).read_text() == "0 tryboot"
    assert pi.run()
    assert (pi.running_version(), pi.ends()) == ("2.0", ["committed"])
    pi.lose_power()
    assert pi.load() == "b"


def test_a_trial_that_panics_falls_back_with_the_next_start(memory: Path) -> None:
    pi = Pi.new(memory / "pi")
    pi.install("2.0")
    assert pi.load() == "b"  # and nothing of ours runs
    assert pi.run()
    assert (pi.running_version(), pi.ends()) == ("1.0", ["fell-back"])
    assert pi.control.slot_state("b") == NO_ENTRY


def test_an_unhealthy_trial_falls_back_and_a_later_update_works(memory: Path) -> None:
    pi = Pi.new(memory / "pi")
    pi.install("2.0")
    assert not pi.run(UNHEALTHY)
    assert pi.run()
    assert (pi.running_version(), pi.ends()) == ("1.0", ["rolled-back"])
    pi.install("3.0")
    assert pi.run()
    assert pi.running_version() == "3.0"


def test_a_kernel_that_passes_nothing_on_never_starts_the_update_and_harms_nothing(
    memory: Path,
) -> None:
    """Why the imager refuses such kernels: every update would end like this."""
    pi = Pi.new(memory / "pi")
    pi.deaf = True
    for version in ("2.0", "3.0"):
        pi.install(version)
        pi.rests()
        assert pi.running_version() == "1.0"
    pi.deaf = False
    pi.install("4.0")
    assert pi.run()
    assert pi.running_version() == "4.0"


def _updates(pi: Pi) -> None:
    pi.install("2.0")
    assert pi.run()


def _updates_badly(pi: Pi) -> None:
    pi.install("2.0")
    pi.run(UNHEALTHY)
    pi.run()


# Before the commit point, between it and the only try, in the try, after its verdict.
OUTCOMES: dict[Callable[[Pi], None], set[tuple[str, ...]]] = {
    _updates: {("1.0",), ("1.0", "interrupted"), ("1.0", "fell-back"), ("2.0", "committed")},
    _updates_badly: {
        ("1.0",), ("1.0", "interrupted"), ("1.0", "fell-back"), ("1.0", "rolled-back"),
    },
}  # fmt: skip


@pytest.mark.parametrize("operation", OUTCOMES)
def test_a_power_cut_at_any_moment_leaves_a_device_that_starts_and_can_be_updated(
    operation: Callable[[Pi], None], memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for number in range(80):
        pi = Pi.new(memory / f"cut{number}")
        with power_cut(monkeypatch, number) as operations:
            operation(pi)
        pi.lose_power()
        pi.rests()
        seen.add((pi.running_version(), *pi.ends()))
        assert len(pi.ends()) == len(set(pi.ends())), "an outcome was told twice"
        if pi.store.load().probation is not None:
            pi.end_probation()
        pi.install("9.0")
        assert pi.run()
        assert pi.running_version() == "9.0"
        if not operations.happened:
            break
    assert not operations.happened, "more operations than were cut"
    assert seen == OUTCOMES[operation]
