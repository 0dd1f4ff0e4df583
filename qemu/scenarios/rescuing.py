"""What the scenarios of rescue share: a product whose source is our server, and its disks.

One station for each board, made once a session: a factory disk, and the same disk after its
first start. A scenario works on an overlay of one of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec

from imager.image import read_index
from manifests.system import Rescue
from qemu.alone import alone
from qemu.device import Device
from qemu.faults import corrupt, partitions, read_partition, write_partition
from qemu.faulty import patient
from qemu.gpt import by_label, read_partitions
from qemu.hardware import Forward
from qemu.lab import Lab
from qemu.machine import Machine
from qemu.server import Server
from qemu.storage import open_disk
from recovery import process
from recovery.starts import OFFSET, Action, Starts, to_bytes, wish

BOARDS = ("qemu-x86_64", "qemu-aarch64-uboot")
RESCUE_SECONDS = 600
# Reinstallation, first start and health, on a host that does other things as well.
BACK_SECONDS = 1200
ENTERED = r"orbital: rescue: entered"
MENU = r"orbital rescue> "
SECRET = "the secret of this device"
MIB = 1 << 20
# The address of the source is in the image: as long as the port is free, the cache has that image.
_PORT = 18_730


class Station:
    """A product with its server. key: of whom its rescue system lets in over the network."""

    def __init__(self, directory: Path, board: str) -> None:
        self.lab = Lab(directory, board=board)
        logs = directory / "server"
        logs.mkdir()
        self.server = Server(self.lab.repository, logs, port=_PORT + BOARDS.index(board))
        self.key = _login_key(self.lab.prepare_keys())
        login = (self.key.with_suffix(".pub").read_text().strip(),)
        product = self.lab.product
        manifest = msgspec.structs.replace(
            product.manifest,
            update=msgspec.structs.replace(product.manifest.update, source=self.server.url),
            rescue=Rescue(login=login),
        )
        self.lab.product = patient(replace(product, manifest=manifest))
        self.lab.offer(self.lab.version)
        self.server.start()

    @property
    def uefi(self) -> bool:
        """Whether the board starts by UEFI."""
        return self.lab.product.board.firmware.kind == "uefi"

    @property
    def boot_label(self) -> str:
        """The partition that slot a is started from."""
        return "esp" if self.uefi else "boot-a"

    @cached_property
    def settled(self) -> Path:
        """A folder with disk.qcow2 and variables.fd, of a device that was switched off.

        Its owner has changed /etc, and has a file in /var/lib, all of it `SECRET`.
        """
        directory = self.lab.directory / "settled"
        directory.mkdir()
        with self.lab.machine(directory) as machine:
            Device(machine).settle(BACK_SECONDS)
            # As large that it is in many parts of the disk.
            machine.run(f"yes '{SECRET}' | head -c 50M > /var/lib/secret", RESCUE_SECONDS)
            machine.run("echo changed > /etc/owner")
            machine.stop(RESCUE_SECONDS)
        return directory

    @property
    def image(self) -> str:
        """The image of the factory, as start records name it."""
        return read_index(self.lab.build(self.lab.version)).root.root_hash[:32]

    def stick(self, directory: Path) -> Path:
        """The raw image of a stick with the repository."""
        image = directory / "stick.img"
        size = sum(path.stat().st_size for path in self.lab.repository.rglob("*"))
        with image.open("wb") as out:
            # Clusters of 4 KiB: small files take more than their size.
            out.truncate((size * 5 // 4 // MIB + 64) * MIB)
        self.lab.tools.run("mkfs.vfat", "-F", "32", "-s", "8", image)
        parts = [self.lab.repository / name for name in ("metadata", "targets", "chunks")]
        self.lab.tools.run("mcopy", "-s", "-i", image, *parts, "::/")
        return image

    def close(self) -> None:
        """Ends the server."""
        self.server.close()


@dataclass
class Bench:
    """A machine of a station that is off, with an overlay of one of its disks."""

    station: Station
    directory: Path
    machine: Machine

    @classmethod
    def of(
        cls,
        station: Station,
        directory: Path,
        *,
        settled: bool,
        network: bool = True,
        forwards: Sequence[Forward] = (),
        extra: Sequence[str] = (),
    ) -> Bench:
        """settled: it has been started before. Otherwise it comes from the factory."""
        directory.mkdir()
        lab = station.lab
        machine = lab.machine(directory, network=network, forwards=forwards)
        machine.extra += tuple(extra)
        if settled:
            # Not an overlay of it: disks are small, and overlays of overlays are slow to search.
            for name in ("disk.qcow2", "variables.fd"):
                if (station.settled / name).exists():
                    shutil.copyfile(station.settled / name, directory / name)
        machine.prepare()
        return cls(station, directory, machine)

    def damage(self, *labels: str, length: int = 8 * MIB) -> None:
        """Noise at the start of partitions: no superblock, table or header is left in them."""
        sizes = {part.label: part.size for part in partitions(self.machine.disk)}
        for label in labels:
            corrupt(self.machine.disk, label, length=min(length, sizes[label]))

    def change_esp(self, program: str, *words: str | Path) -> None:
        """Runs a program of mtools on the ESP of the device, which is off."""
        esp = self.directory / "esp"
        read_partition(self.machine.disk, "esp", esp)
        self.station.lab.tools.run(program, "-i", esp, *words)
        write_partition(self.machine.disk, "esp", esp)

    def record(self, starts: Starts) -> None:
        """Writes the start record of a device that is off."""
        with open_disk(self.machine.disk, writable=True) as disk:
            environment = by_label(read_partitions(disk.read), "environment")
            disk.write(environment.offset + OFFSET, to_bytes(starts))

    def ask(self, reason: str, action: Action = "") -> None:
        """Asks for rescue as `orbital system` does, of a device that is off: saves a start."""
        self.record(wish(Starts(), "lab", reason, action))

    def back(self) -> Device:
        """The device, when it has settled again."""
        device = Device(self.machine)
        device.settle(BACK_SECONDS)
        return device

    def started(self) -> None:
        """Waits until slot a's own system runs, of the version of the factory."""
        line = f"orbital: generation [0-9]+, version {self.station.lab.version}, slot a"
        self.machine.wait_console(line, BACK_SECONDS)

    def cut(self) -> None:
        """Cuts the power of a device that has nothing left to write."""
        self.machine.run("sync")
        self.machine.kill()

    def wait_entered(self, text: str = "", since: int = 0) -> None:
        """Waits until the rescue system says that it was entered, for a reason with that text."""
        self.machine.wait_console(f"{ENTERED}: .*{text}", RESCUE_SECONDS, since)

    def type(self, line: str) -> None:
        """Types a line into the rescue system's console."""
        self.machine.console.write(f"{line}\n".encode())


def _login_key(directory: Path) -> Path:
    """A key pair beside the lab's other keys, kept over sessions like them."""
    key = directory / "rescue-login"
    with alone(key):
        if not key.exists():
            make_key(key)
    return key


def make_key(path: Path) -> None:
    """A new pair of SSH keys: path and path.pub."""
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "maker", "-f", path])
