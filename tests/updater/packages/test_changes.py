"""What each request makes of the entries, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from manifests.package_index import PackageRelease
from recovery.errors import RefusedError
from recovery.generations import PackageEntry
from tests.updater.packages.universe import GATEWAY, Table, release, versions, want
from updater.packages.changes import (
    Change,
    Moment,
    Present,
    for_image,
    install,
    installed,
    kept_wants,
)
from updater.packages.edits import disable, enable, remove, rollback
from updater.packages.resolve.model import Environment, Installed
from updater.packages.resolve.resolver import resolve

NOTHING = Present((), {}, GATEWAY.packages)
SHOP = Table(
    radio=versions("radio", v1=["libnl"], v2=["libnl >=2"]),
    hotspot=versions("hotspot", v1=["radio"], v2=["radio >=2"]),
    vpn=versions("vpn", v1=["libnl <2"], v2=["libnl"]),
    libnl=versions("libnl", "library", v1=[], v2=[], v3=[]),
    office=[release("office", "1", "radio", "vpn", kind="suite", members=("radio", "vpn"))],
    openssl=[release("openssl", v, kind="system") for v in ("3.2", "3.3")],
)


class Device:
    """Applies changes one after another, as the transaction would."""

    def __init__(self, offers: Table = SHOP, environment: Environment = GATEWAY) -> None:
        self.offers = offers
        self.environment = environment
        self.present = Present((), {}, environment.packages)
        self.number = 1
        self.notes: tuple[str, ...] = ()

    def moment(self) -> Moment:
        """Of the next generation."""
        self.number += 1
        return Moment(self.number, self.number * 100)

    def commit(self, change: Change) -> Device:
        """The change is what there is."""
        facts = dict(self.present.facts)
        facts |= {item.release.digest: Installed(item.name, item.release) for item in change.fetch}
        self.present = Present(change.packages, facts, self.environment.packages)
        self.notes = change.notes
        return self

    def install(self, *asked: str, start: bool = True, upgrade: Sequence[str] = ()) -> Device:
        """Resolves and applies."""
        wants = [want(text) for text in asked]
        names = [item.name for item in wants]
        found = resolve(
            [*wants, *kept_wants(self.present, names)],
            self.offers,
            self.environment,
            installed(self.present),
            upgrade=upgrade,
        )
        return self.commit(install(self.present, found, self.moment(), names, start=start))

    def update(self, *names: str) -> Device:
        """Updates these, or all."""
        found = resolve(
            kept_wants(self.present),
            self.offers,
            self.environment,
            installed(self.present),
            upgrade=names or None,
        )
        return self.commit(install(self.present, found, self.moment()))

    def entry(self, name: str) -> PackageEntry:
        """The entry, which is there."""
        found = self.present.find(name)
        assert found is not None
        return found

    @property
    def titles(self) -> list[str]:
        """ "NAME VERSION" of all entries."""
        return [f"{entry.name} {entry.version}" for entry in self.present.entries]


def test_an_install_brings_what_is_needed_and_marks_what_was_asked_for() -> None:
    device = Device().install("hotspot")
    assert device.titles == ["hotspot 2", "libnl 3", "radio 2"]
    assert [entry.requested for entry in device.present.entries] == [True, False, False]
    assert device.entry("radio").uses == ("digest-of-libnl-3",)
    assert device.entry("hotspot").uses == ()
    assert [entry.uid for entry in device.present.entries] == [50_000, 0, 50_016]


def test_two_versions_of_a_library_are_used_side_by_side() -> None:
    device = Device().install("vpn =1", "radio")
    assert device.titles == ["libnl 1", "libnl 3", "radio 2", "vpn 1"]
    assert device.entry("vpn").uses == ("digest-of-libnl-1",)
    assert device.entry("radio").uses == ("digest-of-libnl-3",)


def test_an_update_keeps_dates_uid_and_one_version_before() -> None:
    device = Device().install("vpn =1")
    before = device.entry("vpn")
    after = device.update("vpn").entry("vpn")
    assert (after.version, after.uid, after.installed) == ("2", before.uid, before.installed)
    assert (after.updated, after.state) == (300, 3)
    assert after.earlier is not None
    assert (after.earlier.version, after.earlier.state) == ("1", before.state)
    assert after.earlier.uses == ("digest-of-libnl-1",)
    assert "libnl 1 goes: nothing needs it any more" not in device.titles
    assert device.titles == ["libnl 3", "vpn 2"]


def test_what_does_not_change_keeps_its_state_layer() -> None:
    device = Device().install("vpn")
    layer = device.entry("vpn").state
    assert device.install("radio").entry("vpn").state == layer
    assert device.entry("radio").state == layer + 1


def test_an_install_without_start_leaves_it_disabled_and_enabling_brings_its_needs() -> None:
    device = Device().install("hotspot", start=False)
    assert not device.entry("hotspot").enabled
    assert not device.entry("radio").enabled
    device.commit(enable(device.present, ["hotspot"], device.moment()))
    assert device.entry("radio").enabled
    assert device.notes == ("radio is enabled too: it is needed",)
    assert device.entry("radio").state == 3


def test_disabling_what_an_enabled_package_needs_is_refused_by_name() -> None:
    device = Device().install("hotspot")
    with pytest.raises(RefusedError) as caught:
        disable(device.present, ["radio"], device.moment())
    assert str(caught.value) == (
        "cannot disable radio: it is needed\n"
        "hotspot is enabled and needs radio\n"
        "disable hotspot first"
    )
    device.commit(disable(device.present, ["hotspot"], device.moment()))
    device.commit(disable(device.present, ["radio"], device.moment()))
    assert not device.entry("radio").enabled


def test_removing_what_an_enabled_package_needs_is_refused_by_name() -> None:
    device = Device().install("hotspot")
    with pytest.raises(RefusedError) as caught:
        remove(device.present, ["radio"], device.moment(), with_dependents=True)
    assert str(caught.value) == (
        "cannot remove radio: it is needed\n"
        "hotspot is enabled and needs radio\n"
        "remove or disable hotspot first"
    )
    with pytest.raises(RefusedError, match="radio is enabled and needs libnl"):
        remove(device.present, ["libnl"], device.moment())


def test_inactive_dependents_go_along_only_with_consent() -> None:
    device = Device().install("hotspot")
    device.commit(disable(device.present, ["hotspot"], device.moment()))
    with pytest.raises(RefusedError, match="with --with-dependents these go along: hotspot"):
        remove(device.present, ["radio"], device.moment())
    change = remove(device.present, ["radio"], device.moment(), with_dependents=True)
    assert change.packages == ()


def test_a_library_stays_as_long_as_something_uses_it() -> None:
    device = Device().install("radio", "vpn")
    device.commit(remove(device.present, ["radio"], device.moment()))
    assert device.titles == ["libnl 3", "vpn 2"]
    device.commit(remove(device.present, ["vpn"], device.moment()))
    assert device.titles == []
    assert "libnl 3 goes: nothing needs it any more" in device.notes


def test_a_suite_goes_as_a_whole_but_not_what_was_asked_for_by_name() -> None:
    device = Device().install("office").install("vpn")
    assert device.titles == ["libnl 3", "office 1", "radio 2", "vpn 2"]
    device.commit(remove(device.present, ["office"], device.moment()))
    assert device.titles == ["libnl 3", "vpn 2"]


def test_a_suite_that_loses_a_member_leaves_the_others_as_requested() -> None:
    device = Device().install("office")
    device.commit(remove(device.present, ["vpn"], device.moment()))
    assert device.titles == ["libnl 3", "radio 2"]
    assert device.entry("radio").requested
    assert device.notes == (
        "suite office is no longer whole: its other members stay",
        "office 1 goes",
        "vpn 2 goes",
    )


def test_a_rollback_brings_back_version_libraries_and_state_and_can_be_undone() -> None:
    device = Device().install("vpn =1")
    old = device.entry("vpn")
    new = device.update().entry("vpn")
    device.commit(rollback(device.present, "vpn", device.moment()))
    back = device.entry("vpn")
    assert (back.version, back.state, back.uses) == ("1", old.state, old.uses)
    assert device.titles == ["libnl 1", "vpn 1"]
    device.commit(rollback(device.present, "vpn", device.moment()))
    assert (device.entry("vpn").version, device.entry("vpn").state) == ("2", new.state)


def test_a_rollback_that_breaks_another_package_is_refused_by_name() -> None:
    device = Device().install("radio =1").update().install("hotspot")
    with pytest.raises(RefusedError) as caught:
        rollback(device.present, "radio", device.moment())
    assert "hotspot 2 needs radio >=2, not 1" in str(caught.value)
    with pytest.raises(RefusedError, match="no version before 2 is kept"):
        rollback(device.present, "hotspot", device.moment())


def test_another_image_drops_the_layered_package_that_it_contains() -> None:
    device = Device().install("openssl =3.2", "vpn")
    assert device.titles == ["libnl 3", "openssl 3.2", "vpn 2"]
    newer = Environment(
        system="gateway", version="3.0", architecture="amd64", packages={"openssl": "3.2"}
    )
    found = resolve(kept_wants(device.present), SHOP, newer, installed(device.present), upgrade=())
    change = for_image(device.present, found, Moment(9, 900), frozenset())
    assert [entry.name for entry in change.packages] == ["libnl", "vpn"]
    assert {entry.state for entry in change.packages} == {9}
    assert "openssl 3.2 is in the image" in change.notes


def test_another_image_takes_fitting_versions_and_marks_ways_back_that_do_not_fit() -> None:
    made: list[PackageRelease] = [
        release("vpn", "1", systems=["gateway <3"]),
        release("vpn", "2", systems=["gateway <3"]),
        release("vpn", "3", systems=["gateway >=3"]),
    ]
    device = Device(Table(vpn=made)).install("vpn =1").update("vpn")
    newer = Environment(system="gateway", version="3.0", architecture="amd64")
    found = resolve(
        kept_wants(device.present), Table(vpn=made), newer, installed(device.present), upgrade=()
    )
    change = for_image(device.present, found, Moment(9, 900), frozenset())
    (entry,) = change.packages
    assert (entry.version, entry.state, entry.installed) == ("3", 9, 200)
    assert entry.earlier is not None
    assert (entry.earlier.version, entry.earlier.fits) == ("2", False)
    device.commit(change)
    with pytest.raises(RefusedError, match="it does not fit this system"):
        rollback(device.present, "vpn", device.moment())


def test_a_user_id_block_of_another_kept_generation_is_not_given_away() -> None:
    found = resolve([want("vpn")], SHOP, GATEWAY, (), upgrade=())
    present = Present((), {}, {}, {"radio": 50_000, "hotspot": 50_032})
    change = install(present, found, Moment(2, 200), ["vpn"])
    assert [entry.uid for entry in change.packages if entry.kind == "feature"] == [50_016]
