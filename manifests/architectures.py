"""Names of architectures."""

from __future__ import annotations

DEBIAN = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "armhf": "armhf"}
"""Debian's name of each architecture that a board may have."""
