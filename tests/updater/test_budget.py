"""Byte budgets: what updates may fetch in one update and in a month, counted over reboots."""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from recovery.device import DeviceConfig
from recovery.errors import ManifestError, RefusedError
from recovery.reporter import SilentReporter
from tests.updater.devices import FileDevice
from tests.updater.images import BuiltImage
from tests.updater.power import Power, PowerCut
from tests.updater.publisher import NOW, Publisher
from tests.updater.test_pure import CONFIG
from tests.updater.webserver import WebServer
from updater import budget
from updater.budget import STEP, Budget, Metered, Usage, at, left
from updater.policy import OVERRIDE, load_policy
from updater.update import Outcome, Request, update

NOVEMBER = calendar.timegm((2026, 11, 21, 12, 0, 0))
DECEMBER = calendar.timegm((2026, 12, 1, 0, 0, 1))


@pytest.mark.parametrize(
    ("limits", "usage", "expected"),
    [
        (Budget(), Usage(month_bytes=9, update_bytes=9), None),
        (Budget(per_update=10), Usage(month_bytes=99, update_bytes=4), 6),
        (Budget(per_month=10), Usage(month_bytes=4, update_bytes=99), 6),
        (Budget(10, 20), Usage(month_bytes=4, update_bytes=4), 6),
        (Budget(10, 20), Usage(month_bytes=18, update_bytes=4), 2),
        (Budget(10, 20), Usage(month_bytes=21, update_bytes=4), 0),
    ],
)
def test_what_is_left(limits: Budget, usage: Usage, expected: int | None) -> None:
    assert left(limits, usage) == expected


def test_a_month_begins_once_and_an_update_starts_at_nothing() -> None:
    used = Usage("2026-11", 70, "aa", 30)
    assert at(used, "2026-11", "aa") == used
    assert at(used, "2026-12", "aa") == Usage("2026-12", 0, "aa", 30)
    assert at(used, "1970-01", "aa") == used
    assert at(used, "2026-11", "bb") == Usage("2026-11", 70, "bb", 0)


class Endless:
    """A source whose every file has as many bytes as it may have."""

    name = "endless"

    def open(self, path: str, max_size: int) -> Iterator[bytes]:
        """Blocks of 100 bytes."""
        del path
        for _ in range(max_size // 100):
            yield bytes(100)

    def open_range(self, path: str, offset: int, size: int) -> Iterator[bytes]:
        """The same of a part."""
        del offset
        return self.open(path, size)

    def close(self) -> None:
        """Nothing is held."""


def metered(path: Path, limits: Budget, now: float = NOVEMBER) -> Metered:
    """The source under a budget."""
    return Metered(Endless(), limits, path, now)


def test_the_count_survives_and_ends_a_fetch_that_goes_over(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    first = metered(path, Budget(per_month=1000))
    assert len(b"".join(first.open("x", 600))) == 600
    first.close()
    second = metered(path, Budget(per_month=1000))
    with pytest.raises(RefusedError, match="the budget for updates is used up"):
        list(second.open("x", 600))
    second.close()
    assert budget.load(path).month_bytes == 1000
    assert len(b"".join(metered(path, Budget(per_month=1000), DECEMBER).open("x", 600))) == 600


def test_a_power_cut_never_makes_the_count_too_low(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "usage.json"
    source = metered(path, Budget(per_month=1 << 40))
    power = Power(None)
    power.install(monkeypatch)
    fetched = 0
    for block in source.open("x", 5 * STEP):
        fetched += len(block)
        assert fetched <= budget.load(path).month_bytes <= fetched + STEP
    assert len([step for step in power.steps if step.startswith("rename")]) <= 6


def test_a_damaged_record_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    path.write_bytes(b"{")
    assert budget.load(path) == Usage()


@pytest.fixture
def image(publisher: Publisher) -> BuiltImage:
    """Version 2.0, published."""
    return publisher.release("2.0")


def run(device: FileDevice, web: WebServer, limits: Budget, clock: float = 0) -> Outcome:
    """An update over the network, with a budget."""
    request = Request(web.url, None, "tester", limits)
    now = clock or NOW.timestamp()
    return update(device.device, request, SilentReporter(), now=lambda: now)


def size(image: BuiltImage) -> int:
    """Bytes to fetch in full."""
    return image.index.root.stream.stored_size + image.index.boot.stream.stored_size


def test_an_update_over_the_budget_is_not_begun(
    device: FileDevice, web: WebServer, image: BuiltImage
) -> None:
    before = device.device.slots["b"].read_bytes()
    with pytest.raises(RefusedError, match=r"cannot install 2\.0: the budget"):
        run(device, web, Budget(per_update=size(image) - 1))
    assert device.device.slots["b"].read_bytes() == before
    assert device.store.load().trial is None


def test_a_stick_costs_nothing(device: FileDevice, image: BuiltImage) -> None:
    request = Request(device.source, None, "tester", Budget(per_update=1))
    update(device.device, request, SilentReporter(), now=NOW.timestamp)
    device.assert_on_trial(image.root, image.boot, "2.0")


def test_a_cut_update_goes_on_with_what_is_left_of_its_budget(
    device: FileDevice, web: WebServer, image: BuiltImage
) -> None:
    limits = Budget(per_update=size(image) + 4 * STEP)
    cut = Power("fsync root-b #2", (device.device.slots["b"],))
    with pytest.MonkeyPatch.context() as patch:
        cut.install(patch)
        with pytest.raises(PowerCut):
            run(device, web, limits)
    cut.lose_unsynced()
    used = budget.load(device.store.root / "usage.json").update_bytes
    assert used > 0
    device.reopened()
    run(device, web, limits)
    device.assert_on_trial(image.root, image.boot, "2.0")
    assert budget.load(device.store.root / "usage.json").update_bytes >= size(image)


def test_the_owner_and_the_image_set_it(tmp_path: Path) -> None:
    path = tmp_path / OVERRIDE
    path.parent.mkdir(parents=True)
    made: DeviceConfig = replace(
        CONFIG, update=replace(CONFIG.update, budget_update=5, budget_month=7)
    )
    path.write_text('{"budget_update": "60MiB"}')
    found = load_policy(made, tmp_path)
    assert (found.budget_update, found.budget_month) == (60 << 20, 7)
    path.write_text('{"budget_month": "much"}')
    with pytest.raises(ManifestError, match="budget_month is not a size: 'much'"):
        load_policy(made, tmp_path)
