"""Boot time of the same root file system with and without Orbital in the path.

`python -m benchmarks.boot [--pairs N] [--json]` boots the factory disk in QEMU (software
emulation) as it ships, and again with a boot artifact whose initramfs mounts the same root
image without verity, slots or generations, and with Orbital's units masked. The figure is
the guest's own: microseconds from the start of the kernel to multi-user.target. Each disk
has had its first boot before, which is not counted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from benchmarks.figures import Comparison
from imager.debian import prepare_base
from imager.disk import build_factory_disk
from imager.firmware.uki import build_uki
from imager.initramfs import initramfs_tree, write_initramfs
from imager.kernel import prepare_kernel
from qemu.lab import BUILT, DISK_SIZE, Lab
from qemu.machine import Machine

AIM = 1.10
_BOOT_SECONDS = 300
_OURS = ("health", "commit", "probation", "grow")
_READY = "systemctl show -P ActiveEnterTimestampMonotonic multi-user.target"


def plain_build(lab: Lab, directory: Path) -> Path:
    """The factory build with a boot artifact that leaves Orbital out."""
    build = lab.build(lab.version)
    copy = directory / build.name
    shutil.copytree(build, copy)
    board = lab.product.board
    kernel = prepare_kernel(board, lab.cache, lab.tools)
    base = prepare_base(lab.product, lab.cache)
    watchdog = kernel.module_files([board.watchdog.driver]) if board.watchdog else []
    modules = kernel.module_files(board.kernel.initramfs_modules)
    tree = initramfs_tree(base.tree(), watchdog, modules)
    tree.file("init", (Path(__file__).with_name("plain-init")).read_bytes(), 0o755)
    initramfs = directory / "plain.cpio"
    write_initramfs(tree, initramfs, mtime=BUILT)
    masks = " ".join(f"systemd.mask=orbital-{name}.service" for name in _OURS)
    arguments = " ".join(lab.product.manifest.kernel_command_line)
    (copy / "boot.img").unlink()
    build_uki(
        architecture=board.architecture,
        linux=kernel.image,
        initramfs=initramfs,
        command_line=f"systemd.gpt_auto=0 panic=-1 console={board.console} ro {masks} {arguments}",
        os_release=b'ID=plain\nVERSION_ID="1"\n',
        uname=kernel.version,
        signer=lab.workshop.signer,
        output=copy / "boot.img",
        tools=lab.tools,
    )
    return copy


def boot_seconds(machine: Machine) -> float:
    """Boots the machine and returns the seconds from the kernel's start to multi-user.target."""
    machine.start()
    machine.wait_shell(_BOOT_SECONDS)
    machine.run(
        "while [ $(systemctl show -P ActiveEnterTimestampMonotonic multi-user.target) = 0 ];"
        " do sleep 1; done",
        _BOOT_SECONDS,
    )
    seconds = int(machine.run(_READY).output) / 1e6
    machine.run("sync")
    machine.stop()
    return seconds


def measure(pairs: int) -> Comparison:
    """Boots both alternately."""
    with tempfile.TemporaryDirectory(prefix="orbital-bench-") as name:
        work = Path(name)
        lab = Lab(work)
        plain = work / "plain.img"
        copy = plain_build(lab, work / "plain-build")
        build_factory_disk(copy, lab.product.board, plain, lab.tools, reporter=lab.reporter)
        times: dict[str, list[float]] = {"ours": [], "plain": []}
        machines = {}
        for kind, disk in (("ours", lab.factory), ("plain", plain)):
            (work / kind).mkdir()
            machines[kind] = Machine(
                lab.hardware, disk, work / kind, variables=lab.variables, disk_size=DISK_SIZE
            )
            boot_seconds(machines[kind])
        for index in range(pairs):
            for kind in ("ours", "plain") if index % 2 else ("plain", "ours"):
                times[kind].append(boot_seconds(machines[kind]))
        return Comparison(
            "kernel to multi-user.target, with Orbital",
            tuple(times["ours"]),
            tuple(times["plain"]),
            AIM,
        )


def main() -> None:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    row = measure(options.pairs)
    print(json.dumps(row.document(), indent=1) if options.json else row.row())


if __name__ == "__main__":
    main()
