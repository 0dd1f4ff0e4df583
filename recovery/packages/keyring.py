"""The kernel's `.fs-verity` keyring: whose signatures count. Filled early in boot, then locked.

The certificates lie in the verified image, so the disk's state has no say in
it. After `restrict` nobody can add a key until the next boot, root included.
Numbers: Linux, include/uapi/linux/keyctl.h; syscall tables of the architectures.
"""

from __future__ import annotations

import ctypes
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Machine (uname) → numbers of add_key and keyctl.
_GENERIC = (217, 219)
_SYSCALLS = {
    "x86_64": (248, 250),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "armv7l": (309, 311),
    "armv8l": (309, 311),
}
_RESTRICT_KEYRING = 29
_KEYRING = ".fs-verity"
_REQUIRE_SIGNATURES = "proc/sys/fs/verity/require_signatures"

_libc = ctypes.CDLL(None, use_errno=True)


def fill(certificates: Iterable[Path], root: Path) -> list[str]:
    """Adds the certificates (X.509, DER), locks the keyring and makes signatures mandatory.

    Does what it can and returns notes of what failed: a certificate that does
    not load means that its publisher's packages are refused. Done once a boot;
    later calls change nothing, since the keyring is locked. An image that
    trusts no publisher may have a kernel without the keyring: nothing to tell.

    Should a step fail, packages are not trusted more: the kernel checks every
    signature that a file has, and `recovery.packages.store` insists on one.
    """
    notes: list[str] = []
    certificates = tuple(certificates)
    try:
        keyring = find(root)
        for path in certificates:
            try:
                _add(keyring, path.read_bytes())
            except OSError as error:
                if error.errno == errno.EPERM:
                    break  # locked: this boot has filled it
                notes.append(f"cannot trust {path.name}: {error.strerror}")
        _restrict(keyring)
        # Not before the keys are there: files under fs-verity could not be opened.
        (root / _REQUIRE_SIGNATURES).write_text("1\n")
    except (FileNotFoundError, LookupError) as error:
        if certificates:
            notes.append(f"cannot trust packages: {error}")
    except OSError as error:
        notes.append(f"cannot lock the keyring of packages: {error}")
    return notes


def find(root: Path) -> int:
    """The serial number of the keyring (proc_keys(5)). Raises LookupError, OSError."""
    for line in _keys(root).split("\n"):
        words = line.split(None, 8)
        if len(words) == 9 and words[7] == "keyring" and words[8].startswith(f"{_KEYRING}:"):
            return int(words[0], 16)
    raise LookupError("the kernel has no keyring .fs-verity (CONFIG_FS_VERITY_BUILTIN_SIGNATURES)")


def requires_signatures(root: Path) -> bool:
    """Whether the kernel opens only signed files under fs-verity."""
    try:
        return (root / _REQUIRE_SIGNATURES).read_text().strip() == "1"
    except OSError:
        return False


def _keys(root: Path) -> str:
    # Programs choose what their keys are called: any bytes, though no newline.
    return (root / "proc/keys").read_text(errors="replace")


def _add(keyring: int, certificate: bytes) -> None:
    _call(
        0,
        ctypes.c_char_p(b"asymmetric"),
        # No description: the kernel makes one from the certificate.
        ctypes.c_char_p(None),
        ctypes.c_char_p(certificate),
        ctypes.c_size_t(len(certificate)),
        ctypes.c_int32(keyring),
    )


def _restrict(keyring: int) -> None:
    try:
        # No type: no key can be linked to it any more.
        _call(1, ctypes.c_int(_RESTRICT_KEYRING), ctypes.c_int32(keyring), None, None, None)
    except OSError as error:
        if error.errno != errno.EEXIST:  # restricted already
            raise


def _call(which: int, *arguments: object) -> int:
    machine = os.uname().machine
    if machine not in _SYSCALLS:
        raise OSError(errno.ENOSYS, f"unknown machine {machine}")
    done: int = _libc.syscall(ctypes.c_long(_SYSCALLS[machine][which]), *arguments)
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done
