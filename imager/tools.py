"""The pinned tools: programs from a Debian trixie tree that run on any Linux host.

Outputs must not depend on what the host has installed, and a host should need
almost nothing. So the tools come from their own tree, and run without chroot,
mounts or root: through the tree's own dynamic loader.

The stage's result::

    tree/            the unpacked packages (no maintainer script has run)
    bin/NAME         wrapper script of each program; they find one another by PATH
    packages.lock    versions and hashes of what the tree consists of
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imager.bootstrap import LOCK_MEMBER, VERSION, bootstrap
from imager.cache import Cache
from imager.mirror import Mirror, find_mirror
from recovery.errors import ToolError
from recovery.process import Completed, run

PACKAGES = (
    "base-files",
    "bmaptool",
    "clang-19",
    "cryptsetup-bin",
    "device-tree-compiler",
    "dosfstools",
    "e2fsprogs",
    "erofs-utils",
    "fdisk",
    "grub-common",
    "grub-pc-bin",
    "kmod",
    "lld-19",
    "mtools",
    "openssl",
    "osslsigncode",
    "ovmf",
    "python3",
    "python3-virt-firmware",
    "qemu-efi-aarch64",
    "systemd-boot-efi",
    "systemd-ukify",
    "u-boot-qemu",
    "u-boot-tools",
    "zstd",
)
# Data of other architectures, of which nothing runs here: Debian architecture to packages.
FOREIGN: Mapping[str, tuple[str, ...]] = {"arm64": ("systemd-boot-efi",)}
# Wrapped programs: name and path in the tree. Several names may share a path
# (kmod, lld and mtools look at the name they are called by).
PROGRAMS: Mapping[str, str] = {
    "bmaptool": "usr/bin/bmaptool",
    "clang": "usr/lib/llvm-19/bin/clang",
    "debugfs": "usr/sbin/debugfs",
    "depmod": "usr/bin/kmod",
    "dtc": "usr/bin/dtc",
    "dumpimage": "usr/bin/dumpimage",
    "dump.erofs": "usr/bin/dump.erofs",
    "e2fsck": "usr/sbin/e2fsck",
    "fsck.erofs": "usr/bin/fsck.erofs",
    "fsck.fat": "usr/sbin/fsck.fat",
    "grub-editenv": "usr/bin/grub-editenv",
    "grub-mkimage": "usr/bin/grub-mkimage",
    "grub-script-check": "usr/bin/grub-script-check",
    "lld-link": "usr/lib/llvm-19/bin/lld",
    "mattrib": "usr/bin/mtools",
    "mcopy": "usr/bin/mtools",
    "mdel": "usr/bin/mtools",
    "mdir": "usr/bin/mtools",
    "mkimage": "usr/bin/mkimage",
    "mkfs.erofs": "usr/bin/mkfs.erofs",
    "mkfs.ext4": "usr/sbin/mke2fs",
    "mkfs.vfat": "usr/sbin/mkfs.fat",
    "mmd": "usr/bin/mtools",
    "mren": "usr/bin/mtools",
    "mtype": "usr/bin/mtools",
    "openssl": "usr/bin/openssl",
    "osslsigncode": "usr/bin/osslsigncode",
    "python3": "usr/bin/python3.13",
    "sfdisk": "usr/sbin/sfdisk",
    "tune2fs": "usr/sbin/tune2fs",
    "ukify": "usr/lib/systemd/ukify",
    "veritysetup": "usr/sbin/veritysetup",
    "virt-fw-vars": "usr/bin/virt-fw-vars",
    "zstd": "usr/bin/zstd",
}
# Raise when the way the tree is prepared changes.
_VERSION = 2
# Older than any package, so that no file's time depends on the build.
_EPOCH = 1_700_000_000

_WRAPPER = """\
#!/bin/sh
# Runs {program} of the tools tree through the tree's own loader.
b=${{0%/*}}
t=${{b%/bin}}/tree
export PATH="$b:$PATH" LC_ALL=C.UTF-8 MKE2FS_CONFIG="$t/etc/mke2fs.conf" MTOOLS_SKIP_CHECK=1
export OPENSSL_CONF="$t/usr/lib/ssl/openssl.cnf" OPENSSL_MODULES="$t/{libraries}/ossl-modules"
{python}exec "$t/usr/lib64/ld-linux-x86-64.so.2" \\
  --library-path "$t/{libraries}:$t/{libraries}/systemd:$t/usr/lib/llvm-19/lib" \\
  --argv0 {name} "$t/{executable}" {script}"$@"
"""
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_PYTHON = "usr/bin/python3.13"


@dataclass(frozen=True)
class Equipment:
    """What a tree consists of. name: of its stage. packages: with all that they depend on.
    programs: name and path in the tree of what gets a wrapper. foreign: as `FOREIGN`."""

    name: str
    packages: Sequence[str]
    programs: Mapping[str, str]
    foreign: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


TOOLS = Equipment("tools", PACKAGES, PROGRAMS, FOREIGN)


class Tools:
    """The programs and data files of one prepared tools tree."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()

    @property
    def lock(self) -> Path:
        """What the tree consists of; part of the inputs of stages that use the tools."""
        return self.directory / LOCK_MEMBER

    @property
    def bin(self) -> Path:
        """The directory of wrapper scripts, to put into a PATH."""
        return self.directory / "bin"

    def path(self, name: str) -> Path:
        """The wrapper script of a program. Raises ToolError when the tools have no such program."""
        wrapper = self.bin / name
        if not wrapper.is_file():
            raise ToolError(
                f"cannot find {name} among the tools",
                details=f"looked in {self.bin}",
                resolution="add it to PROGRAMS in imager/tools.py",
            )
        return wrapper

    def file(self, relative: str) -> Path:
        """A data file, for example "usr/share/OVMF/OVMF_CODE_4M.secboot.fd".

        Raises ToolError when the tree has no such file.
        """
        path = self.directory / "tree" / relative
        if not path.exists():
            raise ToolError(
                f"cannot find {relative} in the tools tree",
                details=f"looked in {self.directory / 'tree'}",
                resolution="check PACKAGES in imager/tools.py",
            )
        return path

    def run(
        self,
        name: str,
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str | None = None,
        timeout: float | None = None,
        check: bool = True,
    ) -> Completed:
        """Runs a program of the tree; parameters and errors as of `recovery.process.run`."""
        return run(
            [self.path(name), *args], env=env, cwd=cwd, stdin=stdin, timeout=timeout, check=check
        )


def prepare_tools(
    cache: Cache,
    mirror: Mirror | None = None,
    *,
    equipment: Equipment = TOOLS,
    refresh: bool = False,
) -> Tools:
    """The tools tree, built when the cache does not have it (about 30 s plus downloads).

    Raises FetchError, SpaceError or ToolError as `imager.bootstrap.bootstrap`.
    """

    def build(directory: Path) -> None:
        tree = directory / "tree"
        tree.mkdir()
        lines: set[str] = set()
        for architecture, packages in {
            "amd64": tuple(equipment.packages),
            **equipment.foreign,
        }.items():
            archive = directory / f"{architecture}.tar"
            bootstrap(
                packages,
                archive,
                mirror=mirror or find_mirror(),
                epoch=_EPOCH,
                architecture=architecture,
            )
            _unpack(archive, tree)
            archive.unlink()
            lines.update((tree / LOCK_MEMBER).read_text().splitlines())
            (tree / LOCK_MEMBER).unlink()
        (directory / LOCK_MEMBER).write_text("".join(f"{line}\n" for line in sorted(lines)))
        _write_wrappers(directory, equipment.programs)
        if "python3" in equipment.programs:
            # ukify and virt-fw-vars start in half the time with their modules compiled.
            tools = Tools(directory)
            tools.run("python3", "-m", "compileall", "-q", tree / "usr/lib/python3", check=False)

    inputs: dict[str, str | int] = {"version": _VERSION, "packages": " ".join(equipment.packages)}
    inputs["foreign"] = repr(sorted(equipment.foreign.items()))
    inputs["programs"] = repr(sorted(equipment.programs.items()))
    inputs["wrapper"] = _WRAPPER
    inputs["bootstrap"] = VERSION
    return Tools(cache.stage(equipment.name, {**inputs}, build, refresh=refresh))


def _unpack(archive: Path, tree: Path) -> None:
    """Unpacks regular files, directories and links; as nobody in particular, without devices."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isdev():
                continue
            # Absolute links point into the tree's root, which is not ours.
            if member.issym() and member.linkname.startswith("/"):
                member.linkname = os.path.relpath(member.linkname[1:], Path(member.name).parent)
            member.mode |= 0o700 if member.isdir() else 0o600
            tar.extract(member, tree, filter="tar")


def _write_wrappers(directory: Path, programs: Mapping[str, str]) -> None:
    (directory / "bin").mkdir()
    for name, program in programs.items():
        real = directory / "tree" / program
        if not real.exists():
            raise ToolError(
                f"cannot prepare the tools: {program} is missing",
                resolution="check PACKAGES and PROGRAMS in imager/tools.py",
            )
        with real.open("rb") as stream:
            script = stream.read(2) == b"#!"
        python = script or program == _PYTHON
        wrapper = directory / "bin" / name
        wrapper.write_text(
            _WRAPPER.format(
                program=program,
                name="python3" if script else name,
                libraries=_LIBRARIES,
                python='unset PYTHONPATH; export PYTHONHOME="$t/usr" PYTHONDONTWRITEBYTECODE=1\n'
                if python
                else "",
                executable=_PYTHON if script else program,
                script=f'"$t/{program}" ' if script else "",
            )
        )
        wrapper.chmod(0o755)
