"""Updates that spare time: a delta, or what it would compute fetched, whichever takes less."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from imager.cache import Cache
from imager.repository.deltas import DeltaMaker
from recovery.reporter import SilentReporter
from tests.updater.devices import FileDevice
from tests.updater.publisher import Publisher
from tests.updater.versions import Published, running, two_images
from updater import ways
from updater.budget import UNLIMITED, Budget
from updater.install import Installed
from updater.source import Source
from updater.update import Request, check, update

SIZE = 4 << 20


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Versions 1.0 and 2.0, with a delta and slices."""
    base = tmp_path_factory.mktemp("published")
    publisher = Publisher(base / "publisher")
    old, new = two_images(base, SIZE)
    for image in (old, new):
        publisher.publish(image, deltas=DeltaMaker(Cache(base / "cache")))
    return Published(publisher, old, new)


@pytest.fixture
def device(tmp_path: Path, published: Published) -> FileDevice:
    """A device that runs 1.0."""
    source = str(published.publisher.repository)
    return running(
        FileDevice(
            tmp_path / "device", published.publisher.anchor, source=source, slot_size=2 * SIZE
        ),
        published.old,
    )


def hurried(device: FileDevice, published: Published, budget: Budget = UNLIMITED) -> Installed:
    """Updates the device with a preference for time; it must then have 2.0 on trial."""
    request = Request(device.source, None, "tester", budget, prefer="time")
    outcome = update(device.device, request, SilentReporter(), now=lambda: device.clock)
    assert outcome.installed is not None
    device.assert_on_trial(published.new.root, published.new.boot, "2.0")
    return outcome.installed


def delayed(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    """The map of slices comes with so many bytes a second."""

    def read(source: Source, path: str, max_size: int) -> bytes:
        time.sleep(max_size / rate)
        return b"".join(source.open(path, max_size))

    monkeypatch.setattr(ways, "read", read)


def slow_to_make(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """As if making parts of an image took so much longer than looking through it."""
    monkeypatch.setattr(ways, "MAKING", factor)


def test_where_computing_takes_longer_slices_are_fetched(
    device: FileDevice, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_to_make(monkeypatch, 1e6)
    request = Request(device.source, None, "tester", prefer="time")
    offer = check(device.device, request, now=lambda: device.clock)
    assert offer.plan is not None
    assert offer.plan.way.kind == "delta"
    assert "on a quick link more is fetched" in offer.notes[0]
    by_delta = offer.plan.fetch_bytes
    done = hurried(device, published)
    assert done.way == "chunks"
    assert by_delta < done.fetched < done.full / 2


def test_the_note_says_what_the_hurry_costs(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_to_make(monkeypatch, 1e6)

    class Noted(SilentReporter):
        def __init__(self) -> None:
            self.messages: list[str] = []

        def message(self, text: str) -> None:
            self.messages.append(text)

    reporter = Noted()
    request = Request(device.source, None, "tester", prefer="time")
    update(device.device, request, reporter, now=lambda: device.clock)
    assert any("bytes more than by delta are fetched" in text for text in reporter.messages)


def test_where_fetching_takes_longer_the_delta_is_taken(
    device: FileDevice, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_to_make(monkeypatch, 1e-6)
    assert hurried(device, published).way == "delta"


def test_on_a_slow_link_nothing_is_looked_through(
    device: FileDevice, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_to_make(monkeypatch, 1e6)
    delayed(monkeypatch, ways.QUICK_LINK / 4)

    def never(*_: object) -> None:
        raise AssertionError("the running image is looked through")

    monkeypatch.setattr(ways.Search, "gather", never)
    assert hurried(device, published).way == "delta"


def test_without_a_map_the_delta_is_taken(
    device: FileDevice, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_to_make(monkeypatch, 1e6)

    lost = []

    def damaged(_source: Source, _path: str, max_size: int) -> bytes:
        lost.append(max_size)
        return bytes(max_size)

    monkeypatch.setattr(ways, "read", damaged)
    offer = device.check()
    assert offer.plan is not None
    done = hurried(device, published)
    assert done.way == "delta"
    # What it cost counts, though it was of no use.
    assert done.fetched == offer.plan.fetch_bytes + sum(lost)
    assert len(lost) == 1


def test_with_a_budget_bytes_are_what_counts(
    device: FileDevice, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_to_make(monkeypatch, 1e6)
    assert hurried(device, published, Budget(per_update=SIZE)).way == "delta"


def test_without_being_asked_bytes_are_spared(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_to_make(monkeypatch, 1e6)
    outcome = device.update()
    assert outcome.installed is not None
    assert outcome.installed.way == "delta"


@pytest.mark.parametrize(
    ("more", "rate", "expected"),
    # A delta makes 100 MB here in 100e6 * 1e-8 * 4 = 4 seconds.
    [(0, 1e6, True), (3_900_000, 1e6, True), (4_100_000, 1e6, False), (40_000_000, 11e6, True)],
)
def test_sooner(monkeypatch: pytest.MonkeyPatch, more: int, rate: float, expected: bool) -> None:
    slow_to_make(monkeypatch, 4.0)
    assert ways.sooner(more, rate, 100_000_000, 1e-8) is expected
