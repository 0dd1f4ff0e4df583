"""The initramfs run by a real kernel in QEMU: which slot it takes, and how it gives up.

Without firmware, so that each boot costs seconds; the root image is small, with
a busybox script in the place of /usr/lib/orbital/early.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from imager.cache import Cache, default_directory
from imager.command_line import command_line
from imager.debian import prepare_base
from imager.initramfs import initramfs_tree, write_initramfs
from imager.kernel import Kernel, prepare_kernel
from imager.layout import DiskLayout, plan_layout, sfdisk_script
from imager.root import RootFacts, build_root
from imager.tools import Tools
from imager.tree import Tree
from manifests.board import Board, Layout
from manifests.catalogue import load_product
from manifests.sizes import Size
from qemu import emulator
from recovery.process import run
from recovery.slots import Slot

pytestmark = [pytest.mark.boot, pytest.mark.build]

EPOCH = 1_760_000_000
SECONDS = 90
EARLY = """\
#!/bin/busybox sh
echo "EARLY pid=$$ slot=$(busybox cat /run/orbital/slot)"\\
" watchdog=$(busybox cat /run/orbital/watchdog) root=$(busybox cat /marker)"
busybox poweroff -f
"""


@dataclass(frozen=True)
class Parts:
    """All that a boot needs. facts and image of each of two root images."""

    board: Board
    layout: DiskLayout
    kernel: Kernel
    base: Tree
    images: Mapping[str, tuple[Path, RootFacts]]
    tools: Tools
    initramfs: Path


def _initramfs(base: Tree, kernel: Kernel, output: Path, hooks: Mapping[str, bytes]) -> Path:
    tree = initramfs_tree(
        base,
        kernel.module_files(["i6300esb"]),
        kernel.module_files(["virtio_blk", "dm-verity", "erofs"]),
        hooks,
    )
    write_initramfs(tree, output, mtime=EPOCH)
    return output


def _root(base: Tree, tools: Tools, directory: Path, name: str) -> tuple[Path, RootFacts]:
    tree = Tree()
    tree.file("bin/busybox", base.read("usr/bin/busybox"), 0o755)
    tree.file("usr/lib/orbital/early", EARLY, 0o755)
    tree.file("marker", name)
    for mount_point in ("dev", "proc", "run", "sys"):
        tree.directory(mount_point)
    image = directory / f"{name}.img"
    return image, build_root(tree, image, tools, name=name, built=EPOCH)


@pytest.fixture(scope="module")
def parts(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Made once: kernel and busybox from Debian, two root images."""
    directory = tmp_path_factory.mktemp("boot")
    cache = Cache(default_directory())
    product = load_product("gateway", "qemu-x86_64")
    board = product.board
    small = tuple(
        msgspec.structs.replace(part, size=Size(16 << 20)) for part in board.layout.partitions
    )
    board = msgspec.structs.replace(board, layout=Layout(small))
    base = prepare_base(product, cache).tree()
    kernel = prepare_kernel(board, cache, tools)
    images = {name: _root(base, tools, directory, name) for name in ("one", "two")}
    initramfs = _initramfs(base, kernel, directory / "initramfs", {})
    return Parts(board, plan_layout(board), kernel, base, images, tools, initramfs)


@pytest.fixture
def boot(parts: Parts, tmp_path: Path) -> Callable[..., str]:
    """Boots a disk whose slots hold images, and returns the console until power-off or reset."""

    def start(
        slots: Mapping[Slot, str],
        wanted: str,
        *,
        change: Callable[[str], str] = str,
        damage: tuple[Slot, int] | None = None,
        initramfs: Path = parts.initramfs,
        watchdog_device: bool = True,
        signed_hash: str = "",
    ) -> str:
        disk = tmp_path / "disk"
        with disk.open("wb") as out:
            out.truncate(parts.layout.size)
        parts.tools.run("sfdisk", "--quiet", disk, stdin=sfdisk_script(parts.layout))
        starts = {
            slot: parts.layout.extent(parts.board.slot_partition(slot).label).start
            for slot in ("a", "b")
        }
        with disk.open("r+b") as out:
            for slot, name in slots.items():
                out.seek(starts[slot])
                out.write(parts.images[name][0].read_bytes())
            if damage:
                out.seek(starts[damage[0]] + damage[1])
                out.write(b"damage, as by a failing disk")
        facts = parts.images[wanted][1]
        line = command_line(
            parts.board,
            root_hash=signed_hash or facts.root_hash,
            hash_offset=facts.hash_offset,
            extra=["quiet", "loglevel=4"],
        )
        done = run(
            [
                *emulator.command("qemu-system-x86_64"),
                "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512",
                "-cpu", "max", "-smp", "1", "-m", "512", "-nodefaults", "-display", "none",
                "-serial", "stdio", "-no-reboot",
                "-kernel", parts.kernel.image, "-initrd", initramfs, "-append", change(line),
                "-drive", f"if=none,id=d0,file={disk},format=raw,cache=unsafe",
                "-device", "virtio-blk-pci,drive=d0",
                *(["-device", "i6300esb", "-action", "watchdog=reset"] if watchdog_device else []),
            ],
            timeout=SECONDS,
        )  # fmt: skip
        return done.stdout

    return start


@pytest.mark.parametrize(
    ("slots", "wanted", "slot"),
    [
        ({"a": "one", "b": "two"}, "one", "a"),
        ({"a": "one", "b": "two"}, "two", "b"),
        ({"b": "one"}, "one", "b"),
    ],
    ids=["in a", "in b", "in b, a is empty"],
)
def test_the_slot_is_found_by_the_root_hash_alone(
    boot: Callable[..., str], slots: Mapping[Slot, str], wanted: str, slot: Slot
) -> None:
    console = boot(slots, wanted)
    assert f"EARLY pid=1 slot={slot} watchdog=armed root={wanted}" in console
    steps = [line for line in console.splitlines() if line.startswith("orbital: initramfs: ")]
    expected = ["started", "watchdog started", "modules loaded", f"slot {slot} (", "switch_root"]
    assert len(steps) == len(expected)
    for step, words in zip(steps, expected, strict=True):
        assert step.startswith(f"orbital: initramfs: {words}")


def test_an_image_that_lies_about_its_root_hash_is_not_opened(
    boot: Callable[..., str], parts: Parts
) -> None:
    # The UUID in the (unauthenticated) superblock matches, the content does not.
    real = parts.images["one"][1].root_hash
    console = boot({"a": "one"}, "one", signed_hash=real[:32] + "0" * 32)
    assert "EARLY" not in console
    assert "corrupted" in console


def test_a_damaged_block_restarts_before_anything_of_it_runs(
    boot: Callable[..., str],
) -> None:
    # The first block holds the erofs superblock.
    console = boot({"a": "one"}, "one", damage=("a", 1024))
    assert "EARLY" not in console
    assert "corrupted" in console
    assert "switch_root" not in console


def test_without_the_image_in_any_slot_it_gives_up_in_bounded_time(
    boot: Callable[..., str],
) -> None:
    console = boot({"a": "one"}, "two")
    assert "cannot find a slot with the image" in console
    assert "restarting" in console


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("orbital.roothash=", "cannot use orbital.roothash"),
        ("orbital.roothash=12", "cannot use orbital.roothash: not a SHA-256 root hash"),
        ("orbital.roothash=$(reboot)", "cannot use orbital.roothash: not hexadecimal"),
        ("orbital.hashoffset=x", "cannot use orbital.hashoffset: not a number"),
        ("orbital.slots=", "cannot find orbital.slots"),
    ],
)
def test_an_unusable_command_line_is_named_and_restarts(
    boot: Callable[..., str], argument: str, message: str
) -> None:
    key = argument.partition("=")[0] + "="

    def change(line: str) -> str:
        return " ".join(argument if word.startswith(key) else word for word in line.split())

    console = boot({"a": "one"}, "one", change=change)
    assert f"{message}" in console
    assert "EARLY" not in console


def test_what_is_appended_to_the_signed_command_line_changes_nothing(
    boot: Callable[..., str], parts: Parts
) -> None:
    other = parts.images["two"][1].root_hash
    console = boot(
        {"a": "one", "b": "two"},
        "one",
        change=lambda line: f"{line} orbital.roothash={other} orbital.slots=root-b",
    )
    assert "EARLY pid=1 slot=a watchdog=armed root=one" in console


def test_a_machine_without_its_watchdog_boots_and_says_so(boot: Callable[..., str]) -> None:
    console = boot({"a": "one"}, "one", watchdog_device=False)
    assert "WARNING: no watchdog" in console
    assert "EARLY pid=1 slot=a watchdog=absent" in console


@pytest.mark.parametrize(("code", "booted"), [(0, True), (3, False)])
def test_hooks_run_before_the_slot_is_opened_and_may_stop_the_boot(
    boot: Callable[..., str], parts: Parts, tmp_path: Path, code: int, booted: bool
) -> None:
    hook = f"#!/bin/sh\necho HOOK $slots\nexit {code}\n".encode()
    initramfs = _initramfs(parts.base, parts.kernel, tmp_path / "hooked", {"10-try": hook})
    console = boot({"a": "one"}, "one", initramfs=initramfs)
    assert "HOOK root-a,root-b" in console
    assert ("EARLY" in console) is booted
    assert ("cannot complete the hook 10-try" in console) is not booted


def test_an_init_that_ends_unexpectedly_restarts(
    boot: Callable[..., str], parts: Parts, tmp_path: Path
) -> None:
    tree = initramfs_tree(parts.base, [], [])
    broken = tree.read("init").replace(b"load_modules\nif", b'echo "$not_set"\nif')
    tree.file("init", broken, 0o755)
    output = tmp_path / "broken"
    write_initramfs(tree, output, mtime=EPOCH)
    console = boot({"a": "one"}, "one", initramfs=output)
    assert "the init script ended unexpectedly; restarting" in console
