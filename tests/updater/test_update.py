"""The whole path: publish → serve → trust → plan → install → trial."""

from __future__ import annotations

import pytest

from tests.updater.devices import FileDevice
from tests.updater.publisher import Publisher
from tests.updater.webserver import WebServer


def test_update_from_a_web_server_puts_the_image_on_trial(
    publisher: Publisher, device: FileDevice, web: WebServer
) -> None:
    image = publisher.release("2.0")
    outcome = device.update(source=web.url)
    assert outcome.installed is not None
    assert outcome.installed.version == "2.0"
    assert outcome.installed.kept == 0
    device.assert_on_trial(image.root, image.boot, "2.0")
    event = device.store.history.events()[-1]
    assert (event.event, event.from_version, event.to_version) == ("installed", "1.0", "2.0")
    assert event.requested_by == "tester"


def test_update_from_a_stick_puts_the_image_on_trial(
    publisher: Publisher, device: FileDevice
) -> None:
    image = publisher.release("2.0")
    device.update(source=str(publisher.copy("stick")))
    device.assert_on_trial(image.root, image.boot, "2.0")


def test_the_newest_version_is_chosen_by_order_not_by_time_of_publication(
    publisher: Publisher, device: FileDevice
) -> None:
    image = publisher.release("10.0")
    publisher.release("9.5")
    device.update()
    device.assert_on_trial(image.root, image.boot, "10.0")


def test_nothing_newer_is_up_to_date_and_changes_nothing(
    publisher: Publisher, device: FileDevice
) -> None:
    publisher.release("1.0")
    before = device.snapshot()
    assert device.update().installed is None
    assert device.check().plan is None
    assert device.snapshot() == before


def test_check_reports_the_plan_and_changes_nothing(
    publisher: Publisher, device: FileDevice
) -> None:
    image = publisher.release("2.0")
    before = device.snapshot()
    plan = device.check().plan
    assert plan is not None
    assert (plan.version, plan.from_version, plan.slot) == ("2.0", "1.0", "b")
    assert plan.fetch_bytes == sum(
        segment.stored_size
        for stream in (image.index.root.stream, image.index.boot.stream)
        for segment in stream.segments
    )
    assert [action.kind for action in plan.actions] == [
        "release-slot",
        "fetch-pieces",
        "verify-slot",
        "write-boot-artifact",
        "start-trial",
    ]
    assert device.snapshot() == before


def test_the_slot_of_the_running_system_is_not_touched(
    publisher: Publisher, device: FileDevice
) -> None:
    publisher.release("2.0")
    before = device.snapshot()
    device.update()
    after = device.snapshot()
    for path in ("root-a", "esp/EFI/orbital/a.efi"):
        assert after[path] == before[path]
    assert device.boot_control.slot_state("a").successful


@pytest.mark.parametrize("number", [1, 2])
def test_later_root_versions_are_followed_from_the_anchor_in_the_image(
    publisher: Publisher, device: FileDevice, number: int
) -> None:
    from tests.updater.publisher import MemoryKeyring

    for _ in range(number):
        publisher.refresh(rotate=True, keys=MemoryKeyring())
    image = publisher.release("2.0")
    device.update()
    device.assert_on_trial(image.root, image.boot, "2.0")
