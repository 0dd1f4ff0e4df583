"""What a program of a package sees: its own version, its own libraries, for as long as it runs."""

from __future__ import annotations

import pytest

from qemu.device import Device
from qemu.lab import Lab
from qemu.server import Server

pytestmark = [pytest.mark.boot, pytest.mark.campaign]


def test_two_programs_use_two_versions_of_one_library_at_once(stocked: Device) -> None:
    assert stocked.run_program("greeter-old", "greet").output.splitlines()[-1] == (
        "hello from libgreet 1, greeter 1.0"
    )
    assert stocked.run_program("greeter-new", "greet").output.splitlines()[-1] == (
        "hello all from libgreet 2, greeter 1.0"
    )


def test_a_running_program_keeps_its_version_and_the_next_start_sees_the_new_one(
    stocked: Device, stock: Lab, shop: Server
) -> None:
    job = stocked.machine.shell.spawn("orbital package run greeter-old talk")
    while "greeter 1.0" not in job.output():
        assert job.poll() is None, job.output()
    stock.offer_package("greeter-old", version="1.1", content={"directories": ["next"]})
    stocked.package("update", "greeter-old", source=shop.url)
    assert "greeter 1.1" in stocked.run_program("greeter-old", "greet").output
    seen = len(job.output().splitlines())
    lines: list[str] = []
    while len(lines) < seen + 3:
        lines = job.output().splitlines()
        assert job.poll() is None, lines
    assert lines[-1] == "hello from libgreet 1, greeter 1.0", "it re-reads its files: still the old"
    # The old image stays as long as somebody uses it, and as the version to go back to.
    found = stocked.packages()["greeter-old"]
    assert (found["earlier"]["version"], found["old_in_use"]) == ("1.0", ["1.0"])
    assert stocked.package("gc")["images"] == []
