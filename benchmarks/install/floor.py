"""Install: fetch from a directory, verify, write, sync, read back; against the plainest write.

`python -m benchmarks.install.floor [--size MB] [--pairs N] [--json]` makes an image out of this
machine's /usr/lib, publishes it, and installs it into a slot that is a file; the floor is
`zstd -dc IMAGE.zst | dd conv=notrunc,fsync` of the same two files, root image and boot artifact.
Ours runs in a fresh process, timed twice: the update itself (metadata, root image, boot
artifact, state, commit point), and the whole command with interpreter and imports. Its peak
memory is printed too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Comparison, seconds
from recovery import process

ROOT = Path(__file__).resolve().parents[2]
LEVEL = 9
SEGMENT = 4 << 20
MEMORY_AIM = 100 << 20
BOOT_SIZE = 16 << 20

_INSTALL = """
import sys
import time
from pathlib import Path
from recovery.bootcontrol.systemd_boot import SystemdBoot
from recovery.device import decode
from recovery.reporter import SilentReporter
from recovery.state import StateStore
from updater.device import Device
from updater.update import Request, update
base = Path(sys.argv[1])
esp = base / "esp"
device = Device(
    config=decode((base / "device.json").read_bytes()),
    store=StateStore(base / "state"),
    boot_control=SystemdBoot(esp, "a"),
    slots={"a": base / "root-a", "b": base / "root-b"},
    boot_directory=esp,
    anchor=base / "root.json",
    boot_id="benchmark",
    generation=1,
)
start = time.perf_counter()
done = update(device, Request(sys.argv[2], None, "benchmark"), SilentReporter())
print(time.perf_counter() - start)
assert done.installed is not None and done.installed.kept == 0
"""


def measure(size: int, pairs: int) -> tuple[list[Comparison], int]:
    """The comparisons, and the peak memory of an install in bytes. size: of the image's data."""
    with tempfile.TemporaryDirectory(prefix="orbital-bench-") as name:
        work = Path(name)
        device = work / "device"
        image = _prepare(work, size)
        for slot in (device / "root-b", work / "floor"):
            slot.write_bytes(bytes(image.stat().st_size))
        (work / "boot").write_bytes(_content(BOOT_SIZE))
        for plain, packed in ((image, "image.zst"), (work / "boot", "boot.zst")):
            process.run(["zstd", "-q", f"-{LEVEL}", plain, "-o", work / packed])
        update: list[float] = []
        command: list[float] = []
        floor: list[float] = []
        peak = 0
        for pair in range(pairs):
            # Alternate who goes first, so that a warming cache favours neither.
            for ours in (True, False) if pair % 2 == 0 else (False, True):
                _reset(device)
                if not ours:
                    floor.append(seconds(lambda: _floor(work)))
                    continue
                run = _install(device, work / "repository")
                update.append(run.update_seconds)
                command.append(run.command_seconds)
                peak = max(peak, run.peak)
        assert (device / "root-b").read_bytes() == image.read_bytes()
        what = f"install {size >> 20} MiB from a directory"
        return [
            Comparison(f"{what} : zstd | dd", tuple(update), tuple(floor), 1.3),
            Comparison("  the whole command : zstd | dd", tuple(command), tuple(floor)),
        ], peak


@dataclass(frozen=True)
class Run:
    """One install in a process of its own. peak: largest resident set, bytes."""

    update_seconds: float
    command_seconds: float
    peak: int


def _install(device: Path, repository: Path) -> Run:
    start = time.perf_counter()
    child = process.start(
        [sys.executable, "-c", _INSTALL, device, repository],
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=None,
    )
    assert child.stdout is not None
    update_seconds = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0
    return Run(float(update_seconds), time.perf_counter() - start, usage.ru_maxrss * 1024)


def _floor(work: Path) -> None:
    for packed, target in (("image.zst", "floor"), ("boot.zst", "floor-boot")):
        reader = process.start(["zstd", "-dc", work / packed], stdout=subprocess.PIPE)
        assert reader.stdout is not None
        writer = process.start(
            ["dd", f"of={work / target}", "bs=1M", "iflag=fullblock", "conv=notrunc,fsync"],
            stdin=reader.stdout.fileno(),
        )
        assert (writer.wait(), reader.wait()) == (0, 0)


def _reset(device: Path) -> None:
    """A device that has never been updated, and a quiet disk."""
    for name in ("state", "esp"):
        shutil.rmtree(device / name, ignore_errors=True)
    _factory(device)
    os.sync()


def _prepare(work: Path, size: int) -> Path:
    """Publishes an image of size bytes of data; returns its root image. In a process of its own,
    so that its memory does not count."""
    process.run(
        [
            sys.executable,
            "-m",
            "benchmarks.install.floor",
            "--prepare",
            work,
            "--size",
            str(size >> 20),
        ],
        cwd=ROOT,
    )
    return work / "root.img"


def _publish(work: Path, size: int) -> None:
    """What _prepare does, in its own process."""
    import hashlib

    import msgspec
    import zstandard

    from imager.keys import make_development_keys
    from imager.repository.create import create
    from imager.repository.keyring import KeyDirectory
    from imager.repository.publish import publish
    from imager.repository.roles import Periods
    from manifests.index import BootArtifact, OsIndex, RootImage, Segment, Stream
    from recovery.device import DeviceConfig, encode
    from recovery.reporter import SilentReporter
    from updater import verity

    def cut(data: bytes) -> Stream:
        segments = []
        for at in range(0, len(data), SEGMENT):
            piece = data[at : at + SEGMENT]
            stored = zstandard.ZstdCompressor(level=LEVEL).compress(piece)
            digest = hashlib.sha256(stored).hexdigest()
            path = work / "build" / "chunks" / digest[:2] / digest
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(stored)
            segments.append(
                Segment(len(piece), hashlib.sha256(piece).hexdigest(), len(stored), digest)
            )
        return Stream(len(data), hashlib.sha256(data).hexdigest(), SEGMENT, tuple(segments))

    data = _content(size)
    salt = bytes(32)
    levels = verity.build_levels(verity.hash_blocks(data, salt), salt)
    root_hash = verity.root_hash(levels, salt).hex()
    head = verity.superblock(RootImage(root_hash, size, salt.hex(), Stream(0, "", 0, ())))
    image = data + head.ljust(verity.BLOCK, b"\0") + b"".join(reversed(levels))
    (work / "root.img").write_bytes(image)
    sbom = b"{}\n"
    index = OsIndex(
        format=1,
        system="benchmark",
        version="2.0",
        board="benchmark",
        architecture="x86_64",
        built=0,
        root=RootImage(root_hash, size, salt.hex(), cut(data)),
        boot=BootArtifact("uki", cut(_content(BOOT_SIZE))),
        packages={},
        sbom_sha256=hashlib.sha256(sbom).hexdigest(),
    )
    (work / "build" / "index.json").write_bytes(msgspec.json.encode(index))
    (work / "build" / "sbom.cdx.json").write_bytes(sbom)
    make_development_keys(work / "keys")
    keys = KeyDirectory(work / "keys")
    anchor = create(work / "repository", keys, periods=Periods())
    publish(work / "repository", [work / "build"], keys, reporter=SilentReporter())
    config = DeviceConfig(
        system="benchmark",
        version="1.0",
        board="benchmark",
        architecture="x86_64",
        built=0,
        boot_control="systemd-boot",
        boot_partition="esp",
        state="state",
        slots={"a": "root-a", "b": "root-b"},
    )
    device = work / "device"
    device.mkdir()
    (device / "device.json").write_bytes(encode(config))
    (device / "root.json").write_bytes(anchor)


def _factory(device: Path) -> None:
    """The state of a device that has never been updated."""
    from recovery.bootcontrol.systemd_boot import entry_name, entry_text
    from recovery.generations import Generation
    from recovery.state import StateRecord, StateStore

    entries = device / "esp" / "loader" / "entries"
    entries.mkdir(parents=True)
    (device / "esp" / "EFI" / "orbital").mkdir(parents=True)
    (entries / entry_name("a", None)).write_text(entry_text("a", 1))
    store = StateStore(device / "state")
    store.generations.write(
        Generation(1, "a", "benchmark", "1.0", "00", None, 0, "factory", "benchmark")
    )
    store.save(StateRecord(next_generation=2, committed=1))


def _content(size: int) -> bytes:
    """What images are made of: this machine's libraries and programs."""
    parts: list[bytes] = []
    have = 0
    for path in sorted(Path("/usr").rglob("*")):
        if have >= size:
            break
        if path.is_file() and not path.is_symlink():
            parts.append(path.read_bytes()[: size - have])
            have += len(parts[-1])
    return b"".join(parts).ljust(size, b"\0")


def main() -> None:
    """Prints the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=360, help="MiB of the image (default 360)")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        _publish(options.prepare, options.size << 20)
        return
    rows, peak = measure(options.size << 20, options.pairs)
    if options.json:
        memory = {"name": "peak memory of an install", "bytes": peak, "aim": MEMORY_AIM}
        print(json.dumps([*(row.document() for row in rows), memory], indent=1))
        return
    for row in rows:
        print(row.row())
    met = "met" if peak < MEMORY_AIM else "MISSED"
    print(f"peak memory of an install: {peak / 1e6:.0f} MB, aim < {MEMORY_AIM / 1e6:.0f} MB {met}")


if __name__ == "__main__":
    main()
