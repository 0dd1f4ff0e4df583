"""The root shell's ways into a guest that knows no SMBIOS: fw_cfg, and the factory's /etc."""

from __future__ import annotations

from pathlib import Path

import pytest

from imager.cache import Cache, default_directory
from imager.layout import plan_layout, sfdisk_script
from imager.tools import Tools, prepare_tools
from manifests.catalogue import find, load_board
from qemu import faults
from qemu.credentials import fw_cfg_options, shell_credentials
from qemu.hardware import of_board
from qemu.planted import plant_shell
from recovery.layer import prepare_layer


@pytest.fixture(scope="module")
def tools() -> Tools:
    return prepare_tools(Cache(default_directory()))


def test_the_shells_credentials_fit_into_fw_cfg() -> None:
    """QEMU refuses names of more than 55 bytes."""
    values = fw_cfg_options(shell_credentials())[1::2]
    prefix = "name=opt/io.systemd.credentials/"
    names = {value.split(",")[0].removeprefix(prefix) for value in values}
    assert names == {
        "orbital-test.agent", "systemd.extra-unit.o.service", "systemd.unit-dropin.-.mount",
    }  # fmt: skip
    assert all(len(value.split(",")[0].removeprefix("name=")) <= 55 for value in values)
    # The unit has one name everywhere.
    assert not any("orbital-test.service" in value for value in values)


@pytest.mark.parametrize(
    ("name", "credentials"),
    [
        ("qemu-x86_64", "smbios"),
        ("qemu-aarch64-uboot", "fw_cfg"),
        ("qemu-riscv64", "none"),
        ("qemu-armhf", "none"),
    ],
)
def test_each_board_gets_the_shell_in_a_way_it_has(name: str, credentials: str) -> None:
    assert of_board(load_board(find("board", name))).credentials == credentials


def test_the_planted_shell_is_the_first_generations_etc(tools: Tools, tmp_path: Path) -> None:
    board = load_board(find("board", "qemu-armhf"))
    layout = plan_layout(board)
    disk, state = tmp_path / "disk", tmp_path / "state"
    for path, size in ((disk, layout.size), (state, layout.extent("state").size)):
        with path.open("wb") as out:
            out.truncate(size)
    tools.run("sfdisk", "--quiet", disk, stdin=sfdisk_script(layout))
    tools.run("mkfs.ext4", "-q", "-F", state)
    faults.write_partition(disk, "state", state)
    plant_shell(disk, tmp_path / "shell.qcow2", "state", tools)
    faults.read_partition(tmp_path / "shell.qcow2", "state", state)
    assert tools.run("e2fsck", "-f", "-n", state, check=False).returncode == 0
    found = tmp_path / "found"
    found.mkdir()
    tools.run("debugfs", "-R", f"rdump /orbital {found}", state)
    layer = found / "orbital/etc/1"
    # As recovery makes a layer: it takes this one as it is.
    assert prepare_layer(found / "orbital", 1, None) == layer
    assert sorted(path.name for path in layer.iterdir()) == ["upper", "work"]
    unit = layer / "upper/systemd/system/orbital-test.service"
    assert "ExecStart=/bin/sh /etc/orbital-test.agent\n" in unit.read_text()
    wanted = layer / "upper/systemd/system/sysinit.target.wants/orbital-test.service"
    assert wanted.resolve() == unit
    agent = layer / "upper/orbital-test.agent"
    assert agent.read_bytes() == shell_credentials()["orbital-test.agent"]
