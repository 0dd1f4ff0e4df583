"""A package that an OS trial changed is blamed before the image; what cannot go back is not."""

from __future__ import annotations

from recovery.blame import reverted
from recovery.generations import Earlier, Generation, PackageEntry
from recovery.value import replace
from tests.recovery.builders import generation


def entry(name: str, version: str, **more: object) -> PackageEntry:
    plain = PackageEntry(
        name=name,
        version=version,
        kind="feature",
        digest=f"{name}-{version}",
        uid=50000,
        state=5,
        installed=1,
        updated=2,
    )
    return replace(plain, **more)


def updated(name: str, *, fits: bool = True) -> PackageEntry:
    """2.0 of a package that the committed generation has as 1.0."""
    earlier = Earlier("1.0", f"{name}-1.0", 1, uses=("lib-1.0",), fits=fits)
    return entry(name, "2.0", earlier=earlier, uses=("lib-2.0",), updated=9)


def sets(*now: PackageEntry) -> tuple[Generation, Generation]:
    """The committed generation 4 with everything at 1.0, and the trial 5 with these."""
    before = tuple(entry(item.name, "1.0", state=1, uses=("lib-1.0",)) for item in now)
    committed = replace(generation(4, "a"), packages=before, etc=2)
    return committed, replace(generation(5, "b", parent=4), packages=now)


def test_a_package_that_the_trial_updated_goes_back_with_a_copy_of_its_committed_state() -> None:
    committed, trial = sets(updated("vpn"), updated("web"))
    made = reverted(trial, committed, ["vpn"], {}, 6)
    assert made is not None
    assert (made.number, made.slot, made.root_hash) == (6, "b", trial.root_hash)
    assert (made.parent, made.etc) == (4, 5), "state from the committed one, /etc from the trial"
    vpn, web = made.packages
    assert (vpn.version, vpn.digest, vpn.uses, vpn.state) == ("1.0", "vpn-1.0", ("lib-1.0",), 6)
    assert (vpn.updated, vpn.earlier) == (2, None)
    assert web == trial.packages[1], "its neighbour keeps its update and its state"


def test_packages_that_depend_on_each_other_go_back_together() -> None:
    committed, trial = sets(updated("vpn"), updated("ui"), updated("web"))
    made = reverted(trial, committed, ["vpn"], {"ui": ["vpn"]}, 6)
    assert made is not None
    assert [item.version for item in made.packages] == ["1.0", "1.0", "2.0"]


def test_the_image_is_to_blame_for_a_package_that_the_trial_did_not_change() -> None:
    committed, trial = sets(updated("vpn"), entry("web", "1.0"))
    assert reverted(trial, committed, ["web"], {}, 6) is None
    assert reverted(trial, committed, ["vpn", "web"], {}, 6) is None


def test_a_version_that_does_not_fit_the_new_image_is_no_way_back() -> None:
    committed, trial = sets(updated("vpn", fits=False))
    assert reverted(trial, committed, ["vpn"], {}, 6) is None
    committed, trial = sets(updated("vpn"), updated("ui", fits=False))
    assert reverted(trial, committed, ["vpn"], {"vpn": ["ui"]}, 6) is None
