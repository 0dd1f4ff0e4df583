"""The partition `environment` for GRUB, as the factory writes it.

Two copies of the record in the file system that lets GRUB write them
(recovery/bootcontrol/grubenv.py and grubfiles.py).
"""

from __future__ import annotations

from recovery.bootcontrol import grubenv, grubfiles
from recovery.bootcontrol.copies import OFFSETS
from recovery.bootcontrol.recorded import GOOD, Record


def factory_environment() -> bytes:
    """The partition of a new device: slot a is good, there is no other one."""
    copy = grubenv.encode(grubenv.Block(Record(("a",), a=GOOD)))
    image = bytearray(OFFSETS[1] + grubfiles.BLOCK)
    files = grubfiles.file_system()
    image[grubfiles.START : grubfiles.START + len(files)] = files
    for offset in OFFSETS:
        image[offset : offset + len(copy)] = copy
    return bytes(image)
