"""How large the clusters of a FAT32 are: one rule for the imager and for rescue."""

from __future__ import annotations

SECTOR = 512


def sectors_per_cluster(size: int) -> int:
    """Of a FAT32 of size bytes: as many as leave it one, at most 8 (4 KiB).

    mkfs.vfat would take one: then a directory holds 16 entries, and the folder of the boot entries
    grows when the third file is made in it. That changes two sectors of the table, and a power
    cut between them leaves a folder whose chain leads nowhere.
    """
    sectors = 8
    # FAT32 has 65,525 clusters at least; some room for the tables.
    while sectors > 1 and size // (sectors * SECTOR) < 70_000:
        sectors //= 2
    return sectors
