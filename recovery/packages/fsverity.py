"""fs-verity through ioctl(2): make a file immutable and verified, measure it, read its signature.

Numbers and structures: Linux, include/uapi/linux/fsverity.h. The kernel
verifies every block of such a file when it is read; with
`fs.verity.require_signatures=1` it opens only files whose signature is by a
key of the `.fs-verity` keyring (`recovery.packages.keyring`).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path

from recovery.errors import StateError, TrustError

# _IOW('f', 133, struct fsverity_enable_arg), _IOWR('f', 134, struct fsverity_digest),
# _IOWR('f', 135, struct fsverity_read_metadata_arg): the same on all architectures of ours.
_ENABLE = 0x40806685
_MEASURE = 0xC0046686
_READ_METADATA = 0xC0286687
_SHA256 = 1
_BLOCK = 4096
_DIGEST_SIZE = 32
_TYPE_SIGNATURE = 3
_SIGNATURE_AT_MOST = 16128
# EPERM: no signature at all.
_NOT_SIGNED = (errno.EBADMSG, errno.EKEYREJECTED, errno.ENOKEY, errno.EINVAL, errno.EPERM)
_NO_VERITY = (errno.ENODATA, errno.ENOTTY, errno.EOPNOTSUPP)


def enable(path: Path, signature: bytes) -> None:
    """Puts the file under fs-verity with its publisher's signature; it can never be written again.

    signature: PKCS#7, DER; checked by the kernel against its keyring. Durable
    once the file is flushed. Raises TrustError when the kernel refuses the signature,
    StateError when the file system cannot do it, OSError.
    """
    buffer = ctypes.create_string_buffer(signature, len(signature))
    # version, algorithm, block size, salt size, salt, signature size, reserved, signature
    argument = struct.pack(
        "<IIIIQIIQ88x", 1, _SHA256, _BLOCK, 0, 0, len(signature), 0, ctypes.addressof(buffer)
    )
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.ioctl(fd, _ENABLE, argument)
    except OSError as error:
        raise _refusal(path, error) from error
    finally:
        os.close(fd)


def measure(file: Path | int) -> str:
    """The digest that the kernel enforces for the file (path or descriptor), hex.

    Raises TrustError when the file is not under fs-verity or its signature does not hold.
    """
    answer = _ioctl(file, _MEASURE, struct.pack("<HH", 0, _DIGEST_SIZE) + bytes(_DIGEST_SIZE))
    algorithm, size = struct.unpack_from("<HH", answer)
    if (algorithm, size) != (_SHA256, _DIGEST_SIZE):
        raise TrustError(f"cannot trust {file}: its fs-verity hash is not SHA-256")
    return answer[4:].hex()


def signature(file: Path | int) -> bytes:
    """The signature that the file was put under fs-verity with.

    Raises TrustError when there is none.
    """
    buffer = ctypes.create_string_buffer(_SIGNATURE_AT_MOST)
    argument = struct.pack(
        "<QQQQQ", _TYPE_SIGNATURE, 0, _SIGNATURE_AT_MOST, ctypes.addressof(buffer), 0
    )
    fd = file if isinstance(file, int) else _open(file)
    try:
        size = _read_metadata(fd, argument)
    finally:
        if fd is not file:
            os.close(fd)
    return buffer.raw[:size]


def open_verified(path: Path) -> int:
    """A descriptor of the file. Raises TrustError when the kernel refuses to open it."""
    return _open(path)


def _read_metadata(fd: int, argument: bytes) -> int:
    try:
        size: int = fcntl.ioctl(fd, _READ_METADATA, bytearray(argument), True)
        return size
    except OSError as error:
        raise TrustError(
            "cannot trust an image: it has no signature", details=error.strerror or ""
        ) from error


def _ioctl(file: Path | int, request: int, argument: bytes) -> bytes:
    fd = file if isinstance(file, int) else _open(file)
    try:
        return fcntl.ioctl(fd, request, argument)
    except OSError as error:
        if error.errno in _NO_VERITY:
            raise TrustError(
                f"cannot trust {name_of(fd)}: it is not under fs-verity",
                resolution="install the package again",
            ) from error
        raise
    finally:
        if fd is not file:
            os.close(fd)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in _NOT_SIGNED:
            raise TrustError(
                f"cannot trust {path}: the kernel refuses its signature",
                details=error.strerror or "",
                resolution="its publisher is not one of this system's, or the file was changed",
            ) from error
        raise


def name_of(fd: int) -> str:
    """What the descriptor was opened as."""
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return "an image"


def _refusal(path: Path, error: OSError) -> Exception:
    text = error.strerror or str(error)
    if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
        return StateError(
            f"cannot put {path} under fs-verity: {text}",
            resolution="the state partition needs ext4 with the verity feature",
        )
    if error.errno in (*_NOT_SIGNED, errno.EMSGSIZE):
        return TrustError(
            f"cannot trust {path}: the kernel refuses its signature",
            details=text,
            resolution="its publisher is not one of this system's, or the file was changed",
        )
    return error
