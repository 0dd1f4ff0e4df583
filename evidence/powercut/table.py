"""The partition table as firmware and kernel find it: the primary one, else its backup.

The backup's header is the last sector of the disk (UEFI Specification 2.10, chapter 5.3.2); the
kernel looks there because of `gpt` on its command line.
"""

from __future__ import annotations

from evidence.powercut.fat import Bytes
from qemu import gpt
from qemu.errors import MachineError


def find_table(disk: Bytes) -> tuple[gpt.Partition, ...]:
    """The partitions. Raises MachineError when neither table is whole."""

    def read(offset: int, length: int) -> bytes:
        return disk[offset : offset + length].tobytes()

    def read_backup(offset: int, length: int) -> bytes:
        # The reader asks for the header where the primary one is.
        return read(disk.size - gpt.SECTOR if offset == gpt.SECTOR else offset, length)

    try:
        return gpt.read_partitions(read)
    except MachineError:
        return gpt.read_partitions(read_backup)
