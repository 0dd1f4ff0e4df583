"""Any sequence of requests leaves a consistent set."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.constraints import parse_constraint
from recovery.errors import RefusedError
from tests.updater.packages.test_changes import Device
from tests.updater.packages.test_resolver_brute_force import LIBRARIES, Universe, universes
from tests.updater.packages.universe import Table, release
from updater.packages.changes import Present
from updater.packages.edits import disable, enable, remove, rollback

NAMES = ("a", "b", "c", "d", "e", "s")
requests = st.tuples(
    st.sampled_from(
        ["install", "install stopped", "update", "enable", "disable", "remove", "purge", "back"]
    ),
    st.sampled_from((*NAMES, *LIBRARIES)),
)


def apply(device: Device, verb: str, name: str) -> None:
    """One request. Raises RefusedError."""
    present = device.present
    if verb == "install":
        device.install(name)
    elif verb == "install stopped":
        device.install(name, start=False)
    elif verb == "update":
        device.update(name)
    elif verb == "enable":
        device.commit(enable(present, [name], device.moment()))
    elif verb == "disable":
        device.commit(disable(present, [name], device.moment()))
    elif verb == "back":
        device.commit(rollback(present, name, device.moment()))
    else:
        device.commit(remove(present, [name], device.moment(), with_dependents=verb == "purge"))


def check(present: Present, number: int) -> None:
    """What must hold of every generation."""
    entries = present.entries
    keys = [(entry.name, entry.version) for entry in entries]
    assert len(set(keys)) == len(keys)
    single = [entry.name for entry in entries if entry.kind != "library"]
    assert len(set(single)) == len(single)
    uids = [entry.uid for entry in entries if entry.kind == "feature"]
    assert len(set(uids)) == len(uids)
    assert all(uid >= 50_000 and uid % 16 == 0 for uid in uids)
    digests = {entry.digest for entry in entries}
    used = {use for entry in entries for use in entry.uses}
    assert used <= digests
    needed: set[str] = set()
    for entry in entries:
        assert entry.state <= number
        if entry.kind == "library":
            assert entry.requested or entry.digest in used
            continue
        view = {present.facts[use].name: present.facts[use].release.version for use in entry.uses}
        assert len(view) == len(entry.uses)
        needs = dict(present.needs(entry))
        for use in entry.uses:
            for item in present.facts[use].release.depends:
                assert parse_constraint(item.versions).allows(view[item.package])
        for name, versions in needs.items():
            if name in LIBRARIES:
                assert parse_constraint(versions).allows(view[name])
                continue
            needed.add(name)
            other = present.find(name)
            assert other is not None
            assert parse_constraint(versions).allows(other.version)
            assert other.enabled or not entry.enabled or entry.kind == "suite"
    for entry in entries:
        assert entry.requested or entry.kind == "library" or entry.name in needed


@settings(max_examples=150, deadline=None)
@given(universes(), st.lists(requests, max_size=12))
def test_any_sequence_of_requests_leaves_a_consistent_set(
    universe: Universe, sequence: list[tuple[str, str]]
) -> None:
    packages = {**universe.packages}
    packages["s"] = (release("s", "1", "b", "d", kind="suite", members=("b", "d")),)
    device = Device(Table(**packages))
    for verb, name in sequence:
        before = device.present
        try:
            apply(device, verb, name)
        except RefusedError:
            assert device.present is before
        check(device.present, device.number)


@settings(max_examples=100, deadline=None)
@given(universes(), st.sampled_from(NAMES[:5]))
def test_removing_all_that_was_requested_leaves_nothing(universe: Universe, name: str) -> None:
    device = Device(Table(**universe.packages))
    with contextlib.suppress(RefusedError):
        device.install(name)
    while device.present.entries:
        asked = next(entry.name for entry in device.present.entries if entry.requested)
        device.commit(remove(device.present, [asked], device.moment(), with_dependents=True))
