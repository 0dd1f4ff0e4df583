"""`orbital board` and `orbital manifest`."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from manifests.catalogue import REPOSITORY
from manifests.index import FORMAT, BootArtifact, OsIndex, RootImage, Stream
from manifests.schema import schema_text
from tests.orbital.test_main import orbital


def test_boards_are_listed_with_what_tells_them_apart() -> None:
    lines = orbital("board", "list").stdout.splitlines()
    assert lines[0].split() == [
        "BOARD", "ARCHITECTURE", "FIRMWARE", "BOOT", "CONTROL", "WATCHDOG", "QEMU", "SUMMARY",
    ]  # fmt: skip
    pi = next(line.split() for line in lines if line.startswith("raspberrypi-4"))
    assert pi[1:6] == ["aarch64", "raspberry-pi", "tryboot", "bcm2835_wdt", "no"]
    boards = json.loads(orbital("board", "list", "--json").stdout)["boards"]
    reference = next(board for board in boards if board["board"] == "qemu-x86_64")
    summary = reference.pop("summary")
    assert "UEFI" in summary
    assert reference == {
        "board": "qemu-x86_64",
        "architecture": "x86_64",
        "firmware": "uefi",
        "boot_control": "systemd-boot",
        "watchdog": "i6300esb",
        "qemu": True,
    }


def test_a_board_is_shown_with_its_partitions() -> None:
    text = orbital("board", "show", "qemu-x86_64").stdout
    assert "root-b       512MiB   slot b" in text
    assert "i6300esb, 60 s, armed by efi-driver" in text
    board = json.loads(orbital("board", "show", "qemu-x86_64", "--json").stdout)
    assert board["layout"]["partitions"][3]["size"] == 512 << 20


def test_all_that_is_shipped_is_valid() -> None:
    files = sorted(
        str(path.relative_to(REPOSITORY))
        for folder in ("boards", "manifests")
        for path in (REPOSITORY / folder).rglob("*.yaml")
    )
    done = orbital("manifest", "check", *files)
    assert len(done.stdout.splitlines()) == len(files) >= 4
    assert all(line.endswith(": valid") for line in done.stdout.splitlines())


def test_a_bad_board_and_a_good_one_are_both_reported(tmp_path: Path) -> None:
    good = REPOSITORY / "boards/qemu-x86_64.yaml"
    text = good.read_text(encoding="utf-8")
    bad = tmp_path / "bad.yaml"
    bad.write_text(text.replace("role: state", "role: stat"), encoding="utf-8")
    line = text[: text.index("role: state")].count("\n") + 1
    done = orbital("board", "check", str(good), str(bad), code=3)
    assert done.stdout == (
        f"{good}: board: valid\n"
        f"cannot use {bad}:{line}: layout.partitions[5].role: expected boot, environment, esp, "
        'firmware, rescue, slot or state, got "stat"\n'
        '  did you mean "state"? allowed values: boot, environment, esp, firmware, rescue, slot,'
        " state\n"
    )
    documents = json.loads(
        orbital("manifest", "check", str(good), str(bad), "--json", code=3).stdout
    )["documents"]
    assert [(item["kind"], item["ok"]) for item in documents] == [("board", True), ("board", False)]
    assert documents[1]["error"]["exit_code"] == 3


def make_build(directory: Path, *, board: str, root: int, boot: int) -> Path:
    """A build directory with images of those sizes (all holes)."""
    empty = Stream(0, "00" * 32, 1 << 20, ())
    index = OsIndex(
        format=FORMAT,
        system="gateway",
        version="1.0",
        board=board,
        architecture="x86_64",
        built=0,
        root=RootImage("ab" * 32, 0, "00" * 32, empty),
        boot=BootArtifact("uki", empty),
        packages={},
        capabilities=(),
        refused=(),
        sbom_sha256="00" * 32,
    )
    directory.mkdir()
    (directory / "index.json").write_bytes(msgspec.json.encode(index))
    for name in ("sbom.cdx.json", "interface.json", "device.json"):
        (directory / name).write_text("{}")
    for name, size in (("root.img", root), ("boot.img", boot)):
        with (directory / name).open("wb") as out:
            out.truncate(size)
    return directory


def test_an_image_that_fits_its_board_is_valid(tmp_path: Path) -> None:
    build = make_build(tmp_path / "b", board="qemu-x86_64", root=512 << 20, boot=40 << 20)
    done = orbital("board", "check", "qemu-x86_64", "--image", str(build))
    assert done.stdout.splitlines()[-1] == f"{build}: image: valid"


def test_slots_too_small_for_an_image_are_named_with_the_size_to_write(tmp_path: Path) -> None:
    board = REPOSITORY / "boards/qemu-x86_64.yaml"
    lines = board.read_text(encoding="utf-8").splitlines()
    esp = lines.index("      size: 192MiB") + 1
    slot = next(n for n, text in enumerate(lines, 1) if text == "      size: 512MiB")
    build = make_build(
        tmp_path / "b", board="qemu-x86_64", root=(600 << 20) + 1, boot=(100 << 20) + 1
    )
    done = orbital("board", "check", "qemu-x86_64", "--image", str(build), code=3)
    assert f"{board}: board: valid" in done.stdout
    assert (
        f"cannot use {board}:{esp}: layout.partitions[0].size: expected at least"
        ' "305MiB", for the boot artifact of b, got "192MiB"'
    ) in done.stdout
    assert (
        f"{board}:{slot}: layout.partitions[3].size: expected at least"
        ' "601MiB", for the root image of b, got "512MiB" (write "601MiB" or more for both slots,'
        " drop packages, or set image.compression)"
    ) in done.stdout


def test_an_image_for_another_board_is_not_called_fitting(tmp_path: Path) -> None:
    build = make_build(tmp_path / "b", board="qemu-x86_64-nvme", root=0, boot=0)
    done = orbital("board", "check", "qemu-x86_64", "--image", str(build), code=3)
    assert "it is for board qemu-x86_64-nvme, which is none of those checked" in done.stdout


def test_a_schema_is_printed() -> None:
    assert orbital("manifest", "schema", "board").stdout == schema_text("board")
    assert orbital("manifest", "schema").stdout.split() == [
        "board", "capabilities", "package", "system",
    ]  # fmt: skip


def test_the_documentation_of_capabilities_is_printed_and_is_what_is_shipped() -> None:
    shipped = (REPOSITORY / "docs/capabilities.md").read_text(encoding="utf-8")
    assert orbital("manifest", "capabilities").stdout == shipped, (
        "run: orbital manifest capabilities --write"
    )
    document = json.loads(orbital("manifest", "capabilities", "--json").stdout)
    assert "net.client" in [item["name"] for item in document["capabilities"]]
