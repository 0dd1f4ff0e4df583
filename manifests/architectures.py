"""Names of architectures."""

from __future__ import annotations

DEBIAN = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "armhf": "armhf"}
"""Debian's name of each architecture that a board may have."""

LOADERS = {
    "x86_64": "ld-linux-x86-64.so.2",
    "aarch64": "ld-linux-aarch64.so.1",
    "riscv64": "ld-linux-riscv64-lp64d.so.1",
    "armhf": "ld-linux-armhf.so.3",
}
"""Name (soname) of glibc's dynamic loader on each architecture."""
