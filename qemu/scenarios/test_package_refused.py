"""A product refuses capabilities to packages: at an update, at install, at each start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from qemu.device import Device
from qemu.lab import Lab
from qemu.server import Server

pytestmark = [pytest.mark.boot, pytest.mark.campaign]

REFUSED = ("system.observe", "time.set")
POLICY = "/usr/lib/orbital/capabilities.json"
UNIT = "orbital.stranger.stand.service"


def test_an_image_that_refuses_what_an_installed_package_asks_for_is_not_installed(
    stocked: Device, stock: Lab, serve: Callable[[Path], Server], tmp_path: Path
) -> None:
    own = Lab(tmp_path)
    manifest = own.product.manifest
    packages = msgspec.structs.replace(manifest.packages, refuse=REFUSED)
    own.product = replace(
        own.product, manifest=msgspec.structs.replace(manifest, packages=packages)
    )
    # It goes on from the repository that the device knows.
    shutil.copytree(stock.repository, own.repository)
    own.offer("9.0")
    text = stocked.refused("system", "update", "--source", serve(own.repository).url)
    assert "stranger" in text, text
    assert "system.observe, which this system grants to no package" in text, text
    assert stocked.status()["trial"] is None


def test_what_the_product_refuses_is_refused_at_install_at_start_and_in_programs(
    stocked: Device, shop: Server
) -> None:
    """The policy of an image that refuses them, laid over the running image's.

    With an image of its own the packages would not have got here: see above.
    """
    run = stocked.machine.run
    policy = {**json.loads(run(f"cat {POLICY}").output), "refused": list(REFUSED)}
    stocked.machine.shell.push("/run/policy.json", json.dumps(policy).encode())
    run(f"mount --bind /run/policy.json {POLICY}")

    # A service that is there already: it has a unit, which says why it does not start.
    stocked.package("disable", "counter")
    assert stocked.packages()["stranger"]["state"] == "refused: system.observe"
    assert run(f"systemctl restart {UNIT}", check=False).returncode != 0
    run("journalctl --sync")
    log = run(f"journalctl -q -b -o cat -u {UNIT}").output
    assert "cannot start stranger: this system does not grant the capability system.observe" in log
    entry = latest(stocked, "package.capability", "stranger")
    assert entry["result"] == "refused"
    assert entry["detail"] == "service stand: this system does not grant system.observe"
    # And the bus has no policy for it any more.
    assert "stranger" not in run("ls /run/orbital/packages/dbus/system.d").output
    assert stocked.unit("teller", "tell")["ActiveState"] == "active"

    # A program.
    assert "does not grant time.set" in stocked.run_program("probe", "time-set", check=False).output
    entry = latest(stocked, "package.run", "probe time-set")
    assert entry["result"] == "refused" and "time.set" in entry["detail"]

    # A package that is not there yet: nothing changes.
    stocked.package("remove", "stranger")
    before, number = stocked.packages(), stocked.status()["running"]
    text = stocked.refused("package", "install", "stranger", "--source", shop.url)
    assert "asks for system.observe, which this system grants to no package" in text, text
    assert (stocked.packages(), stocked.status()["running"]) == (before, number)
    entry = latest(stocked, "package.install", "stranger")
    assert entry["result"] == "refused" and "system.observe" in entry["detail"]


def latest(device: Device, what: str, subject: str) -> dict[str, str]:
    """The newest entry of the audit trail about that."""
    found = [item for item in device.audit() if item["what"] == what and item["subject"] == subject]
    assert found, [(item["what"], item["subject"]) for item in device.audit()[-10:]]
    newest: dict[str, str] = found[-1]
    return newest
