"""A disk from the factory: boots under Secure Boot, and refuses what is not signed by us."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from imager.disk import build_factory_disk
from imager.keys import make_development_keys
from imager.signing import load_pe_signer
from qemu.device import Device
from qemu.fixtures import MachineFactory
from qemu.lab import BUILT, DISK_SIZE, Lab
from recovery import process

pytestmark = pytest.mark.boot


def test_the_factory_disk_boots_under_secure_boot_and_is_what_its_manifests_say(
    device: Device,
) -> None:
    status = device.status()
    assert (status["version"], status["slot"], status["committed"]) == ("1.0", "a", True)
    assert [package["name"] for package in status["packages"]] == ["interface-manager", "routing"]
    run = device.machine.run
    # The last byte of the variable is its value; four bytes of attributes come first.
    secure_boot = run(
        "od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    ).output
    assert secure_boot.strip() == "1"
    mounts = run("findmnt -rno TARGET,SOURCE,FSTYPE,OPTIONS /; findmnt -rno FSTYPE /etc").output
    assert "/dev/mapper/root erofs ro" in mounts
    assert "overlay" in mounts
    assert run("touch /usr/x", check=False).returncode != 0
    assert device.ask("system", "health")["healthy"] is True
    assert [event["event"] for event in device.history()][:1] == ["factory"]


@pytest.mark.campaign
def test_the_state_partition_grows_to_the_disk_on_the_first_boot(device: Device, lab: Lab) -> None:
    last = lab.product.board.state_partition
    run = device.machine.run
    run("while systemctl -q is-active orbital-grow.service; do sleep 0.5; done", 60)
    size = int(run("findmnt -bno SIZE /state").output)
    others = sum(part.size for part in lab.product.board.layout.partitions) - last.size
    room = DISK_SIZE - others
    assert size > 0.9 * room > last.size


@pytest.mark.parametrize("signature", ["unsigned", "wrongly-signed"])
def test_the_firmware_refuses_a_boot_artifact_that_is_not_ours(
    signature: str, lab: Lab, machines: MachineFactory, tmp_path: Path
) -> None:
    """The same disk with one file exchanged: nothing of that file may run."""
    build = lab.build(lab.version)
    foreign = tmp_path / "build"
    subprocess.run(["cp", "-r", "--reflink=auto", build, foreign], check=True)
    artifact = foreign / "boot.img"
    bare = tmp_path / "bare.efi"
    lab.tools.run("osslsigncode", "remove-signature", "-in", artifact, "-out", bare)
    artifact.unlink()
    if signature == "unsigned":
        bare.rename(artifact)
    else:
        make_development_keys(tmp_path / "keys")
        load_pe_signer(tmp_path / "keys", lab.tools, time=BUILT).sign(bare, artifact)
    disk = tmp_path / "disk.img"
    build_factory_disk(foreign, lab.product.board, disk, lab.tools, reporter=lab.reporter)
    machine = machines(lab.hardware, disk, variables=lab.variables, shell=False)
    machine.wait_console("(?i)access denied|security violation", 90)
    assert machine.console.search("Linux version|orbital: initramfs") is None


def test_the_block_map_matches_the_factory_disk(lab: Lab, tmp_path: Path) -> None:
    """What a factory writes with bmaptool is the disk, byte for byte."""
    copy = tmp_path / "copy.img"
    process.run(
        [lab.tools.path("bmaptool"), "copy", "--bmap", f"{lab.factory}.bmap", lab.factory, copy]
    )
    assert process.run(["cmp", lab.factory, copy], check=False).returncode == 0
