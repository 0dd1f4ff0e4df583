"""Boot loaders as pure models: bytes of the record in; which slot starts and what is written, out.

Each follows its loader's own script and rules, and shares no code with
`recovery.bootcontrol`: what both sides must agree on is written down twice.
A `Bench` is a device's boot control on real files, with its loader.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imager.firmware.grub_environment import factory_environment
from recovery.bootcontrol import autoboot, ubootenv
from recovery.bootcontrol.fake import FakeBootControl
from recovery.bootcontrol.grub import GrubEnvironment
from recovery.bootcontrol.recorded import GOOD, Record, Recorded
from recovery.bootcontrol.systemd_boot import SystemdBoot, entry_name, entry_text
from recovery.bootcontrol.tryboot import IS_TRY, REBOOT_PARAMETER, SIZE, TrybootFile
from recovery.bootcontrol.uboot import UbootEnvironment
from recovery.slots import SLOTS, BootControl, Slot

FACTORY = Record(("a",), a=GOOD)
SECOND_COPY = 65536
ENVIRONMENT_SIZE = 1024 * 1024
PARTITIONS: dict[Slot, int] = {"a": 3, "b": 5}
# The Raspberry Pi's rescue system: before each slot's, and what the firmware goes on to.
RESCUE_PARTITION = 2
# Where fsync costs nothing, if there is such a place.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@dataclass(frozen=True)
class Start:
    """slots: in the order in which they are loaded until one starts; then the rescue system,
    where there is one; then `last`, which nobody vouches for. writes: offset and bytes."""

    slots: tuple[Slot, ...]
    last: tuple[Slot, ...] = ()
    writes: tuple[tuple[int, bytes], ...] = ()

    @property
    def rescue(self) -> bool:
        """Whether a rescue system comes first."""
        return not self.slots

    @property
    def first(self) -> Slot:
        """What starts where there is no rescue system, and nothing is damaged."""
        return (*self.slots, *self.last)[0]


# GRUB: a script of load_env, save_env and tests of variables.

_GRUB_NAMES = (
    "orbital_env",
    "orbital_order",
    "orbital_a_left",
    "orbital_b_left",
    "orbital_a_good",
    "orbital_b_good",
    "orbital_end",
)


def grub(environment: bytes) -> Start:
    """imager/firmware/grub.cfg: copy 0 if it is valid, else copy 1; counts in both.

    Uncounted when the record is lost, or when it cannot write: then only what is good.
    """
    blocks = [environment[at : at + 512] for at in (0, SECOND_COPY)]
    valid = [_grub_valid(_load_env(block)) for block in blocks]
    if not any(valid):
        return Start((), SLOTS)
    counting = valid.index(True)
    variables = _load_env(blocks[counting])
    order = _slots(variables["orbital_order"].split())
    good = tuple(slot for slot in order if variables[f"orbital_{slot}_good"] == "1")
    for slot in order:
        left = int(variables[f"orbital_{slot}_left"])
        if slot in good:
            return Start(good, order)
        if left:
            variables[f"orbital_{slot}_left"] = str(left - 1)
            saved = [_save_env(block, variables) for block in blocks]
            if not grub_can_write(environment) or not saved[counting]:
                return Start(good, order)
            offsets = zip((0, SECOND_COPY), saved, strict=True)
            return Start((slot,), writes=tuple((at, block) for at, block in offsets if block))
    return Start((), order or SLOTS)


def grub_can_write(environment: bytes) -> bool:
    """Whether GRUB finds /copy0 and /copy1: ISO 9660, root directory in block 18."""
    descriptor, root = environment[32768:34816], environment[36864:38912]
    files = [root[at : at + 42] for at in (68, 110)]
    return descriptor[:7] == b"\x01CD001\x01" and [
        (int.from_bytes(entry[2:6], "little"), int.from_bytes(entry[10:14], "little"), entry[33:42])
        for entry in files
    ] == [(0, 512, b"COPY0.;1\0"), (32, 512, b"COPY1.;1\0")]


def _load_env(block: bytes) -> dict[str, str]:
    """load_env: every variable of the block; none when the signature is wrong."""
    if not block.startswith(b"# GRUB Environment Block\n"):
        return {}
    found = {}
    for line in block.decode("latin-1").split("\n")[1:]:
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name] = value
    return found


def _grub_valid(variables: dict[str, str]) -> bool:
    allowed = {
        "env": "1",
        "order": "a b|b a|a|b|",
        "a_left": "[0-7]",
        "b_left": "[0-7]",
        "a_good": "[01]",
        "b_good": "[01]",
        "end": "1",
    }
    return all(
        re.fullmatch(pattern, variables.get(f"orbital_{name}", "absent"))
        for name, pattern in allowed.items()
    )


def _save_env(block: bytes, variables: dict[str, str]) -> bytes:
    """save_env of our variables: each in place, or at the end; b"" for a block it refuses."""
    if not block.startswith(b"# GRUB Environment Block\n") or not block.rstrip(b"#").endswith(
        b"\n"
    ):
        return b""
    lines = block.rstrip(b"#").decode("latin-1").split("\n")[:-1]
    for name in _GRUB_NAMES:
        line = f"{name}={variables[name]}"
        at = [n for n, old in enumerate(lines) if old.startswith(f"{name}=")]
        if at:
            lines[at[0]] = line
        else:
            lines.append(line)
    return "".join(f"{line}\n" for line in lines).encode("latin-1").ljust(512, b"#")


# U-Boot: a script of "env import -c", tests, and "env export -c".


def uboot(environment: bytes, *, rescue: bool = False) -> Start:
    """imager/firmware/u_boot.cmd: the newer valid copy; counts by writing the other one.

    When the record is lost: with a rescue system that one, without: the order A B, 3 tries
    each, written to copy 0.
    """
    size = 65536
    copies = [environment[at : at + size] for at in (0, SECOND_COPY)]
    valid = [zlib.crc32(c[5:]).to_bytes(4, "little") == c[:4] for c in copies]
    variables = {"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "3"}
    flag, target = 1, 0
    if any(valid):
        flags = [c[4] for c in copies]
        current = valid.index(True)
        if all(valid):
            current = 1 if flags[1] > flags[0] else 0
            current = {(255, 0): 1, (0, 255): 0}.get((flags[0], flags[1]), current)
        flag, target = (flags[current] + 1) % 256, 1 - current
        for item in copies[current][5:].split(b"\0\0")[0].decode("latin-1").split("\0"):
            name, _, value = item.partition("=")
            if value:
                variables[name] = value
            else:
                variables.pop(name, None)  # "NAME=" deletes.
    elif rescue:
        return Start((), SLOTS)
    order = _slots(variables.get("BOOT_ORDER", "").lower().split())
    good = tuple(s for s in order if variables.get(f"BOOT_{s.upper()}_GOOD") == "1")
    for slot in order:
        name = slot.upper()
        if slot in good:
            return Start(good, order)
        left = variables.get(f"BOOT_{name}_LEFT", "0")
        if re.fullmatch("[1-7]", left):
            variables[f"BOOT_{name}_LEFT"] = str(int(left) - 1)
            return Start((slot,), writes=((target * SECOND_COPY, _export(flag, variables)),))
    return Start((), order or SLOTS)


def _export(flag: int, variables: dict[str, str]) -> bytes:
    data = b"".join(f"{n}={v}\0".encode("latin-1") for n, v in sorted(variables.items()))
    data = data.ljust(65531, b"\0")
    return zlib.crc32(data).to_bytes(4, "little") + bytes([flag]) + data


# The Raspberry Pi's firmware.


def tryboot(file: bytes, *, asked: bool) -> Start:
    """The last boot_partition under the filters that pass. asked: rebooted with "0 tryboot"."""
    passes, partition = True, 0
    for line in file[:512].decode("latin-1").splitlines():
        if line.startswith("["):
            passes = line == "[all]" or (line == "[tryboot]" and asked)
        elif passes and (match := re.fullmatch(r"boot_partition=([0-9]+)", line)):
            partition = int(match[1])
    named = next((slot for slot in SLOTS if PARTITIONS[slot] == partition), None)
    if named is not None:
        return Start((named,))
    # Partition 0 is the first one that can be started.
    return Start((), SLOTS) if partition in (0, RESCUE_PARTITION) else Start(SLOTS)


def _slots(words: list[str]) -> tuple[Slot, ...]:
    return tuple("a" if word == "a" else "b" for word in words if word in SLOTS)


# systemd-boot.


def systemd_boot(names: dict[str, int]) -> tuple[str, str] | None:
    """Which entry starts, and its new name. names: file names with their version."""
    found = []
    for name, version in names.items():
        match = re.fullmatch(r"orbital-[ab](?:\+([0-9]+)(?:-([0-9]+))?)?\.conf", name)
        if match:
            left = None if match[1] is None else int(match[1])
            found.append((left != 0, version, name, left, int(match[2] or 0)))
    if not found:
        return None
    _, _, name, left, done = max(found)
    if not left:
        return name, name
    return name, f"{name.partition('+')[0]}+{left - 1}-{done + 1}.conf"


# Devices.


class Bench(Protocol):
    """A factory device: slot a runs and is successful, slot b has no entry.

    most_tries: what the loader can count to.
    """

    most_tries: int

    @property
    def control(self) -> BootControl:
        """The boot control as the running system opens it."""

    def boot(self) -> Slot | None:
        """A clean reboot: the slot that the loader starts, None when there is none."""


class FakeBench:
    """The fake, which is the oracle for the others."""

    most_tries = 9999

    def __init__(self, _root: Path) -> None:
        self.control = FakeBootControl("a")

    def boot(self) -> Slot | None:
        return self.control.boot()


class SystemdBootBench:
    """An ESP and systemd-boot."""

    most_tries = 9999

    def __init__(self, root: Path) -> None:
        self.esp = make_esp(root / "esp")
        self.current: Slot = "a"

    @property
    def control(self) -> SystemdBoot:
        return SystemdBoot(self.esp, self.current)

    def boot(self) -> Slot | None:
        entries = self.esp / "loader/entries"
        versions = {
            path.name: int(path.read_text().split("version ")[1].split()[0])
            for path in entries.glob("orbital-*.conf")
        }
        started = systemd_boot(versions)
        if started is None:
            return None
        (entries / started[0]).rename(entries / started[1])
        self.current = "a" if started[0].startswith("orbital-a") else "b"
        return self.current


class GrubBench:
    """An environment partition and GRUB."""

    most_tries = 7

    def __init__(self, root: Path) -> None:
        self.path = root / "environment"
        self.path.write_bytes(factory_environment().ljust(ENVIRONMENT_SIZE, b"\0"))
        self.current: Slot = "a"

    @property
    def control(self) -> Recorded:
        return Recorded(GrubEnvironment(self.path), self.current)

    def boot(self) -> Slot | None:
        self.current = started(self.path, grub(self.path.read_bytes()))
        return self.current


class UbootBench:
    """An environment partition and U-Boot."""

    most_tries = 7

    def __init__(self, root: Path) -> None:
        self.path = root / "environment"
        copy = ubootenv.encode(ubootenv.Environment(1, ubootenv.with_record((), FACTORY)))
        self.path.write_bytes((copy + bytes(SECOND_COPY)).ljust(ENVIRONMENT_SIZE, b"\0"))
        self.current: Slot = "a"

    @property
    def control(self) -> Recorded:
        return Recorded(UbootEnvironment(self.path), self.current)

    def boot(self) -> Slot | None:
        self.current = started(self.path, uboot(self.path.read_bytes()))
        return self.current


class TrybootBench:
    """A firmware partition and the Raspberry Pi's firmware; it starts nothing unasked."""

    most_tries = 1

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "firmware/autoboot.txt"
        self.path.parent.mkdir()
        self.path.write_bytes(autoboot.encode(autoboot.Autoboot(FACTORY, ""), PARTITIONS, SIZE))
        self.current: Slot = "a"
        self.boots = 0
        self._running(asked=False)

    @property
    def control(self) -> Recorded:
        return Recorded(TrybootFile(self.path.parent, PARTITIONS, self.root), self.current)

    def boot(self) -> Slot | None:
        parameter = self.root / REBOOT_PARAMETER
        asked = parameter.is_file() and parameter.read_text() == "0 tryboot"
        return self._start(asked=asked)

    def lose_power(self) -> Slot:
        """A start that nobody asked for: the firmware remembers nothing."""
        return self._start(asked=False)

    def _start(self, *, asked: bool) -> Slot:
        (self.root / REBOOT_PARAMETER).unlink(missing_ok=True)
        self.current = tryboot(self.path.read_bytes(), asked=asked).first
        self._running(asked=asked)
        return self.current

    def _running(self, *, asked: bool) -> None:
        self.boots += 1
        for name, data in (
            ("proc/sys/kernel/random/boot_id", f"boot-{self.boots}\n".encode()),
            (IS_TRY, int(asked).to_bytes(4, "big")),
        ):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(data)


BENCHES: dict[str, Callable[[Path], Bench]] = {
    "fake": FakeBench,
    "systemd-boot": SystemdBootBench,
    "grub": GrubBench,
    "u-boot": UbootBench,
    "tryboot": TrybootBench,
}


def started(environment: Path, start: Start) -> Slot:
    """Does what the loader does to the partition, and returns the slot that starts."""
    with environment.open("r+b") as out:
        for offset, data in start.writes:
            out.seek(offset)
            out.write(data)
    return start.first


def make_esp(root: Path) -> Path:
    """A boot partition as the factory leaves it: slot a, successful."""
    entries = root / "loader/entries"
    entries.mkdir(parents=True)
    (root / "EFI/orbital").mkdir(parents=True)
    for name in ("a.efi", "b.efi"):
        (root / "EFI/orbital" / name).write_bytes(b"MZ")
    (entries / entry_name("a", None)).write_text(entry_text("a", 1))
    (entries / "rescue.conf").write_text("title someone else's\nefi /EFI/rescue.efi\n")
    return root
