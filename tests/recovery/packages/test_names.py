"""Names that would become another path, unit or user than their own."""

from __future__ import annotations

import pytest

from recovery.errors import StateError, TrustError
from recovery.generations import PackageEntry
from recovery.packages import names, users
from recovery.packages.model import Package, Program
from tests.recovery.packages.builders import entry, package, provided, service


def test_an_ordinary_package_passes() -> None:
    names.check_manifest(package("vpn", service(), overlay=("usr/bin/wg",), provides=(provided(),)))
    names.check_entry(entry(uses=("cd" * 32,)))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (package("../etc"), "not a name"),
        (package("vpn", service("a.b")), "not a name"),
        (package("vpn", service(), service()), "same name"),
        (package("vpn", service(command=("/bin/sh",))), "not below /usr"),
        (package("vpn", service(command=())), "not below /usr"),
        (package("vpn", version="1/2"), "not a version"),
        (package("vpn", overlay=("usr/../etc/passwd",)), "not a path below usr"),
        (package("vpn", overlay=("etc/passwd",)), "not a path below usr"),
        (package("vpn", service(), provides=(provided("org.freedesktop.login1"),)), "system's"),
        (package("vpn", service(), provides=(provided('a.b"/>'),)), "not a bus name"),
        (package("vpn", service(), provides=(provided(service="no"),)), "no service"),
        (package("vpn", service(after=("no",))), "not in the package"),
        (package("vpn", programs=(Program("p", ("/usr/bin/x",), state_of="no"),)), "no service"),
        (package("vpn", *(service(f"s{n}") for n in range(17))), "more than 16"),
    ],
)
def test_a_manifest_that_says_too_much_is_refused(wrong: Package, why: str) -> None:
    with pytest.raises(TrustError, match=why):
        names.check_manifest(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        entry(uid=0),
        entry(uid=50001),
        entry(uid=59999),
        entry("../x"),
        entry(digest="../../etc/passwd"),
        entry(uses=("..",)),
    ],
)
def test_an_entry_from_a_disk_that_somebody_wrote_is_refused(wrong: PackageEntry) -> None:
    with pytest.raises(StateError):
        names.check_entry(wrong)


def test_users_are_unique_by_number_and_short_enough() -> None:
    name = users.user_name("a-very-long-package-name", "a-long-service", 50016)
    assert name == "p50016-a-very-long-package-name"
    assert len(name) <= 31
    assert all(users.is_ours(file) for file in users.records(name, 50016))
    assert all(users.is_ours(file) for file in users.links(name, 50016))
    assert not users.is_ours("1000.user")
    assert not users.is_ours("pi.user")
