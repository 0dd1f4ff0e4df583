"""Writes the seeds of the fuzz targets: `python -m tests.hostile.seeds`.

Real documents, made by the code that ships, small. Inputs that fuzzing found
lie beside them under other names and are left alone.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zstandard

from evidence.fuzz import network
from evidence.fuzz.target import CORPUS
from imager.cache import Cache
from imager.package.opk import write_opk
from imager.repository.deltas import DeltaMaker
from imager.tree import Entry
from recovery import audit, boot, codec, device, generations, gpt, process, state
from recovery import starts as start_records
from recovery.bootcontrol import autoboot, firmware_options, grubenv, ubootenv
from recovery.bootcontrol.recorded import GOOD, Count, Record
from recovery.bootcontrol.systemd_boot import entry_text
from recovery.generations import Earlier
from recovery.history import Event
from recovery.packages import capabilities, dbus, model
from recovery.packages.host import Activation, Active
from recovery.state import Attempt, PackageChange, Probation, Quarantine, StateRecord, Trial
from recovery.value import replace
from tests.delta import kernels, programs
from tests.delta.erofs_image import erofs
from tests.delta.frame_seeds import frames
from tests.delta.opened import closed
from tests.delta.test_rewrite import GOOD as REWRITE
from tests.imager.debs import make_deb
from tests.imager.package.bench import INTERFACE, make_tar, make_wheel, tar_file, tar_special
from tests.imager.test_bzimage import Parts
from tests.imager.test_bzimage import kernel as bzimage
from tests.imager.test_elf import _small_32_bit
from tests.recovery.artifacts import make_artifact, make_signature, make_uki
from tests.recovery.builders import CONFIG, generation
from tests.recovery.packages import builders
from tests.recovery.test_firmware_options import table_of
from tests.updater import images
from tests.updater.packages import delta_device
from tests.updater.packages import repository as packages
from tests.updater.publisher import Publisher
from tests.updater.versions import edited
from updater import budget, journal, seen

LARGE = 32 << 10
REPOSITORY = Path(__file__).parents[2]
Seeds = Iterator[tuple[str, str, bytes]]


def records() -> Seeds:
    """What recovery writes."""
    attempts = (Attempt("one", "health", "unit x failed", 5), Attempt("two", "early", "", 6))
    full = StateRecord(
        next_generation=4, committed=1, previous=None, trial=Trial(2, 3, "zero", attempts),
        quarantined=(Quarantine("1.5", "crashed", 4, 3), Quarantine("2.0", "x", 4, 3, "vpn")),
    )  # fmt: skip
    yield "state", "factory", state.encode(StateRecord(next_generation=2, committed=1))
    yield "state", "trial", state.encode(full)
    probation = Probation(1, 5, 600, 3, 2, "")
    change = PackageChange(3, "now")
    other = replace(full, trial=None, probation=probation, change=change, undo=1, previous=2)
    yield "state", "probation", state.encode(other)
    entry = builders.entry(uses=("cd" * 32,), earlier=Earlier("0.9", "ef" * 32, 1, ("cd" * 32,)))
    made = replace(generation(2, "b", parent=1), packages=(entry,), etc=1)
    yield "generation", "image", generations.encode(generation(1, "a", origin="factory"))
    yield "generation", "packages", generations.encode(made)
    event = Event("committed", 2, "1.0", "2.0", "b", "", "timer", 7, "one")
    line = json.dumps(codec.plain(event)).encode() + b"\n"
    yield "history", "two", line + line.replace(b"committed", b"installed") + b'{"torn'
    place = Path(tempfile.mkdtemp())
    trail = audit.Audit(place)
    for number in range(3):
        trail.record("package.install", f"vpn {number}", "done", who="root")
    yield "audit", "three", trail.path.read_bytes()
    report = boot.BootReport("one", "a", 1, False, False, ("e2fsck -p ended with code 1",), "ab")
    yield "boot-report", "one", codec.encode(report)
    yield "start-record", "empty", start_records.to_bytes(start_records.Starts())
    asked = start_records.wish(start_records.Starts(), "root", "a reason")
    yield "start-record", "asked", start_records.to_bytes(asked)
    named = gpt.Entry(2, bytes(range(16)), 6144, 2048)
    option = firmware_options.rescue_option(named, firmware_options.FILES["x86_64"])
    yield "firmware-option", "rescue", firmware_options.encode_option(option)
    yield "firmware-option", "order", firmware_options.encode_order((0, 3, 1))
    yield "gpt", "two", table_of((2048, 6143), (6144, 8191))[512:]
    yield "device", "one", device.encode(CONFIG)
    yield "policy", "one", json.dumps(
        {"source": "https://updates.example.org/r", "automatic": True, "window_start": "22:00",
         "window_end": "04:00", "reboot": True, "budget_update": "60MiB"}
    ).encode()  # fmt: skip


def loaders() -> Seeds:
    """What boot loaders keep."""
    record = Record(("b", "a"), GOOD, Count(2))
    yield "grubenv", "one", grubenv.encode(grubenv.Block(record, (b"saved_entry=1\n",)))
    variables = ubootenv.with_record((b"bootdelay=2", b"fdt_addr=0x1"), record)
    yield "ubootenv", "one", b"\x01" + b"".join(item + b"\0" for item in variables) + b"\0"
    numbers = {"a": 2, "b": 3}
    found = autoboot.Autoboot(Record(("b", "a"), GOOD, Count(1)), "one", ((b"[all]", b"x=1"),))
    yield "autoboot", "one", autoboot.encode(found, numbers, 512)  # type: ignore[arg-type]
    blocks = (("orbital-a.conf", entry_text("a", 1)), ("orbital-b+2-1.conf", entry_text("b", 2)))
    yield "loader-entries", "two", b"\n--\n".join(f"{n}\n{t}".encode() for n, t in blocks)
    yield "pstore", "panic", b"<0>[ 1.0] Kernel panic - not syncing: no init\n"
    yield "pstore", "status", b"0x20\n"
    yield "proc-keys", "one", b".evm: empty"
    yield "systemd-bus", "call", dbus.call(1, "a.b", "/a", "a.b", "Get", "x", ["y", "z"])
    yield "systemd-bus", "signal", _signal()


def _signal() -> bytes:
    data = bytearray(dbus.call(2, "a.b", "/a", "a.b", "JobRemoved", "x", "y", "z"))
    data[1] = dbus.SIGNAL
    return bytes(data)


def artifacts(base: Path) -> Seeds:
    """Boot artifacts, and a FAT as U-Boot boards have it."""
    for kind in ("uki", "cpio", "fit"):
        made = make_artifact(kind, "orbital.roothash=" + "ab" * 32, b"kernel" * 50)
        yield f"artifact-{kind}", "one", made
    yield "artifact-uki", "unsigned", make_uki("x", b"kernel")
    yield "authenticode", "one", make_signature(bytes(32))
    image = base / "fat"
    with image.open("wb") as out:
        out.truncate(1 << 20)
    process.run(["mkfs.vfat", "-F", "12", "-n", "FIRMWARE", image])
    (base / "boot.scr").write_bytes(b"script" * 1000)
    process.run(["mcopy", "-i", image, base / "boot.scr", "::/boot.scr"])
    yield "fat", "one", image.read_bytes()[:65536].rstrip(b"\0")


def of_packages() -> Seeds:
    """What packages have and leave behind."""
    schema = {
        "type": "object",
        "properties": {
            "port": {"type": "integer", "minimum": 1, "maximum": 65535},
            "names": {"type": "array", "items": {"type": "string", "pattern": "[a-z]{1,5}"}},
        },
        "required": ["port"],
    }
    values = {"port": 80, "names": ["a", "b"]}
    yield "slice-schema", "one", json.dumps({"schema": schema, "values": values}).encode()
    feature = builders.package(
        "vpn", builders.service(state=True), provides=(builders.provided(),), overlay=("usr/bin/x",)
    )
    yield "package-manifest", "feature", model.encode(feature)
    active = Activation(
        2, (Active("vpn", "1.0", "ab" * 32, ("orbital.vpn.main.service",), refused=(("m", "n"),)),)
    )
    document = codec.plain(active)
    keep = {"generation": document["generation"], "packages": document["packages"]}
    yield "active-set", "one", json.dumps(keep).encode()
    yield "layer-config", "one", b'{"format": 1, "slices": {"main": {"port": 80}}}'
    yield "layer-schema", "one", b"2\n"
    yield "capabilities", "one", capabilities.encode(builders.POLICY)
    listed = {"format": 1, "publishers": {"acme": {"packages": ["acme-*"]}}}
    yield "publishers", "one", json.dumps(listed).encode()


def published(base: Path) -> Seeds:
    """What a repository holds, and what an updater keeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "SEGMENT", 16384)
        publisher = Publisher(base / "images")
        noise = images.content("root", 48 * 1024)
        old = images.build_image(base / "1.0", "1.0", data=noise, boot=noise[:20000])
        new = images.build_image(
            base / "2.0", "2.0", data=edited(noise, "r", 3), boot=edited(noise[:20000], "b", 2)
        )
        publisher.publish(old)
        publisher.publish(new, deltas=DeltaMaker(Cache(base / "cache"), workers=1))
    targets = publisher.repository / "targets"
    yield "index", "published", next(targets.rglob("2.0/*.index.json")).read_bytes()
    yield "releases", "published", next(targets.rglob("*.releases.json")).read_bytes()
    yield "delta-document", "published", next(targets.rglob("2.0/*.delta-*.json")).read_bytes()
    yield "slice-map", "published", next(targets.rglob("2.0/*.slices.msgpack")).read_bytes()

    maker = packages.PackagePublisher(base / "p", packages.make_certificates(base / "c"))
    deltas = DeltaMaker(Cache(base / "cache"), workers=1)
    stored = images.content("old", delta_device.SIZE)
    for version, data in (("1.0", stored), ("2.0", edited(stored, "p", 3))):
        last = maker.opk(packages.manifest("acme-x", version), data=data)
        maker.offer(last, deltas=deltas)
    targets = maker.repository / "targets"
    yield (
        "package-releases",
        "published",
        max(targets.rglob("*.releases.json"), key=lambda path: path.stat().st_size).read_bytes(),
    )
    yield "package-delta", "published", next(targets.rglob("*.delta-*.json")).read_bytes()
    signature = last.read_bytes()[len(maker.image(last)) : -32]
    yield "signature", "pkcs7", signature
    yield "pkcs7", "signed", signature
    from cryptography.hazmat.primitives.serialization import Encoding

    from imager.keys import load_certificate

    certificate = load_certificate(maker.certificates / "packages/acme.pem")
    yield "signature", "certificate", certificate.public_bytes(Encoding.DER)
    image = base / "image"
    manifest = model.encode(packages.manifest("acme-x", "1.0"))
    image.write_bytes(erofs({"/manifest.json": manifest, "/usr/bin/x": b"x" * 5000}))
    write_opk(image, signature, base / "x.opk")
    yield "opk", "one", (base / "x.opk").read_bytes()
    yield "erofs", "one", image.read_bytes()
    yield "erofs", "extended", erofs({"/a/b": b"c", "/d": b"e" * 4096}, extended=True)

    yield "journal", "one", msgspec.json.encode(journal.Journal("ab" * 32, "b", "2.0"))
    told = seen.Seen(1, 1, 5, 5, {"targets": 1, "os": 4}, ("ab", "cd"), 1_700_000_000)
    yield "seen", "one", msgspec.json.encode(told)
    yield "usage", "one", msgspec.json.encode(budget.Usage("2026-11", 5, "ab", 5))
    handler = {"kind": "file", "match": ".txt", "package": "a", "program": "b"}
    yield "associations", "one", json.dumps({"format": 1, "associations": [handler]}).encode()


def network_seeds() -> Seeds:
    """Metadata and answers."""
    _, files = network.repository()
    for role in network.ROLES:
        (name,) = (name for name in files if name.endswith(f"{role}.json"))
        signed = json.loads(files[name])["signed"]
        if role == "root":
            signed["version"] = 2
        yield "tuf", role, json.dumps({"role": role, "signed": signed}).encode()
    yield "tuf", "raw", json.dumps({"role": "timestamp", "raw": "{}"}).encode()
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "a"\r\n\r\nhello'
    yield "http", "whole", head
    ranged = (
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 3-102/200\r\nContent-Length: 100"
    )
    yield "http", "part", ranged + b"\r\n\r\n" + b"x" * 100
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    yield "http", "chunked", chunked
    moved = b"HTTP/1.1 302 Found\r\nLocation: /r/y\r\nContent-Length: 0\r\n\r\n"
    yield "http", "moved", moved + b"\n--next--\n" + head
    digits = b"Content-Range: bytes " + b"9" * 5000 + b"-1/2\r\nContent-Length: 4\r\n\r\nfour"
    yield "http", "digits", b"HTTP/1.1 206 P\r\n" + digits
    cut = head.replace(b": 5", b": 9") + b"\n--next--\nHTTP/1.1 206 P\r\nContent-Range: bytes 5-8/9"
    yield "http", "continued", cut + b"\r\nContent-Length: 4\r\n\r\nfour"
    yield "metrics-request", "get", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def deltas() -> Seeds:
    """Payloads."""
    for number, data in enumerate(frames()):
        yield "delta-frame", f"frame-{number:02}", data
    yield "delta-cluster", "one", (3000).to_bytes(3, "little") + closed(b"abc" * 1000)
    yield "delta-rewrite", "one", REWRITE
    yield "delta-inodes", "empty", bytes(9)


def host(base: Path) -> Seeds:
    """What the build host reads."""
    files = {
        "usr/bin/x": Entry("file", 0o755, content=b"#!/bin/sh\n"),
        "usr/lib": Entry("directory", 0o755),
        "usr/y": Entry("symlink", target="x"),
    }
    yield "deb", "one", make_deb("demo", files, fields="Replaces: other (<< 2)\n", postinst="true")
    tar = make_tar(base / "x.tar", [tar_file("usr/a", b"hello"), tar_special("usr/b", b"2", "a")])
    yield "tar", "one", tar.read_bytes()
    yield "elf", "small", _small_32_bit()
    yield "elf", "linked", programs.link("x86_64", programs.functions(8, 1), 1)
    yield "elf", "kernel", kernels.x86_64(newer=False)[:8192]
    little = b"\x7fELF" + bytes(2000) + b"\x01" * 70
    small = zstandard.ZstdCompressor(3).compress(little) + len(little).to_bytes(4, "little")
    yield "bzimage", "one", bzimage(Parts(payload=small))
    made = make_wheel(base / "demo-2.5-py3-none-any.whl", {"demo/__init__.py": "x = 1\n"})
    yield "wheel", "one", made.read_bytes()
    yield "interface", "gateway", msgspec.json.encode(INTERFACE)
    yield "apt-sources", "lines", b"deb http://deb.example.org/debian trixie main\n"
    fields = b"Types: deb\nURIs: http://deb.example.org/debian\nSuites: trixie trixie-security\n"
    yield "apt-sources", "fields", fields + b"Components: main\n"
    yield "board", "grub", (REPOSITORY / "boards/qemu-x86_64-bios.yaml").read_bytes()
    yield "system", "gateway", (REPOSITORY / "manifests/systems/gateway.yaml").read_bytes()
    folder = REPOSITORY / "manifests/packages/wireguard"
    yield "package", "wireguard", (folder / "package.yaml").read_bytes()


def main() -> None:
    """Writes them."""
    base = Path(tempfile.mkdtemp())
    try:
        for part in (
            records(), loaders(), artifacts(base), of_packages(), published(base),
            network_seeds(), deltas(), host(base),
        ):  # fmt: skip
            for target, name, data in part:
                write(CORPUS / target / name, data)
    finally:
        shutil.rmtree(base)


def write(path: Path, data: bytes) -> None:
    """Keeps a seed; a large one compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if len(data) > LARGE:
        path, data = path.with_suffix(".zst"), zstandard.ZstdCompressor(19).compress(data)
    path.write_bytes(data)


if __name__ == "__main__":
    main()
