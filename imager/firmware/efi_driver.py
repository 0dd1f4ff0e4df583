"""EFI drivers: the one that arms the watchdog before the kernel, the one that counts starts.

systemd-boot starts signed drivers from /EFI/systemd/drivers/; `systemd_boot`
says under which names. Each is compiled from one file of `efi/`.
"""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path

from imager.signing import PeSigner
from imager.tools import Tools
from manifests.board import Architecture, Watchdog
from recovery.errors import ManifestError

DRIVERS = ("watchdog", "loads")
# Kernel module of the watchdog -> source of the EFI driver that arms the same hardware.
WATCHDOGS = {"i6300esb": "i6300esb.c"}
TARGETS: dict[Architecture, str] = {
    "x86_64": "x86_64-unknown-windows",
    "aarch64": "aarch64-unknown-windows",
}
_HEADER = "efi.h"


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
    name = WATCHDOGS.get(watchdog.driver)
    if name is None:
        raise ManifestError(
            f"cannot arm the watchdog {watchdog.driver} in the firmware: no EFI driver for it",
            details=f"there are drivers for: {', '.join(sorted(WATCHDOGS))}",
            resolution="set watchdog.boot_stage: none, or write imager/firmware/efi/NAME.c",
        )
    if architecture not in TARGETS:
        raise ManifestError(
            f"cannot build an EFI driver for {architecture}",
            details=f"possible: {', '.join(sorted(TARGETS))}",
            resolution="set watchdog.boot_stage: none",
        )
    timeout = f"-DTIMEOUT_SECONDS={watchdog.timeout_seconds}"
    _build(name, architecture, signer, output, tools, definitions=(timeout,))


def build_loads_driver(
    architecture: Architecture, signer: PeSigner, output: Path, tools: Tools
) -> None:
    """The driver of `recovery.bootcontrol.loads`, for an architecture of `TARGETS`.

    Raises ToolError.
    """
    _build("loads.c", architecture, signer, output, tools)


def _build(
    name: str,
    architecture: Architecture,
    signer: PeSigner,
    output: Path,
    tools: Tools,
    *,
    definitions: tuple[str, ...] = (),
) -> None:
    """Compiles, links and signs one file of `efi/`. definitions: options of the compiler."""
    sources = resources.files("imager.firmware").joinpath("efi")
    with tempfile.TemporaryDirectory(prefix="orbital-driver.") as directory:
        where = Path(directory)
        # Fixed relative names: no path of this machine gets into the object.
        (where / "driver.c").write_bytes(sources.joinpath(name).read_bytes())
        (where / _HEADER).write_bytes(sources.joinpath(_HEADER).read_bytes())
        tools.run(
            "clang", f"--target={TARGETS[architecture]}", "-std=c11", "-Os", "-Wall", "-Wextra",
            "-Werror", "-ffreestanding", "-fshort-wchar", "-mno-stack-arg-probe",
            "-fno-stack-protector", *definitions, "-c", "driver.c", "-o", "driver.o",
            cwd=where,
        )  # fmt: skip
        # /Brepro: a digest in place of the time stamp.
        tools.run(
            "lld-link", "/subsystem:efi_boot_service_driver", "/entry:efi_main", "/nodefaultlib",
            "/Brepro", "/out:driver.efi", "driver.o",
            cwd=where,
        )  # fmt: skip
        signer.sign(where / "driver.efi", output)
