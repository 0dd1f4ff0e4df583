"""What packages do to the system around them: layers over the image, and who opens what."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qemu.device import Device
from qemu.lab import Lab
from qemu.server import Server
from qemu.variants import package_folder

pytestmark = [pytest.mark.boot, pytest.mark.campaign]

RULES = "/usr/lib/routing/ruleset.nft"
OLD_CHAIN, NEW_CHAIN = "chain postrouting", "chain postrouting_fixed"


def test_a_critical_update_of_a_system_package_lies_over_the_image_until_it_is_removed(
    stocked: Device, stock: Lab, shop: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "routing"
    shutil.copytree(package_folder("routing"), folder)
    rules = folder / "tree/usr/lib/routing/ruleset.nft"
    rules.write_text(rules.read_text().replace(OLD_CHAIN, NEW_CHAIN))
    stock.offer_package("routing", version="1.1", folder=folder, publisher="publisher")
    boot = stocked.machine.shell.boot_id
    assert OLD_CHAIN + " {" in stocked.machine.run("nft list table inet routing").output

    stocked.install(shop.url, "routing")
    # The system's own /usr has the new files, and the unit that uses them was restarted.
    assert NEW_CHAIN in stocked.machine.run(f"cat {RULES}").output
    assert NEW_CHAIN in stocked.machine.run("nft list table inet routing").output
    assert stocked.packages()["routing"]["version"] == "1.1"
    # Nothing else of /usr has changed or is missing.
    assert stocked.machine.run("ls /usr/lib/routing").output.split() == ["check", "ruleset.nft"]
    assert stocked.machine.run("/usr/sbin/nft --version").returncode == 0

    stocked.package("remove", "routing")
    assert NEW_CHAIN not in stocked.machine.run(f"cat {RULES}").output
    assert NEW_CHAIN not in stocked.machine.run("nft list table inet routing").output
    assert stocked.machine.shell.boot_id == boot


def test_an_address_is_opened_by_the_package_that_registered_its_scheme(stocked: Device) -> None:
    registered = stocked.package("open")["associations"]
    assert {"kind": "protocol", "match": "wg", "package": "wireguard", "program": "add"} in (
        registered
    )
    key = "A" * 43 + "="
    stocked.orbital("package", "open", f"wg:{key}@192.0.2.1:51820?allowed=10.9.0.7/32")
    peers = stocked.machine.run("cat /state/orbital/layers/wireguard/*/state/tunnel/peers").output
    assert key in peers and "10.9.0.7/32" in peers
    assert "no installed package" in stocked.refused("package", "open", "gopher://192.0.2.1")
    stocked.package("remove", "wireguard")
    assert stocked.package("open")["associations"] == []
