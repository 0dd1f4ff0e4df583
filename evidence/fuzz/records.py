"""Readers of `recovery`: what lies on the state partition, in loaders' records and in packages.

Each function reads one input as the device does and uses what came out: what is
read must be writable, printable, and the same after it was written and read again.
"""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from recovery import (
    audit,
    boot,
    codec,
    decide,
    device,
    evidence,
    generations,
    gpt,
    history,
    starts,
    state,
)
from recovery.boot import RunningImage
from recovery.bootcontrol import autoboot, firmware_options, grubenv, ubootenv
from recovery.bootcontrol.systemd_boot import SystemdBoot
from recovery.errors import OrbitalError
from recovery.generations import Generation
from recovery.packages import (
    active,
    capabilities,
    dbus,
    keyring,
    layers,
    model,
    names,
    signer,
    slices,
    trust,
)
from recovery.packages.paths import Paths
from recovery.slots import SLOTS, SlotState, other_slot

_RUNNING = Generation(1, "a", "gateway", "1.0", "hash-of-1.0", None, 0, "factory", "imager")
_OTHER = Generation(2, "b", "gateway", "2.0", "hash-of-2.0", 1, 0, "update", "timer")
_NUMBERS = {"a": 2, "b": 3}


def folder() -> Path:
    """A fresh directory in memory, for readers that want files."""
    base = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    return Path(tempfile.mkdtemp(prefix="orbital-fuzz.", dir=base))


def in_folder(data: bytes, name: str, read: Callable[[Path], object]) -> None:
    """Puts the input into a file of that name and has it read from its directory."""
    place = folder()
    try:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        read(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def usable(value: object) -> None:
    """What is read ends in paths, on consoles and in JSON."""
    repr(value)
    str(value).encode()
    codec.plain(value)


def state_record(data: bytes) -> None:
    """state.json: read, decided upon for every way in which this device may run, written."""
    try:
        record = state.decode(data)
    except ValueError:
        return
    assert state.decode(state.encode(record)) == record
    _printable(record)
    record.referenced()
    for image in (RunningImage("a", "hash-of-1.0"), RunningImage("b", "hash-of-2.0")):
        known = (_RUNNING, _OTHER)
        choice = decide.choose_generation(image, record, known, boot_id="now", now=0)
        if choice.record is not None:
            assert state.decode(state.encode(choice.record)) == choice.record
        running = _RUNNING if image.slot == "a" else _OTHER
        for own in (SlotState(True, True, None), SlotState(True, False, 1)):
            beside = SlotState(False, False, 0)
            a, b = (own, beside) if image.slot == "a" else (beside, own)
            view = decide.View("now", running, record, known, image.slot, a, b)
            _printable(decide.assess(view))


def generation_record(data: bytes) -> None:
    """generations/N.json: read, its entries judged as activation does, written."""
    try:
        found = generations.decode(data)
    except ValueError:
        return
    assert generations.decode(generations.encode(found)) == found
    _printable(found)
    found.digests()
    found.state_layers()
    paths = Paths(Path("/nowhere"))
    for entry in found.packages:
        try:
            names.check_entry(entry)
        except OrbitalError:
            continue
        for digest in (entry.digest, *entry.uses):
            assert paths.stored(digest).parent == paths.store
        layer = paths.layer(entry.name, entry.state)
        assert layer.parent.parent == paths.state / "layers", layer


def history_lines(data: bytes) -> None:
    """history.jsonl."""

    def read(place: Path) -> None:
        for event in history.History(place).events():
            _printable(event)

    in_folder(data, "history.jsonl", read)


def audit_trail(data: bytes) -> None:
    """audit.jsonl: verified, and another entry written after it."""

    def read(place: Path) -> None:
        audit.verify(place)
        before = audit.Audit(place).entries()
        audit.Audit(place).record("fuzz", "x", "done", who="fuzz")
        assert len(audit.Audit(place).entries()) == len(before) + 1

    in_folder(data, "audit.jsonl", read)


def boot_report(data: bytes) -> None:
    """/run/orbital/boot.json."""
    in_folder(data, boot.REPORT_FILE, lambda place: _printable(boot.load_report(place)))


def device_document(data: bytes) -> None:
    """device.json."""
    device.encode(device.decode(data))


def grub_environment(data: bytes) -> None:
    """A copy of the GRUB environment block."""
    try:
        block = grubenv.decode(data)
    except ValueError:
        return
    assert grubenv.decode(grubenv.encode(block)) == block


def uboot_environment(data: bytes) -> None:
    """A copy of U-Boot's environment: the input is flag and variables, the checksum is right."""
    body = data[1:].ljust(ubootenv.SIZE - 5, b"\0")[: ubootenv.SIZE - 5]
    copy = zlib.crc32(body).to_bytes(4, "little") + data[:1].ljust(1, b"\0") + body
    try:
        environment = ubootenv.decode(copy)
    except ValueError:
        return
    record = ubootenv.record_of(environment)
    kept = ubootenv.with_record(environment.variables, record)
    again = ubootenv.Environment(environment.flag, kept)
    try:
        written = ubootenv.encode(again)
    except ValueError:
        return
    assert ubootenv.record_of(ubootenv.decode(written)) == record


def autoboot_file(data: bytes) -> None:
    """The Raspberry Pi's autoboot.txt."""
    numbers = {slot: _NUMBERS[slot] for slot in SLOTS}
    try:
        found = autoboot.decode(data, numbers)
    except ValueError:
        return
    found.seen_from("another")
    try:
        written = autoboot.encode(found, numbers, autoboot.LIMIT)
    except ValueError:
        return
    assert autoboot.decode(written, numbers).record == found.record


def loader_entries(data: bytes) -> None:
    """Entries of systemd-boot: blocks "NAME, newline, content", divided by a line "--"."""
    place = folder()
    entries = place / "loader/entries"
    entries.mkdir(parents=True)
    try:
        for number, block in enumerate(data.split(b"\n--\n")[:8]):
            name, _, content = block.partition(b"\n")
            if not 2 < len(name) < 200 or b"/" in name or b"\0" in name:
                name = b"orbital-a+%d.conf" % number
            with open(bytes(entries) + b"/" + name, "wb") as file:
                file.write(content)
        control = SystemdBoot(place, "a")
        control.active_slot()
        for slot in SLOTS:
            control.slot_state(slot)
            control.slot_state(other_slot(slot))
        control.mark_unbootable("b")
        assert not control.slot_state("b").bootable
    finally:
        shutil.rmtree(place, ignore_errors=True)


def package_manifest(data: bytes) -> None:
    """manifest.json of a package."""
    try:
        package = model.decode(data)
    except ValueError:
        return
    assert model.decode(model.encode(package)) == package
    _printable(package)
    names.check_manifest(package)
    for item in package.slices:
        slices.check_schema(item.schema)


def active_set(data: bytes) -> None:
    """/run/orbital/packages/active.json."""
    try:
        found = active.decode(data)
    except ValueError:
        return
    active.news(None, found)
    _printable(found)


def layer_config(data: bytes) -> None:
    """config.json of a state layer."""
    in_folder(data, "config.json", layers.read_config)


def layer_schema(data: bytes) -> None:
    """schema of a state layer."""
    in_folder(data, "schema", layers.schema)


def slice_schema(data: bytes) -> None:
    """A schema and values for it: {"schema": ..., "values": ...}."""
    try:
        document = codec.parse_object(data)
        schema, values = document.get("schema"), document.get("values")
        if slices.check_schema(schema):
            return
        found = slices.problems(schema, values)
    except ValueError:
        return
    if not found:
        assert isinstance(values, dict)
        slices.merge(values, values)


def capability_policy(data: bytes) -> None:
    """capabilities.json."""
    try:
        capabilities.decode(data)
    except ValueError:
        return


def publisher_list(data: bytes) -> None:
    """publishers.json."""
    try:
        found = trust.decode(data)
    except ValueError:
        return
    for patterns in found.values():
        for pattern in patterns:
            trust.matches(pattern, "a-name")


def signature(data: bytes) -> None:
    """A PKCS#7 signature, or a certificate."""
    for read in (signer.of_signature, signer.of_certificate):
        try:
            read(data)
        except ValueError:
            continue


def bus_message(data: bytes) -> None:
    """A message on systemd's socket."""
    try:
        dbus.size(data[: dbus.HEAD_SIZE].ljust(dbus.HEAD_SIZE, b"\0"))
        dbus.parse(data.ljust(dbus.HEAD_SIZE, b"\0"), ())
        dbus.parse(data.ljust(dbus.HEAD_SIZE, b"\0"), ("JobRemoved",))
    except ValueError:
        return


def start_record(data: bytes) -> None:
    """The start record of rescue: anything reads, and what is written reads the same."""
    found = starts.parse(data)
    written = starts.to_bytes(found)
    assert len(written) == starts.SIZE and starts.parse(written) == found
    asked = starts.wish(found, "root", data[:200].decode(errors="replace"))
    again = starts.parse(starts.to_bytes(asked))
    assert (again.rescue, again.asked, again.starts) == (True, 0, found.starts)
    usable(found)


def firmware_option(data: bytes) -> None:
    """A boot option of the firmware, and its order of them: what is read is written the same."""
    found = firmware_options.decode_option(data)
    if found is not None:
        assert firmware_options.encode_option(found) == data
    order = firmware_options.decode_order(data)
    assert firmware_options.encode_order(order) == data[: len(order) * 2]
    guid = bytes(16)
    wanted = firmware_options.rescue_option(gpt.Entry(2, guid, 1, 1), "\\EFI\\BOOT\\BOOTX64.EFI")
    known, current = {0: data, 1: data[1:]}, order[0] if order else None
    for write in firmware_options.plan(known, order, current, wanted):
        if write.name == "BootOrder":
            order = firmware_options.decode_order(write.value)
        else:
            known[int(write.name[4:], 16)] = write.value
    assert firmware_options.plan(known, order, current, wanted) == ()


def partition_table(data: bytes) -> None:
    """A partition table: one block, and then the entries."""
    gpt.parse_entry(data[:512], data[512:], 2)


def kept_by_hardware(data: bytes) -> None:
    """What pstore and the watchdog kept of the boot before."""
    in_folder(data, "sys/fs/pstore/dmesg-0", lambda place: usable(evidence.gather(place)))
    in_folder(data, "sys/class/watchdog/watchdog0/bootstatus", evidence.gather)


def kernel_keys(data: bytes) -> None:
    """/proc/keys, where names of keyrings are what programs chose: the input is such a name."""
    own = b"2b8e1f00 I------     1 perm 1f030000     0     0 keyring   %s\n"
    lines = own % data.replace(b"\n", b"") + own % b".fs-verity: 2"

    def read(place: Path) -> None:
        try:
            keyring.find(place)
        except LookupError:
            return

    in_folder(lines, "proc/keys", read)


def _printable(value: object) -> None:
    """Every text in a record ends in a message, a path or a log in UTF-8."""
    for text in _texts(value):
        text.encode()


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, tuple | list):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, dict):
        return [text for item in value.items() for text in _texts(item)]
    found = getattr(value, "_fields", ())
    return [text for name in found for text in _texts(getattr(value, name))]
