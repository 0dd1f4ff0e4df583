"""What hardware and kernel kept of boots that never came back to tell: watchdog and pstore."""

from __future__ import annotations

import re
from pathlib import Path

# WDIOF_CARDRESET, include/uapi/linux/watchdog.h: "Card previously reset the CPU".
_CARD_RESET = 0x20
_PANIC = re.compile(r"Kernel panic - not syncing:[^\n]*")
_LENGTH = 200


def gather(root: Path = Path("/")) -> str:
    """A few words about the last failures; "" when nothing was kept."""
    found = [text for text in (panic_line(root), watchdog_reset(root)) if text]
    return "; ".join(found)


def panic_line(root: Path) -> str:
    """The kernel's last words in persistent storage, if it panicked."""
    for folder in ("sys/fs/pstore", "var/lib/systemd/pstore"):
        for path in sorted((root / folder).glob("**/dmesg*"), reverse=True):
            try:
                match = _PANIC.search(path.read_text(errors="replace"))
            except OSError:
                continue
            if match is not None:
                return match[0][:_LENGTH]
    return ""


def watchdog_reset(root: Path) -> str:
    """Whether the hardware watchdog ended the boot before this one."""
    try:
        status = int((root / "sys/class/watchdog/watchdog0/bootstatus").read_text(), 0)
    except (OSError, ValueError):
        return ""
    return "the watchdog reset the machine" if status & _CARD_RESET else ""
