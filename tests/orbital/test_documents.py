"""`orbital board` and `orbital manifest`."""

from __future__ import annotations

import json
from pathlib import Path

from manifests.catalogue import REPOSITORY
from manifests.schema import schema_text
from tests.orbital.test_main import orbital


def test_boards_are_listed() -> None:
    assert "qemu-x86_64  x86_64  systemd-boot" in orbital("board", "list").stdout
    boards = json.loads(orbital("board", "list", "--json").stdout)["boards"]
    assert {"board": "qemu-x86_64", "architecture": "x86_64"}.items() <= boards[0].items()


def test_a_board_is_shown_with_its_partitions() -> None:
    text = orbital("board", "show", "qemu-x86_64").stdout
    assert "root-b       512MiB   slot b" in text
    assert "i6300esb, 60 s, armed by efi-driver" in text
    board = json.loads(orbital("board", "show", "qemu-x86_64", "--json").stdout)
    assert board["layout"]["partitions"][1]["size"] == 512 << 20


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
        f"cannot use {bad}:{line}: layout.partitions[3].role: expected boot, environment, esp, "
        'slot or state, got "stat"\n'
        '  did you mean "state"? allowed values: boot, environment, esp, firmware, slot, state\n'
    )
    documents = json.loads(
        orbital("manifest", "check", str(good), str(bad), "--json", code=3).stdout
    )["documents"]
    assert [(item["kind"], item["ok"]) for item in documents] == [("board", True), ("board", False)]
    assert documents[1]["error"]["exit_code"] == 3


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
