"""The keyring on kernels that do not have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.packages import keyring

OTHERS = "0a1b2c3d I--Q---  1 perm 1f3f0000     0 65534 keyring   _uid_ses.0: 1\n"


def with_keys(root: Path, text: str) -> Path:
    """A root directory whose kernel has these keys."""
    (root / "proc").mkdir()
    (root / "proc/keys").write_text(text)
    return root


def test_the_keyring_is_found_by_its_exact_name(tmp_path: Path) -> None:
    near = "11111111 I------  1 perm 082f0000  0  0 keyring   .fs-verity-2: empty\n"
    right = "2a9d01b4 I------  1 perm 082f0000  0  0 keyring   .fs-verity: 3\n"
    root = with_keys(tmp_path, OTHERS + near + right)
    assert keyring.find(root) == 0x2A9D01B4


def test_a_kernel_without_the_keyring_is_told_if_a_publisher_is_trusted(tmp_path: Path) -> None:
    root = with_keys(tmp_path, OTHERS)
    with pytest.raises(LookupError):
        keyring.find(root)
    assert keyring.fill([], root) == []
    (note,) = keyring.fill([tmp_path / "acme.der"], root)
    assert "CONFIG_FS_VERITY_BUILTIN_SIGNATURES" in note
    assert not keyring.requires_signatures(root)
