"""The EFI driver that arms the watchdog before the kernel: compiled and signed.

systemd-boot starts signed drivers from /EFI/systemd/drivers/; `systemd_boot`
says under which name.
"""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path

from imager.signing import PeSigner
from imager.tools import Tools
from manifests.board import Architecture, Watchdog
from recovery.errors import ManifestError

# Kernel module of the watchdog -> source of the EFI driver that arms the same hardware.
DRIVERS = {"i6300esb": "i6300esb.c"}
_TARGETS: dict[Architecture, str] = {
    "x86_64": "x86_64-unknown-windows",
    "aarch64": "aarch64-unknown-windows",
}


def driver_source(watchdog: Watchdog) -> bytes:
    """The C source for the board's watchdog. Raises ManifestError when there is none."""
    name = DRIVERS.get(watchdog.driver)
    if name is None:
        raise ManifestError(
            f"cannot arm the watchdog {watchdog.driver} in the firmware: no EFI driver for it",
            details=f"there are drivers for: {', '.join(sorted(DRIVERS))}",
            resolution="set watchdog.boot_stage: none, or write imager/firmware/watchdog/NAME.c",
        )
    return resources.files("imager.firmware").joinpath("watchdog", name).read_bytes()


def build_watchdog_driver(
    watchdog: Watchdog,
    architecture: Architecture,
    signer: PeSigner,
    output: Path,
    tools: Tools,
) -> None:
    """Compiles and signs the driver; the same inputs give the same bytes.

    Raises ManifestError when the board's watchdog or architecture has no
    driver, ToolError when compiling or signing fails.
    """
    source = driver_source(watchdog)
    target = _target(architecture)
    with tempfile.TemporaryDirectory(prefix="orbital-driver.") as directory:
        # Fixed relative names: no path of this machine gets into the object.
        Path(directory, "driver.c").write_bytes(source)
        where = Path(directory)
        tools.run(
            "clang", f"--target={target}", "-std=c11", "-Os", "-Wall", "-Wextra", "-Werror",
            "-ffreestanding", "-fshort-wchar", "-mno-stack-arg-probe", "-fno-stack-protector",
            f"-DTIMEOUT_SECONDS={watchdog.timeout_seconds}",
            "-c", "driver.c", "-o", "driver.o",
            cwd=where,
        )  # fmt: skip
        # /Brepro: a digest in place of the time stamp.
        tools.run(
            "lld-link", "/subsystem:efi_boot_service_driver", "/entry:efi_main", "/nodefaultlib",
            "/Brepro", "/out:driver.efi", "driver.o",
            cwd=where,
        )  # fmt: skip
        signer.sign(where / "driver.efi", output)


def _target(architecture: Architecture) -> str:
    if architecture not in _TARGETS:
        raise ManifestError(
            f"cannot build an EFI driver for {architecture}",
            details=f"possible: {', '.join(sorted(_TARGETS))}",
            resolution="set watchdog.boot_stage: none",
        )
    return _TARGETS[architecture]
