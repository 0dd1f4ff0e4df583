"""The boot artifact of UEFI boards: kernel, initramfs, command line in one signed PE file (UKI).

The kernel lies open in it where that can be done (`imager.bzimage`): an update of the kernel then
costs what changed in it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from imager.bzimage import open_kernel
from imager.signing import PeSigner
from imager.tools import Tools
from manifests.board import Architecture
from recovery.errors import ManifestError

_STUBS: dict[Architecture, tuple[str, str]] = {
    "x86_64": ("x64", "usr/lib/systemd/boot/efi/linuxx64.efi.stub"),
    "aarch64": ("aa64", "usr/lib/systemd/boot/efi/linuxaa64.efi.stub"),
}


def build_uki(
    *,
    architecture: Architecture,
    linux: Path,
    initramfs: Path,
    command_line: str,
    os_release: bytes,
    uname: str,
    signer: PeSigner,
    output: Path,
    tools: Tools,
    packed: bool = False,
) -> None:
    """Assembles and signs the UKI; the same inputs give the same bytes.

    os_release: the image's, with IMAGE_ID and IMAGE_VERSION. uname: the
    kernel's release. packed: the kernel stays as it is.
    Raises ManifestError for an architecture without UEFI stub, ToolError when
    ukify or signing fails.
    """
    if architecture not in _STUBS:
        raise ManifestError(
            f"cannot build a UKI for {architecture}",
            details=f"possible: {', '.join(sorted(_STUBS))}",
            resolution="use a board with another kind of firmware",
        )
    efi_architecture, stub = _STUBS[architecture]
    with tempfile.TemporaryDirectory(prefix="orbital-uki.") as directory:
        where = Path(directory)
        kernel = linux.read_bytes()
        opened = None if packed else open_kernel(kernel)
        (where / "linux").write_bytes(opened or kernel)
        (where / "os-release").write_bytes(os_release)
        (where / "cmdline").write_text(command_line)
        unsigned = where / "unsigned.efi"
        tools.run(
            "ukify", "build",
            f"--efi-arch={efi_architecture}", f"--stub={tools.file(stub)}",
            f"--linux={where / 'linux'}", f"--initrd={initramfs}", f"--uname={uname}",
            f"--os-release=@{where / 'os-release'}", f"--cmdline=@{where / 'cmdline'}",
            f"--output={unsigned}",
        )  # fmt: skip
        signer.sign(unsigned, output)
