"""What systemd-boot reads on the ESP besides the boot artifacts."""

from __future__ import annotations

# No menu, no editor: nobody at the console changes what boots, and no choice made there is
# remembered in a firmware variable that would win over our entries. Only our entries
# (ARCHITECTURE.md), not what happens to lie in EFI/Linux. See loader.conf(5).
LOADER_CONF = """\
timeout menu-disabled
editor no
auto-entries no
auto-firmware no
secure-boot-enroll off
"""
RESCUE_ENTRY = "orbital-rescue.conf"
LOADER_PATHS = {
    "x86_64": "EFI/BOOT/BOOTX64.EFI",
    "aarch64": "EFI/BOOT/BOOTAA64.EFI",
    "riscv64": "EFI/BOOT/BOOTRISCV64.EFI",
}
EFI_SUFFIXES = {"x86_64": "x64", "aarch64": "aa64", "riscv64": "riscv64"}


def loader_source(architecture: str) -> str:
    """systemd-boot's unsigned binary, a path in the tools tree."""
    return f"usr/lib/systemd/boot/efi/systemd-boot{EFI_SUFFIXES[architecture]}.efi"


def driver_path(name: str, architecture: str) -> str:
    """Where systemd-boot finds the driver of that name on the ESP."""
    return f"EFI/systemd/drivers/orbital-{name}{EFI_SUFFIXES[architecture]}.efi"


def rescue_entry(path: str) -> str:
    """The entry of the rescue system, at path on its partition.

    No tries, so before slots that have used up theirs; version 0, so after all others.
    """
    return f"title Orbital rescue\nsort-key orbital\nversion 0\nefi /{path}\n"
