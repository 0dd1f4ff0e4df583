"""Starts that do not reach early boot, counted by an EFI driver: boards with systemd-boot.

    OrbitalLoads    count, limit: two bytes, in a variable of the firmware that lasts

`imager/firmware/efi/loads.c` runs in every start before systemd-boot chooses. It counts one
up, or, when the count has reached the limit, makes rescue what starts next and writes
`ASKED` in the place of the count; early boot takes the count back. GRUB's and U-Boot's
scripts do the same in the start record (`recovery.starts`), for starts that take no try.

The driver counts tries as well, so the limit is beyond those of a trial. It counts nothing
while the variable is absent: a healthy start makes it, and so only firmware whose variables
Linux can write counts at all. A power cut in a write leaves the value before or the new one
(UEFI specification, 8.2).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from recovery import efivars
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.device import DeviceConfig

VARIABLE = f"{efivars.DIRECTORY}/OrbitalLoads-e5347d46-a09c-4179-8c47-66d170441848"
ASKED = 255
# Starts that are no try beside those of a trial: cut by the power, or ended in a menu.
_BESIDE_TRIAL = 2


class Loads(Value):
    """count: starts since one reached early boot, or `ASKED`. limit: then rescue starts."""

    count: int
    limit: int


def decode(value: bytes) -> Loads | None:
    """What the variable's value says; None when it is not one of ours."""
    return Loads(*value) if len(value) == 2 else None


def encode(loads: Loads) -> bytes:
    """The variable's value."""
    return bytes((loads.count, loads.limit))


def take_back(root: Path = Path("/")) -> Loads | None:
    """Early boot and rescue have been reached: 0 again. Returns what was counted.

    None when nothing is counted here. Never an error of the boot: without it a later healthy
    start takes the count back.
    """
    with suppress(OSError):
        found = decode(efivars.read(root / VARIABLE))
        if found is not None and found.count:
            efivars.write(root / VARIABLE, encode(Loads(0, found.limit)))
        return found
    return None


def ensure(config: DeviceConfig, root: Path = Path("/")) -> None:
    """Makes sure that starts are counted from here on. Never an error of the boot."""
    if not config.rescue.partition or not (root / efivars.DIRECTORY).is_dir():
        return
    wanted = encode(Loads(0, limit(config.trial.tries)))
    with suppress(OSError):
        if efivars.read(root / VARIABLE) != wanted:
            efivars.write(root / VARIABLE, wanted)


def limit(tries: int) -> int:
    """From how many starts on rescue comes. tries: of a trial."""
    from recovery.starts import MOST_LOADS  # Not for early boot, which imports little.

    return min(max(MOST_LOADS, tries + _BESIDE_TRIAL), ASKED - 1)
