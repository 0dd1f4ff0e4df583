"""The folder of the boot entries must not grow: found by the power-cut campaign, in a rollback."""

from __future__ import annotations

import pytest

from manifests.catalogue import load_product
from recovery.fat import sectors_per_cluster

ENTRY = 32
# Two entries and those that replace them, a temporary file, each with its long name.
MOST_ENTRIES = 2 + 4 * 3 + 2 * 5


@pytest.mark.parametrize("board", ["qemu-x86_64", "qemu-x86_64-nvme", "qemu-aarch64"])
def test_the_boot_entries_fit_into_one_cluster_of_the_esp(board: str) -> None:
    (esp,) = (
        part
        for part in load_product("gateway", board).board.layout.partitions
        if part.role == "esp"
    )
    sectors = sectors_per_cluster(esp.size)
    assert sectors * 512 >= MOST_ENTRIES * ENTRY
    assert esp.size // (sectors * 512) > 65_525, "still a FAT32"


def test_a_small_partition_stays_a_fat32() -> None:
    assert sectors_per_cluster(40 << 20) == 1
    assert sectors_per_cluster(1 << 30) == 8
