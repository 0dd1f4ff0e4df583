"""A device in its rescue system, made of plain files: partitions, records, loaders."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

from imager.firmware.grub_environment import factory_environment
from recovery import device as device_file
from recovery.bootcontrol import ubootenv
from recovery.bootcontrol.open import BOOT_DIRECTORY
from recovery.bootcontrol.recorded import GOOD, Record
from recovery.bootcontrol.systemd_boot import entry_name, entry_text
from recovery.device import DeviceConfig, RescuePolicy, TrialPolicy, UpdatePolicy
from recovery.generations import Generation
from recovery.reporter import SilentReporter
from recovery.rescue.diagnosis import Site
from recovery.slots import BootControl, Slot
from recovery.starts import StartFile, Starts
from recovery.state import StateRecord, StateStore
from tests.recovery.artifacts import make_artifact, make_unhashed
from tests.updater.images import BuiltImage, content, root_image
from tests.updater.publisher import NOW, Publisher
from updater.device import ANCHOR
from updater.rescue_visit import Course

SLOT_SIZE = 1 << 20
BOOT_SIZE = 1 << 18
LOADERS = {"systemd-boot": "uki", "grub": "cpio", "u-boot": "fit"}
PARTITIONS = ("environment", "rescue", "root-a", "root-b", "boot-a", "boot-b")


class Notes(SilentReporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        """One line."""
        self.lines.append(text)


def build(
    publisher: Publisher, version: str, loader: str = "systemd-boot", *, hashed: bool = True
) -> BuiltImage:
    """An image whose boot artifact names its root image, as the initramfs reads it.

    hashed: the artifact carries what it can be checked by.
    """
    data = content(f"root {version}", 80 * 4096)
    root_hash = root_image(data)[1]
    words = f"orbital.roothash={root_hash} orbital.hashoffset={len(data)} ro"
    make = make_artifact if hashed else make_unhashed
    boot = make(LOADERS[loader], words, content(f"boot {version}", 100_000))
    built = publisher.build(version, data=data, boot=boot)
    return with_kind(built, LOADERS[loader])


def with_kind(built: BuiltImage, kind: str) -> BuiltImage:
    """The image for another boot loader."""
    import msgspec

    index = msgspec.structs.replace(
        built.index, boot=msgspec.structs.replace(built.index.boot, kind=kind)
    )
    (built.directory / "index.json").write_bytes(msgspec.json.encode(index))
    return dataclasses.replace(built, index=index)


@dataclass
class RescueDevice:
    """Version 1.0 is committed in slot a, generation 1; slot b is empty."""

    root: Path
    publisher: Publisher
    image: BuiltImage
    loader: str = "systemd-boot"

    def __post_init__(self) -> None:
        """Makes the files."""
        for number, label in enumerate(PARTITIONS, start=1):
            folder = self.root / f"sys/class/block/vda{number}"
            folder.mkdir(parents=True)
            (folder / "uevent").write_text(f"PARTNAME={label}\nPARTN={number}\n")
        (self.root / "dev").mkdir()
        (self.root / "proc/sys/kernel/random").mkdir(parents=True)
        (self.root / "proc/sys/kernel/random/boot_id").write_text("rescue-1\n")
        sizes = {"root": SLOT_SIZE, "boot": BOOT_SIZE}
        for label in PARTITIONS:
            self.path(label).write_bytes(bytes(sizes.get(label[:4], 1 << 20)))
        (self.root / ANCHOR).parent.mkdir(parents=True)
        shutil.copyfile(self.publisher.anchor, self.root / ANCHOR)
        config = self.config()
        (self.root / "usr/lib/orbital/device.json").write_bytes(device_file.encode(config))
        store = self.store
        index = self.image.index
        store.generations.write(
            Generation(1, "a", "gateway", "1.0", index.root.root_hash, None, 0, "factory", "imager")
        )
        store.save(StateRecord(next_generation=2, committed=1))
        self._make_loader()
        self.fill("a", self.image)

    def _make_loader(self) -> None:
        if self.loader == "systemd-boot":
            entries = self.root / BOOT_DIRECTORY / "loader/entries"
            entries.mkdir(parents=True)
            (self.root / BOOT_DIRECTORY / "EFI/orbital").mkdir(parents=True)
            (entries / entry_name("a", None)).write_text(entry_text("a", 1))
            return
        if self.loader == "grub":
            data = factory_environment()
        else:
            variables = ubootenv.with_record((), Record(("a",), a=GOOD))
            data = ubootenv.encode(ubootenv.Environment(1, variables))
        with self.path("environment").open("r+b") as file:
            file.write(data)

    def config(self) -> DeviceConfig:
        """As the imager makes it."""
        files = self.loader == "systemd-boot"
        return DeviceConfig(
            system="gateway",
            version="1.0",
            board="testboard",
            architecture="x86_64",
            built=1_700_000_000,
            boot_control=self.loader,
            boot_partition="esp" if files else "",
            state="state",
            slots={"a": "root-a", "b": "root-b"},
            trial=TrialPolicy(tries=3),
            update=UpdatePolicy(source=str(self.publisher.repository)),
            environment="" if files else "environment",
            boot_slots={} if files else {"a": "boot-a", "b": "boot-b"},
            rescue=RescuePolicy(partition="rescue"),
        )

    def path(self, label: str) -> Path:
        """The partition."""
        return self.root / "dev" / f"vda{PARTITIONS.index(label) + 1}"

    def artifact(self, slot: Slot) -> Path:
        """The slot's boot artifact."""
        if self.loader == "systemd-boot":
            return self.root / BOOT_DIRECTORY / "EFI/orbital" / f"{slot}.efi"
        return self.path(f"boot-{slot}")

    def fill(self, slot: Slot, image: BuiltImage) -> None:
        """Puts an image into a slot, with its boot artifact."""
        self.path(f"root-{slot}").write_bytes(image.root.ljust(SLOT_SIZE, b"\0"))
        whole = self.loader == "systemd-boot"
        self.artifact(slot).write_bytes(image.boot if whole else image.boot.ljust(BOOT_SIZE, b"\0"))

    def rot(self, label: str, offset: int, size: int = 1) -> None:
        """Changes bytes of a partition."""
        with self.path(label).open("r+b") as file:
            file.seek(offset)
            found = file.read(size)
            file.seek(offset)
            file.write(bytes(byte ^ 0xFF for byte in found))

    def rot_all(self, slot: Slot) -> None:
        """Nothing is left of a slot."""
        self.rot(f"root-{slot}", 0, SLOT_SIZE)
        self.artifact(slot).write_bytes(content("noise", BOOT_SIZE))

    @property
    def store(self) -> StateStore:
        """The records."""
        return StateStore(self.root / "state/orbital")

    @property
    def starts(self) -> StartFile:
        """The start record."""
        return StartFile(self.path("environment"))

    @property
    def control(self) -> BootControl:
        """The loader's record."""
        return self.course().site.boot_control()

    def enter(self, record: Starts | None = None) -> Course:
        """A new start of the rescue system."""
        shutil.rmtree(self.root / "run/orbital/rescue.json", ignore_errors=True)
        (self.root / "run/orbital/rescue.json").unlink(missing_ok=True)
        if record is not None:
            self.starts.save(record)
        course = self.course()
        assert course.site.visit is not None
        return course

    def course(self) -> Course:
        """The visit that is under way."""
        course = Course(Site(self.config(), Notes(), self.root), network_seconds=0)
        course.clock = NOW.timestamp
        return course

    def said(self, course: Course) -> str:
        """All that the course has said."""
        reporter = course.site.reporter
        assert isinstance(reporter, Notes)
        return "\n".join(reporter.lines)

    def holds(self, slot: Slot, image: BuiltImage) -> bool:
        """Whether the slot holds the image, whole, with its boot artifact."""
        root = self.path(f"root-{slot}").read_bytes()[: len(image.root)]
        boot = self.artifact(slot).read_bytes()[: len(image.boot)]
        return (root, boot) == (image.root, image.boot)
