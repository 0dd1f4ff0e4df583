"""The machine at the speed of the host's processor: user mode Linux, Debian trixie's.

Programs in it are processes of the host; its kernel is one, too, and gets their system calls and
page faults through ptrace(2). So computing costs what it costs, while a system call takes about
50 and a page fault 60 microseconds: whoever makes many of them looks slower than on a device.
There is one processor. Disks are not throttled.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tty
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.install import link
from benchmarks.install.inside import processes
from benchmarks.install.machine import MEMORY_MIB, Guest, Hardware, used
from imager.bootstrap import LOCK_MEMBER
from imager.cache import Cache, Input
from imager.kernel import Kernel
from imager.tools import Equipment, Tools, prepare_tools
from qemu import children
from recovery import process

_PROGRAM = "linux.uml"
_EQUIPMENT = Equipment(
    "user-mode-linux", ("base-files", "user-mode-linux"), {_PROGRAM: f"usr/bin/{_PROGRAM}"}
)
# Debian trixie's C library is newer than some hosts'. The program asks for its loader (ELF's
# PT_INTERP) by this path and a slash before it; without that it is found where the program starts.
_LOADER = "lib64/ld-linux-x86-64.so.2"
_LIBRARIES = ("usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/libc.so.6")
HARDWARE = Hardware(
    modules=("ext4", "nbd", "loop", "dm-verity", "squashfs"),
    disks="ubd",
    interface="vec0",
    port="/dev/ttyS0",
)


def kernel(cache: Cache, tools: Tools) -> Kernel:
    """User mode Linux and its modules. `Kernel.image` is a folder to start it from: the program,
    and the C library that it needs."""
    tree = prepare_tools(cache, equipment=_EQUIPMENT).directory
    modules = tree / "tree/usr/lib/uml/modules"
    (version,) = (path.name for path in modules.iterdir())

    def build(directory: Path) -> None:
        shutil.copytree(modules, directory / "lib/modules")
        shutil.copy2(tree / LOCK_MEMBER, directory)
        start = directory / "vmlinuz"
        (start / "lib64").mkdir(parents=True)
        for name in _LIBRARIES:
            shutil.copy2(tree / "tree" / name, start / "lib64")
        program = (tree / "tree/usr/bin" / _PROGRAM).read_bytes()
        old, new = (f"/{_LOADER}\0".encode(), f"{_LOADER}\0\0".encode())
        assert program.count(old) == 1
        (start / _PROGRAM).write_bytes(program.replace(old, new))
        (start / _PROGRAM).chmod(0o755)
        source = Path(__file__).with_name("xsave.c")
        library = start / "lib64/xsave.so"
        process.run(["cc", "-O2", "-shared", "-fPIC", "-nostdlib", "-o", library, source])

    inputs: dict[str, Input] = {
        "packages": cache.content(tree / LOCK_MEMBER),
        "code": [Path(__file__), Path(__file__).with_name("xsave.c")],
    }
    return Kernel(cache.stage("user-mode-kernel", inputs, build), version, tools, cache)


class Native(Guest):
    """The running guest. image: of `kernel`."""

    def __init__(self, image: Path, initramfs: Path, disks: Sequence[Path], work: Path) -> None:
        wire, self._far = os.openpty()
        tty.setraw(self._far)
        log = work / "console.log"
        libraries = image / "lib64"
        command: list[str | Path] = [
            # Its processes are many; the end of the first one ends those of a namespace.
            *("unshare", "--pid", "--fork", "--kill-child", "--"),
            # From here on, so that only it gets this C library.
            *("env", "-C", image, f"LD_LIBRARY_PATH={libraries}"),
            *(f"LD_PRELOAD={libraries / 'xsave.so'}", f"HOME={work}", "TMPDIR=/dev/shm"),
            *(f"./{_PROGRAM}", f"uml_dir={work}/", "umid=machine", f"mem={MEMORY_MIB}M"),
            *(f"initrd={initramfs}", "quiet", "panic=-1", "rauc.slot=a"),
            *("con=null", "con0=null,fd:1", "ssl=null", f"ssl0=tty:{os.ttyname(self._far)}"),
            f"vec0:transport=tap,ifname={link.NAME},depth=128,gro=1",
        ]
        for letter, disk in zip("abcdefgh", disks, strict=False):
            command.append(f"ubd{letter}={disk}")
        (work / "command").write_text(shlex.join(map(str, command)) + "\n")
        self._process: subprocess.Popen[bytes] = children.start(command, log)
        super().__init__(wire, lambda: log.read_text(encoding="utf-8", errors="replace")[-3000:])

    def processor_seconds(self) -> float:
        """What its kernel and its programs have used of the host's processors so far."""
        total = 0.0
        for child in set(processes(self._process.pid)):
            # It may end at any time, and counts as its parent's then.
            with suppress(OSError):
                total += used(child)
        return total

    def close(self) -> None:
        """Cuts the power."""
        children.end(self._process)
        os.close(self._wire)
        os.close(self._far)
