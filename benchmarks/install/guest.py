"""The guest: Debian's kernel, and everything else in one initramfs.

Disks: vda, vdb root slots a and b; vdc, vdd boot slots a and b; vde boot record; vdf state
(ext4). Slot a runs, slot b is updated. Orbital's programs are those that the image of a device
has; RAUC, its service, Python and its modules are Debian trixie's.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.install import device, inside
from benchmarks.install.machine import Hardware
from benchmarks.install.offer import SYSTEM, Offer
from imager import bootstrap
from imager.agent import LIBRARY, agent_files
from imager.archive import write_cpio
from imager.cache import Cache
from imager.kernel import Kernel
from imager.mirror import find_mirror
from imager.tools import Tools
from imager.tree import Tree

PACKAGES = (
    "base-files", "dbus-daemon", "iproute2", "kmod", "mount", "python3", "python3-cryptography",
    "python3-msgspec", "python3-tuf", "python3-zstandard", "rauc", "rauc-service",
    "squashfs-tools", "util-linux",
)  # fmt: skip
_EPOCH = 1_700_000_000
_VERSION = 1
_MEGABYTE = 1 << 20
# A record of the boot loader is at 0 and 64 KiB (`recovery.bootcontrol.copies`).
_RECORD_SIZE, _STATE_SIZE = _MEGABYTE, 256 * _MEGABYTE
FACTS, DEVICE = "/etc/bench/facts.json", "/etc/bench/device.py"
# The same device with another running image, from which there is no delta.
OTHER_FACTS = "/etc/bench/other.json"

_BUS = """\
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <policy context="default">
    <allow send_destination="*"/><allow receive_sender="*"/>
    <allow own="*"/><allow user="*"/>
  </policy>
</busconfig>
"""
# The boot loader's record is not RAUC's to write here ("noop"), which favours it a little.
_RAUC = f"""\
[system]
compatible={SYSTEM}
bootloader=noop
data-directory=/state/rauc
bundle-formats=verity

[keyring]
path=/etc/rauc/certificate.pem

[slot.rootfs.0]
device=/dev/vda
type=raw
bootname=a

[slot.boot.0]
device=/dev/vdc
type=raw
parent=rootfs.0

[slot.rootfs.1]
device=/dev/vdb
type=raw
bootname=b

[slot.boot.1]
device=/dev/vdd
type=raw
parent=rootfs.1
"""
_USERS = "root:x:0:0:::\nnobody:x:65534:65534:::\n"
_GROUPS = "root:x:0:\nnogroup:x:65534:\n"


def debian(cache: Cache) -> Path:
    """The unpacked packages: system.tar, and tree/ of it to run programs on the host."""

    def build(directory: Path) -> None:
        archive = directory / "system.tar"
        bootstrap.bootstrap(PACKAGES, archive, mirror=find_mirror(), epoch=_EPOCH)
        (directory / "tree").mkdir()
        with tarfile.open(archive) as tar:
            wanted = [item for item in tar if not item.isdev()]
            tar.extractall(directory / "tree", wanted, filter="tar")

    inputs = {"packages": " ".join(PACKAGES), "version": f"{bootstrap.VERSION}.{_VERSION}"}
    return cache.stage("benchmark-guest", {**inputs}, build)


def write_initramfs(
    system: Path, kernel: Kernel, hardware: Hardware, offer: Offer, work: Path
) -> Path:
    """The guest's programs and files. system: of `debian`."""
    tree = Tree.from_tar(system / "system.tar")
    tree.remove("usr/share/doc", "usr/share/locale", "usr/lib/python3.13/test")
    tree.merge(kernel.module_tree(hardware.modules))
    for path, source in agent_files().items():
        tree.file(f"{LIBRARY}/{path}", source.read_bytes())
    other = {**offer.facts, "old_root_hash": "0" * 64}
    for name, facts in ((FACTS, offer.facts), (OTHER_FACTS, other)):
        tree.file(name.lstrip("/"), json.dumps(facts))
    tree.file(DEVICE.lstrip("/"), Path(device.__file__).read_bytes())
    tree.file("init", Path(inside.__file__).read_bytes(), 0o755)
    tree.file(inside.HARDWARE.lstrip("/"), json.dumps(asdict(hardware)))
    tree.file("etc/bench/root.json", offer.anchor)
    tree.file("etc/bench/bus.conf", _BUS)
    tree.file("etc/rauc/system.conf", _RAUC)
    tree.file("etc/rauc/certificate.pem", offer.certificate.read_bytes())
    # Python's requests wants a file of authorities with something in it.
    tree.file("etc/ssl/certs/ca-certificates.crt", offer.certificate.read_bytes())
    tree.file("etc/passwd", _USERS)
    tree.file("etc/group", _GROUPS)
    output = work / "initramfs"
    write_cpio(tree, output, _EPOCH)
    return output


def make_disks(offer: Offer, work: Path, tools: Tools) -> Sequence[Path]:
    """The guest's disks in order, raw; both slots hold the old image."""
    disks: list[Path] = []
    for name in ("root-a", "root-b", "boot-a", "boot-b"):
        old, new = (getattr(version, name.partition("-")[0]) for version in (offer.old, offer.new))
        disk = work / name
        disk.write_bytes(old.read_bytes())
        larger = max(old.stat().st_size, new.stat().st_size)
        _resize(disk, (larger // _MEGABYTE + 1) * _MEGABYTE)
        disks.append(disk)
    for name, size in (("record", _RECORD_SIZE), ("state", _STATE_SIZE)):
        disk = work / name
        disk.touch()
        _resize(disk, size)
        disks.append(disk)
    tools.run("mkfs.ext4", "-q", disks[-1])
    return disks


def _resize(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
