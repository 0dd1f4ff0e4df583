"""The resolver's rules, one by one, and what it says when there is no answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from recovery.packages.model import Check, Migration, Package, Service
from tests.updater.packages.universe import (
    GATEWAY,
    Table,
    present,
    release,
    versions,
    want,
)
from updater.packages.resolve.model import (
    INSTALLED,
    ConflictError,
    Environment,
    Installed,
    Want,
    installed_from,
)
from updater.packages.resolve.resolver import resolve


def titles(
    wants: Sequence[Want],
    offers: Table,
    installed: Sequence[Installed] = (),
    *,
    upgrade: Collection[str] | None = (),
    environment: Environment = GATEWAY,
) -> list[str]:
    """What is chosen, as "NAME VERSION"."""
    found = resolve(wants, offers, environment, installed, upgrade=upgrade)
    return [f"{item.name} {item.version}" for item in found.packages]


def refusal(
    wants: Sequence[Want],
    offers: Table,
    installed: Sequence[Installed] = (),
    environment: Environment = GATEWAY,
) -> str:
    """The text of the conflict."""
    with pytest.raises(ConflictError) as caught:
        resolve(wants, offers, environment, installed, upgrade=())
    return str(caught.value)


RADIO = versions("radio", v1_9=[], v2=[], v2_1=[])


def test_what_is_installed_stays_unless_it_is_named() -> None:
    there = [present("radio", RADIO[0])]
    kept = [want("radio", INSTALLED)]
    assert titles(kept, Table(radio=RADIO), there) == ["radio 1.9"]
    assert titles(kept, Table(radio=RADIO), there, upgrade=["radio"]) == ["radio 2.1"]
    assert titles(kept, Table(radio=RADIO), there, upgrade=None) == ["radio 2.1"]
    assert titles(kept, Table(), there, upgrade=None) == ["radio 1.9"]


def test_what_is_installed_moves_when_a_requirement_forces_it() -> None:
    offers = Table(radio=RADIO, hotspot=versions("hotspot", v1=["radio >=2, <2.1"]))
    there = [present("radio", RADIO[0])]
    wants = [want("radio", INSTALLED), want("hotspot")]
    assert titles(wants, offers, there) == ["hotspot 1", "radio 2"]


def test_each_feature_gets_the_newest_library_that_its_view_accepts() -> None:
    offers = Table(
        a=versions("a", v1=["libssl <3", "libz"]),
        b=versions("b", v1=["libssl", "libx"]),
        libssl=versions("libssl", "library", v1=[], v2=[], v3=[]),
        libx=versions("libx", "library", v1=["libz =1"]),
        libz=versions("libz", "library", v1=[], v2=[]),
    )
    found = resolve([want("a"), want("b")], offers, GATEWAY, (), upgrade=())
    uses = {item.name: item.uses for item in found.packages}
    assert uses["a"] == (("libssl", "2"), ("libz", "2"))
    assert uses["b"] == (("libssl", "3"), ("libx", "1"), ("libz", "1"))
    wanted = {(item.name, item.version): item.wanted_by for item in found.packages}
    assert wanted[("libssl", "2")] == ("a",)
    assert wanted[("libz", "1")] == ("b",)
    assert wanted[("a", "1")] == ("you",)


def test_a_package_that_stays_keeps_its_libraries_until_one_is_named() -> None:
    vpn = release("vpn", "1", "libnl", "libz")
    offers = Table(
        vpn=[vpn],
        libnl=versions("libnl", "library", v1=[], v2=[]),
        libz=versions("libz", "library", v1=[], v2=[]),
    )
    there = [present("vpn", vpn, "libnl 1", "libz 1")]
    kept = [want("vpn", INSTALLED)]
    assert titles(kept, offers, there) == ["libnl 1", "libz 1", "vpn 1"]
    assert titles(kept, offers, there, upgrade=["libnl"]) == ["libnl 2", "libz 1", "vpn 1"]
    assert titles(kept, offers, there, upgrade=["vpn"]) == ["libnl 2", "libz 2", "vpn 1"]


def test_only_packages_that_matter_are_read() -> None:
    offers = Table(a=versions("a", v1=["radio"]), radio=RADIO, other=versions("other", v1=[]))
    titles([want("a")], offers)
    assert sorted(set(offers.asked)) == ["a", "radio"]
    assert len(offers.asked) == 2


def test_a_dependency_on_a_package_inside_the_image_is_satisfied_by_it() -> None:
    offers = Table(
        a=versions("a", v1=["openssl >=3"]),
        b=versions("b", v1=["openssl >=3.2"]),
        openssl=[release("openssl", v, kind="system") for v in ("3.0", "3.2")],
    )
    found = resolve([want("a")], offers, GATEWAY, (), upgrade=())
    assert [item.name for item in found.packages] == ["a"]
    assert found.from_image == (("openssl", "3.1"),)
    assert titles([want("a"), want("b")], offers) == ["a 1", "b 1", "openssl 3.2"]
    assert titles([want("openssl")], offers) == ["openssl 3.2"]


def test_what_a_library_needs_of_the_image_counts_for_the_package_that_uses_it() -> None:
    offers = Table(
        a=versions("a", v1=["libtls"]),
        libtls=versions("libtls", "library", v1=["openssl >=3.2"]),
        openssl=[release("openssl", "3.2", kind="system")],
    )
    found = resolve([want("a")], offers, GATEWAY, (), upgrade=())
    assert [item.name for item in found.packages] == ["a", "libtls", "openssl"]
    assert found.packages[0].needs == ("openssl",)


def test_an_interface_must_be_offered_in_an_accepted_version() -> None:
    offers = Table(
        radio=[
            release("radio", "1", provides=["org.Radio 1.2"]),
            release("radio", "2", provides=["org.Radio 1.10"]),
            release("radio", "3", provides=["org.Radio 2.0"]),
            release("radio", "4"),
        ],
        hotspot=[release("hotspot", "1", "radio", requires=["org.Radio radio >=1.3, <2.0"])],
    )
    assert titles([want("hotspot")], offers) == ["hotspot 1", "radio 2"]


def test_a_wanted_package_is_not_held_back_by_one_that_nobody_asked_for() -> None:
    offers = Table(
        a=versions("a", v1=["helper"]),
        helper=versions("helper", v1=[], v2=["zeta <2"]),
        zeta=versions("zeta", v1=[], v2=[]),
    )
    assert titles([want("a"), want("zeta")], offers) == ["a 1", "helper 1", "zeta 2"]


def test_a_version_that_makes_a_circle_is_passed_over() -> None:
    offers = Table(
        a=versions("a", v1=[], v2=["b"]),
        b=versions("b", v1=["a"]),
    )
    assert titles([want("b")], offers) == ["a 1", "b 1"]


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (release("a", "1", architecture="arm64"), "is for arm64, this device is amd64"),
        (
            release("a", "1", systems=["gateway <2", "kiosk"]),
            "is for gateway <2 or kiosk, this device runs gateway 2.0",
        ),
        (
            release("a", "1", capabilities=["net.fly"]),
            "asks for net.fly, which this system does not have",
        ),
        (
            release("a", "1", capabilities=["net.raw"]),
            "asks for net.raw, which this system grants to no package",
        ),
        (
            release("a", "1", requires=["org.Radio radio"]),
            "calls org.Radio of radio without depending on it",
        ),
        (
            release("a", "1", kind="system"),
            "replaces a of the image, and this image has none",
        ),
        (
            release("a", "1", "radio", kind="library"),
            "is a library and depends on radio, which is a feature",
        ),
        (release("a", "1", "gone"), "leads to gone"),
    ],
)
def test_a_release_that_cannot_be_used_is_ruled_out_with_the_reason(
    made: object, reason: str
) -> None:
    offers = Table(a=[made], radio=RADIO)  # type: ignore[list-item]
    told = refusal([want("a")], offers)
    if reason == "leads to gone":
        assert "you asked for a; a 1 needs gone" in told
        assert "gone:\n  nobody offers it" in told
    else:
        assert f"a:\n  1: {reason}" in told


def test_a_quarantined_version_is_passed_over_unless_it_may_be_retried() -> None:
    failed = replace(GATEWAY, quarantined=frozenset({("radio", "2.1")}))
    offers = Table(radio=RADIO)
    assert titles([want("radio")], offers, environment=failed) == ["radio 2"]
    retry = replace(failed, retry=frozenset({"radio"}))
    assert titles([want("radio")], offers, environment=retry) == ["radio 2.1"]
    told = refusal([want("radio >=2.1")], offers, environment=failed)
    assert "2.1: failed on this device before" in told
    assert "try the version of radio again that failed on this device before" in told


def test_state_that_a_version_cannot_take_over_rules_it_out() -> None:
    check = Check(kind="active")
    manifest = Package(
        name="vpn", version="2", kind="feature", publisher="p", architecture="all", summary="",
        services=(Service(name="s", command=("/usr/bin/s",), check=check, state=True),),
        state_version=3,
        migrations=(Migration("s", 3, 2, ("/usr/bin/down",)),),
    )  # fmt: skip
    there = [installed_from(manifest, "digest-of-vpn-2")]
    assert there[0].migrates_to == (2,)
    offers = Table(
        vpn=[
            release("vpn", "1", state=2),
            release("vpn", "1.5", state=1),
            release("vpn", "3", state=4, takes=[3]),
            release("vpn", "4", state=5, takes=[4]),
        ]
    )
    kept = want("vpn", INSTALLED)
    assert titles([kept], offers, there, upgrade=None) == ["vpn 3"]
    assert titles([want("vpn <2")], offers, there) == ["vpn 1"]
    assert "4: keeps its state in schema 5 and cannot take over schema 3 of 2" in refusal(
        [want("vpn >3")], offers, there
    )


def test_a_conflict_between_two_packages_is_told_and_what_would_help() -> None:
    offers = Table(
        hotspot=versions("hotspot", v1=["radio >=2"], v2=["radio >=2"], v2_1=["radio >=2.1"]),
        radio=RADIO,
        vpn=[
            release("vpn", "1.0", "radio <2"),
            release("vpn", "1.1", systems=["gateway >=2.5"]),
        ],
        other=versions("other", v1=["radio"]),
    )
    there = [present("vpn", release("vpn", "1.0", "radio <2"))]
    wants = [want("hotspot"), want("other"), want("vpn", INSTALLED)]
    assert (
        refusal(wants, offers, there)
        == """\
cannot find versions that fit together for hotspot and vpn
you asked for hotspot; hotspot 2.1 needs radio >=2.1
vpn is installed; vpn 1.0 needs radio <2
radio:
  2.1: vpn 1.0 needs <2
  2, 1.9: hotspot 2.1 needs >=2.1
other versions of hotspot:
  2, 1: needs radio >=2
other versions of vpn:
  1.1: is for gateway >=2.5, this device runs gateway 2.0
what would help:
  update the system to 2.5 or later
  remove vpn
  go without hotspot"""
    )


def test_a_version_that_holds_another_back_is_told_with_the_update_that_helps() -> None:
    offers = Table(
        hotspot=versions("hotspot", v1=["radio <2"], v2=["radio >=2"]),
        radio=RADIO,
        tuner=versions("tuner", v1=["radio >=2.1"]),
    )
    there = [present("hotspot", offers.packages["hotspot"][0])]
    wants = [want("tuner"), want("hotspot =1", INSTALLED)]
    assert (
        refusal(wants, offers, there)
        == """\
cannot find versions that fit together for tuner and hotspot =1
you asked for tuner; tuner 1 needs radio >=2.1
hotspot =1 is installed; hotspot 1 needs radio <2
radio:
  2.1: hotspot 1 needs <2
  2, 1.9: tuner 1 needs >=2.1
other versions of hotspot:
  2: hotspot =1 is installed
what would help:
  update hotspot as well, to 2
  remove hotspot
  go without tuner"""
    )


def test_a_name_that_nobody_offers_is_told() -> None:
    assert (
        refusal([want("nothing")], Table())
        == """\
cannot find a fitting version of nothing
you asked for nothing
nothing:
  nobody offers it
nothing on offer helps; ask the publisher for a version that fits"""
    )


def test_a_circle_is_spelled_out() -> None:
    offers = Table(a=versions("a", v1=["b"]), b=versions("b", v1=["c"]), c=versions("c", v1=["a"]))
    assert (
        refusal([want("a")], offers)
        == """\
cannot find a fitting version of a
they need each other in a circle: a 1 needs b 1 needs c 1 needs a 1
the publisher has to remove one of these needs"""
    )


def test_libraries_that_do_not_go_together_are_told() -> None:
    offers = Table(
        a=versions("a", v1=["libx", "libz >=2"]),
        libx=versions("libx", "library", v1=["libz <2"]),
        libz=versions("libz", "library", v1=[], v2=[]),
    )
    assert (
        refusal([want("a")], offers)
        == """\
cannot find a fitting version of a
you asked for a
a:
  1: no versions of its libraries fit together: libx, libz
nothing on offer helps; ask the publisher for a version that fits"""
    )


def test_a_version_that_does_not_exist_is_answered_with_one_that_does() -> None:
    assert (
        refusal([want("radio =3")], Table(radio=RADIO))
        == """\
cannot find a fitting version of radio =3
you asked for radio =3
radio:
  2.1, 2, 1.9: you asked for radio =3
what would help:
  ask for radio 2.1 instead of radio =3"""
    )
