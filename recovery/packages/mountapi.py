"""Mounts by file descriptor (fsopen(2), move_mount(2) and their like), with the kernel's own words.

A mount is made detached and appears by one move: nobody sees it half done.
System call numbers from 424 on are the same on all architectures. Constants:
Linux, include/uapi/linux/mount.h.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from recovery import mounts
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READ_ONLY, NO_SUID, NO_DEVICES = 1, 2, 4
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = (
    428, 429, 430, 431, 432, 442,
)  # fmt: skip
_HERE = -100  # AT_FDCWD
_EMPTY_PATH, _CLOEXEC = 0x1000, 0o2000000
_FLAG, _STRING, _CREATE = 0, 1, 6
_FROM_EMPTY, _BENEATH = 4, 0x200
_CLONE = 1
_MS_PRIVATE = 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


class MountAttributes(ctypes.Structure):
    """`struct mount_attr`."""

    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("namespace", ctypes.c_uint64),
    )


class Mounted(Value):
    """One line of mountinfo.

    number, parent: mount ids. point: where. root: which directory of its file system.
    """

    number: int
    parent: int
    root: str
    point: str
    kind: str
    source: str


def make(
    kind: str,
    options: Sequence[tuple[str, str]],
    flags: Sequence[str] = (),
    attributes: int = READ_ONLY | NO_SUID | NO_DEVICES,
) -> int:
    """A detached mount of a new file system; returns its descriptor.

    Raises OSError whose text has what the kernel said.
    """
    context = _call(_FSOPEN, kind, 1)
    try:
        for key, value in options:
            _call(_FSCONFIG, context, _STRING, key, value, 0)
        for key in flags:
            _call(_FSCONFIG, context, _FLAG, key, None, 0)
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        return _call(_FSMOUNT, context, 1, attributes)
    except OSError as error:
        said = _messages(context)
        raise OSError(
            error.errno, f"cannot mount {kind}: {error.strerror}" + (f": {said}" if said else "")
        ) from error
    finally:
        os.close(context)


def erofs(image: Path) -> int:
    """A detached mount of an image file (Linux 6.12 or later, CONFIG_EROFS_FS_BACKED_BY_FILE).

    Boards with older kernels need another backend (a loop device with
    dm-verity) in this place; there is none yet.
    """
    return make("erofs", [("source", str(image))], ["ro"])


def overlay(
    source: str,
    lower: Sequence[Path],
    *,
    data: Sequence[Path] = (),
    attributes: int = READ_ONLY | NO_DEVICES,
) -> int:
    """A detached read-only overlay; the first of lower is the topmost.

    data: layers whose files appear only where a file of lower points at them
    (overlayfs.rst, "Data-only lower layers").
    """
    options = [("source", source), *(("lowerdir+", str(path)) for path in lower)]
    if data:
        options += [("metacopy", "on"), ("redirect_dir", "follow")]
        options += [("datadir+", str(path)) for path in data]
    return make("overlay", options, (), attributes)


def clone(path: Path) -> int:
    """A detached, private copy of the mount that path is in, seen from path.

    Private: what is later mounted over the original does not appear in it.
    """
    fd = _call(_OPEN_TREE, _HERE, str(path), _CLONE | _CLOEXEC)
    attributes = MountAttributes(0, 0, _MS_PRIVATE, 0)
    try:
        _call(
            _MOUNT_SETATTR, fd, "", _EMPTY_PATH, ctypes.byref(attributes),
            ctypes.sizeof(attributes),
        )  # fmt: skip
    except OSError:
        os.close(fd)
        raise
    return fd


def attach(mount: int, target: Path, *, beneath: bool = False) -> None:
    """Puts a detached mount on target and closes its descriptor.

    beneath: under the mount that is on target, which still hides it.
    """
    try:
        flags = _FROM_EMPTY | (_BENEATH if beneath else 0)
        _call(_MOVE_MOUNT, mount, "", _HERE, str(target), flags)
    except OSError as error:
        raise OSError(error.errno, f"cannot mount on {target}: {error.strerror}") from error
    finally:
        os.close(mount)


def detach(target: Path) -> None:
    """Takes the topmost mount off target; who uses it keeps it. Raises OSError."""
    mounts.unmount(target)


def table(file: Path) -> Iterator[Mounted]:
    """The mounts in a mountinfo file (proc_pid_mountinfo(5)). Raises OSError."""
    for line in file.read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        words, kind = before.split(" "), after.split(" ")
        if len(words) >= 6 and len(kind) >= 2:
            number, parent, root, point = int(words[0]), int(words[1]), words[3], words[4]
            yield Mounted(number, parent, _plain(root), _plain(point), kind[0], _plain(kind[1]))


def _plain(text: str) -> str:
    """Undoes the kernel's octal escapes of space, tab, newline and backslash."""
    if "\\" not in text:
        return text
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _messages(context: int) -> str:
    """What the kernel noted in the context: "e overlay: ..." lines."""
    found: list[str] = []
    while True:
        try:
            data = os.read(context, 1024)
        except OSError:
            break
        if not data:
            break
        found.append(data.decode(errors="replace").strip()[2:])
    return "; ".join(found)


def _call(number: int, *arguments: object) -> int:
    done: int = _libc.syscall(ctypes.c_long(number), *(_argument(item) for item in arguments))
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return done


def _argument(value: object) -> object:
    if isinstance(value, int):
        return ctypes.c_long(value)
    if isinstance(value, str):
        return ctypes.c_char_p(os.fsencode(value))
    return ctypes.c_char_p(None) if value is None else value
