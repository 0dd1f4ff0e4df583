"""Boot with 20 feature packages, beside the same 20 services baked into the image.

`python -m benchmarks.packages_boot [--pairs N] [--json]` boots the factory disk in QEMU
(software emulation) with 20 packages installed, and a disk whose image contains the same 20
services as units of its own, in the same sandbox. The figure is the guest's: from the start
of the kernel until the last of the 20 services is up. Each disk has had its first boot, and
the packages were installed, before anything is counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import msgspec

from benchmarks.figures import Comparison
from imager.disk import build_factory_disk
from imager.image import build_image
from manifests.catalogue import Product, load_system_package
from qemu.device import Device
from qemu.lab import DISK_SIZE, Lab
from qemu.machine import Machine
from qemu.server import Server
from recovery.packages.model import Check, Service, unit_name
from recovery.packages.sandbox import Sandbox
from recovery.packages.units import ServicePlan, texts

AIM = 1.25
COUNT = 20
_BOOT_SECONDS = 400
_UNITS = [unit_name(f"bench-{number:02}", "run") for number in range(COUNT)]
_COMMAND = ("/usr/bin/sleep", "infinity")


def write_feature(folder: Path, number: int) -> Path:
    """The folder of one package: a service that waits, and a file of its own."""
    name = f"bench-{number:02}"
    tree = folder / name / "tree/usr/lib" / name
    tree.mkdir(parents=True)
    (tree / "data").write_bytes(bytes([number]) * 65536)
    manifest = {
        "package": name,
        "version": "1.0",
        "type": "feature",
        "summary": "One of twenty",
        "publisher": "publisher",
        "services": [
            {
                "name": "run",
                "command": list(_COMMAND),
                "health": {
                    "kind": "exec",
                    "command": ["/usr/bin/true"],
                    # All twenty start and are checked at once, under emulation.
                    "deadline_seconds": 300,
                },
            }
        ],
    }
    (folder / name / "package.yaml").write_text(json.dumps(manifest))
    return folder / name


def baked(product: Product, folder: Path) -> Product:
    """The product with the twenty services in its image."""
    package = folder / "baked"
    units = package / "tree/usr/lib/systemd/system"
    units.mkdir(parents=True)
    for number, unit in enumerate(_UNITS):
        name = f"bench-{number:02}"
        files = package / "tree/usr/lib" / name
        files.mkdir(parents=True)
        (files / "data").write_bytes(bytes([number]) * 65536)
        service = Service("run", _COMMAND, Check("exec", command=("/usr/bin/true",)))
        box = Sandbox(name, 50000 + 16 * number, "/usr", f"/usr/lib/{name}")
        text = texts(ServicePlan(name, "1.0", service, box))[unit]
        install = "\n[Install]\nWantedBy=multi-user.target\n"
        (units / unit).write_text(text + install)
    manifest = {
        "package": "baked",
        "version": "1.0",
        "type": "system",
        "summary": "Twenty services",
        "enable": _UNITS,
    }
    (package / "package.yaml").write_text(json.dumps(manifest))
    system = product.manifest
    return dataclasses.replace(
        product,
        manifest=msgspec.structs.replace(
            system, system_packages=(*system.system_packages, "baked"), version="1.0-baked"
        ),
        packages=(*product.packages, load_system_package(package / "package.yaml")),
        files=(*product.files, package / "package.yaml"),
    )


def boot_seconds(machine: Machine) -> float:
    """Boots and returns the seconds from the kernel's start until all services are up."""
    machine.start()
    machine.wait_shell(_BOOT_SECONDS)
    names = " ".join(_UNITS)
    machine.run(
        f"while systemctl is-active {names} | grep -qv '^active'; do sleep 1; done", _BOOT_SECONDS
    )
    shown = machine.run(f"systemctl show -P ActiveEnterTimestampMonotonic {names}").output
    seconds = max(int(line) for line in shown.split()) / 1e6
    machine.run("sync")
    machine.stop()
    return seconds


def install_all(lab: Lab, machine: Machine, directory: Path) -> None:
    """The twenty packages, from the repository, as a device does it."""
    names = [f"bench-{number:02}" for number in range(COUNT)]
    folders = [write_feature(directory / "features", number) for number in range(COUNT)]
    lab.publish(
        lab.build(lab.version),
        *(lab.build_package(path.name, folder=path) for path in folders),
    )
    machine.start()
    device = Device(machine)
    device.settle(_BOOT_SECONDS)
    with Server(lab.repository, directory) as server:
        device.install(server.url, *names, timeout=900)
    machine.run("sync")
    machine.stop()


def measure(pairs: int) -> Comparison:
    """Boots both alternately."""
    with tempfile.TemporaryDirectory(prefix="orbital-bench-") as name:
        work = Path(name)
        lab = Lab(work)
        other = work / "baked.img"
        build = build_image(baked(lab.product, work / "baked"), work / "baked-build", lab.workshop)
        build_factory_disk(build, lab.product.board, other, lab.tools, reporter=lab.reporter)
        machines = {}
        for kind, disk in (("ours", lab.factory), ("baked", other)):
            (work / f"machine-{kind}").mkdir()
            machines[kind] = Machine(
                lab.hardware,
                disk,
                work / f"machine-{kind}",
                variables=lab.variables,
                disk_size=DISK_SIZE,
            )
        install_all(lab, machines["ours"], work)
        boot_seconds(machines["baked"])
        times: dict[str, list[float]] = {"ours": [], "baked": []}
        for index in range(pairs):
            for kind in ("ours", "baked") if index % 2 else ("baked", "ours"):
                times[kind].append(boot_seconds(machines[kind]))
        return Comparison(
            f"kernel to the last of {COUNT} services, as packages",
            tuple(times["ours"]),
            tuple(times["baked"]),
            AIM,
        )


def main() -> None:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    row = measure(options.pairs)
    print(json.dumps(row.document(), indent=1) if options.json else row.row())


if __name__ == "__main__":
    main()
