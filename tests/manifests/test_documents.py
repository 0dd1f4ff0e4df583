"""Bad documents: the exact text a person reads, and that all mistakes are found at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.board import Board
from manifests.board_problems import board_problems
from manifests.document import MAX_BYTES, load_document, parse_document
from manifests.package import SystemPackage
from manifests.system import SystemManifest, system_problems
from recovery.errors import ManifestError

ROOT = Path(__file__).parent.parent.parent
BOARD = (ROOT / "boards/qemu-x86_64.yaml").read_text(encoding="utf-8")
GATEWAY = (ROOT / "manifests/systems/gateway.yaml").read_text(encoding="utf-8")
PACKAGE = 'package: one\nversion: "1.0"\ntype: system\nsummary: A package\n'

PI = (ROOT / "boards/raspberrypi-4.yaml").read_text(encoding="utf-8")

MODELS: dict[str, tuple[str, type[msgspec.Struct], Any]] = {
    "board": (BOARD, Board, board_problems),
    "pi": (PI, Board, board_problems),
    "system": (GATEWAY, SystemManifest, system_problems),
    "package": (PACKAGE, SystemPackage, None),
}


def error_of(text: str, kind: str) -> ManifestError:
    """The error of a document, which must have one."""
    _, model, check = MODELS[kind]
    with pytest.raises(ManifestError) as caught:
        parse_document(text.encode(), "F", model, check)
    return caught.value


def changed(kind: str, old: str, new: str) -> tuple[str, int]:
    """The shipped document with one place changed, and the line of that place."""
    text = MODELS[kind][0]
    assert text.count(old) >= 1, f"{old!r} is not in the {kind} any more"
    line = text[: text.index(old)].count("\n") + 1
    return text.replace(old, new, 1), line


@pytest.mark.parametrize(
    ("kind", "old", "new", "below", "brief", "fix"),
    [
        pytest.param(
            "board", "secure_boot:", "secureboot:", 0,
            "firmware.secureboot: expected a known key, got an unknown one",
            'did you mean "secure_boot"? known keys: kind, secure_boot',
            id="misspelt-key",
        ),
        pytest.param(
            "board", "summary:", "sumary:", 0,
            "sumary: expected a known key, got an unknown one",
            'did you mean "summary"? known keys: board, summary, architecture, firmware, '
            "boot_control, console, kernel, layout, watchdog, u_boot, raspberry_pi, rescue_button, "
            "qemu",
            id="misspelt-required-key-is-one-mistake",
        ),
        pytest.param(
            "board", "secure_boot: true", "secure_boot: yes", 0,
            'firmware.secure_boot: expected true or false, got "yes"',
            "write true or false without quotes",
            id="yes-is-not-a-boolean",
        ),
        pytest.param(
            "board", "architecture: x86_64", "architecture: x86", 0,
            'architecture: expected aarch64, armhf, riscv64 or x86_64, got "x86"',
            'did you mean "x86_64"? allowed values: aarch64, armhf, riscv64, x86_64',
            id="unknown-architecture",
        ),
        pytest.param(
            "board", "size: 192MiB", "size: 192MB", 0,
            'layout.partitions[0].size: expected a size such as "512MiB", got "192MB"',
            'write a number and a unit (B, KiB, MiB, GiB, TiB) together, e.g. "64MiB"',
            id="decimal-size",
        ),
        pytest.param(
            "board", "size: 192MiB", "size: 1536KiB", 0,
            "layout.partitions[0].size: expected a whole number of MiB, at least 1MiB, "
            'got "1536KiB"',
            'write for example "2MiB"',
            id="unaligned-size",
        ),
        pytest.param(
            "board", "timeout_seconds: 60", "timeout_seconds: 5", 0,
            "watchdog.timeout_seconds: expected seconds from 10 to 1000, got the number 5",
            "choose a number within these limits",
            id="watchdog-shorter-than-a-boot",
        ),
        pytest.param(
            "board", "boot_control: systemd-boot", "boot_control: tryboot", 0,
            'boot_control: expected systemd-boot with firmware uefi, got "tryboot"',
            "change boot_control or firmware.kind; uefi firmware starts systemd-boot",
            id="boot-control-of-another-firmware",
        ),
        pytest.param(
            "board", "kind: uefi", "kind: grub", 0,
            'firmware.kind: expected bios, raspberry-pi, u-boot or uefi, got "grub"',
            "allowed values: bios, raspberry-pi, u-boot, uefi",
            id="unknown-firmware",
        ),
        pytest.param(
            "board", "role: slot\n      slot: b",
            "role: slot\n      start: 600MiB\n      slot: b", 1,
            'layout.partitions[4].start: expected a whole number of MiB from 754MiB, where '
            '"root-a" ends, got "600MiB"',
            'partitions must not overlap; write "754MiB" or more, or remove start',
            id="overlapping-partitions",
        ),
        pytest.param(
            "board", "role: esp\n", "role: esp\n      start: 8KiB\n", 1,
            'layout.partitions[0].start: expected a whole number of MiB from 1MiB, where the '
            'partition table ends, got "8KiB"',
            'partitions must not overlap; write "1MiB" or more, or remove start',
            id="partition-in-the-partition-table",
        ),
        pytest.param(
            "board", "boot_stage: efi-driver", "boot_stage: firmware", 0,
            'watchdog.boot_stage: expected efi-driver or none with firmware uefi, got "firmware"',
            "only the Raspberry Pi's firmware arms its watchdog by itself; choose efi-driver "
            "or none",
            id="watchdog-armed-by-another-firmware",
        ),
        pytest.param(
            "board", "console: ttyS0", "console: /dev/ttyS0", 0,
            'console: expected a console such as "ttyS0,115200", got "/dev/ttyS0"',
            "",
            id="console-with-a-path",
        ),
        pytest.param(
            "pi", "boot_control: tryboot", "boot_control: grub", 0,
            'boot_control: expected tryboot with firmware raspberry-pi, got "grub"',
            "change boot_control or firmware.kind; raspberry-pi firmware starts tryboot",
            id="boot-control-that-its-firmware-does-not-start",
        ),
        pytest.param(
            "pi", "  package: raspi-firmware\n", "", -1,
            "raspberry_pi.package: expected both package and files, or neither, got files alone",
            "name the package that has the files, and the files to copy from it",
            id="firmware-files-of-no-package",
        ),
        pytest.param(
            "pi", "device_tree: broadcom", "device_tree: /broadcom", 0,
            'kernel.device_tree: expected a relative path that ends in .dtb, got '
            '"/broadcom/bcm2711-rpi-4-b.dtb"',
            "",
            id="device-tree-with-an-absolute-path",
        ),
        pytest.param(
            "pi", "    - label: firmware\n      role: firmware\n      size: 64MiB\n", "", -4,
            "layout.partitions: expected 1 partition with role firmware (firmware raspberry-pi, "
            "boot control tryboot, with rescue), got none",
            "add a partition with role firmware",
            id="no-partition-for-the-firmware",
        ),
        pytest.param(
            "pi",
            "    - label: rescue\n      role: rescue\n      size: 64MiB\n"
            "    - label: boot-a\n      role: boot\n      slot: a\n      size: 128MiB\n"
            "    - label: rescue-copy\n      role: rescue\n      size: 64MiB\n",
            "    - label: boot-a\n      role: boot\n      slot: a\n      size: 128MiB\n", -7,
            "layout.partitions: expected no partition with role environment (firmware"
            " raspberry-pi, boot control tryboot), got 1",
            "remove a partition with role environment",
            id="no-rescue-for-its-record",
        ),
        pytest.param(
            "pi",
            "    - label: rescue\n      role: rescue\n      size: 64MiB\n"
            "    - label: boot-a\n      role: boot\n      slot: a\n      size: 128MiB\n",
            "    - label: boot-a\n      role: boot\n      slot: a\n      size: 128MiB\n"
            "    - label: rescue\n      role: rescue\n      size: 64MiB\n", -7,
            "layout.partitions: expected firmware, rescue, boot, rescue, boot in this order,"
            " firmware as the first of all, got firmware, boot, rescue, rescue, boot, environment,"
            " slot, slot, state",
            "sort them: the firmware counts partitions",
            id="rescue-behind-the-slots",
        ),
        pytest.param(
            "pi", "    - label: rescue-copy\n      role: rescue\n      size: 64MiB\n", "", -14,
            "layout.partitions: expected 2 partitions with role rescue (firmware raspberry-pi,"
            " boot control tryboot, with rescue), got 1",
            "add a partition with role rescue",
            id="one-rescue-where-the-firmware-walks",
        ),
        pytest.param(
            "board", "label: root-b", "label: root-a", 0,
            'layout.partitions[4].label: expected a label that no other partition has, '
            'got "root-a" a second time',
            "partitions are found by label; rename one of them",
            id="two-partitions-of-one-label",
        ),
        pytest.param(
            "board", "slot: b\n      size: 512MiB", "slot: b\n      size: 511MiB", 1,
            'layout.partitions[4].size: expected "512MiB", the size of root-a, got "511MiB"',
            "an image must fit in either slot; make both slots as large",
            id="slots-of-different-size",
        ),
        pytest.param(
            "board", "partitions:\n    - label: esp\n      role: esp", "partitions:\n"
            "    - label: esp\n      role: boot", 0,
            "layout.partitions: expected 1 partition with role esp (firmware uefi, boot control "
            "systemd-boot, with rescue), got none",
            "add a partition with role esp",
            id="uefi-without-esp",
        ),
        pytest.param(
            "board", "slot: b\n", "slot: a\n", -16,
            "layout.partitions: expected exactly two slots, a and b, got a and a",
            "describe one partition with slot: a and one with slot: b, both with role: slot",
            id="slot-a-twice",
        ),
        pytest.param(
            "board", "size: 192MiB", "size: 192MiB\n      grow: true", 1,
            'layout.partitions[0].grow: expected true only on the last partition, got true on '
            '"esp", which others follow',
            "move this partition to the end of the list, or remove grow",
            id="partition-grows-into-the-next",
        ),
        pytest.param(
            "board", "role: state", "role: state\n      slot: a", 1,
            'layout.partitions[5].slot: expected no slot with role state, got "a"',
            "remove the key slot",
            id="state-is-no-slot",
        ),
        pytest.param(
            "system", 'version: "1.0"', "version: 1.0", 0,
            'version: expected a version such as "1.4" or "1.4.2-rc1", got the number 1.0',
            'put it in quotes: "1.0"',
            id="version-without-quotes-is-a-number",
        ),
        pytest.param(
            "system", "kind: unit", "kind: units", 0,
            'health[0].kind: expected exec, http, tcp or unit, got "units"',
            'did you mean "unit"? allowed values: exec, http, tcp, unit',
            id="unknown-kind-of-check",
        ),
        pytest.param(
            "system", "kind: unit\n", "kind: unit\n    port: 80\n", 1,
            "health[0].port: expected a known key, got an unknown one",
            "known keys: kind, name, deadline_seconds, unit",
            id="check-with-the-key-of-another-kind",
        ),
        pytest.param(
            "system", "    unit: systemd-networkd.service\n", "", -2,
            'health[0].unit: expected a systemd unit such as "systemd-networkd.service", '
            "got nothing",
            'add the key "unit"',
            id="check-without-its-own-key",
        ),
        pytest.param(
            "system", "deadline_seconds: 120", "deadline_seconds: 300", 0,
            "health[0].deadline_seconds: expected at most 240, the trial's deadline, got 300",
            "lower it, or raise trial.deadline_seconds",
            id="check-later-than-the-trial",
        ),
        pytest.param(
            "system", "  debian:\n", "  tar: rootfs.tar\n  debian:\n", -1,
            "base: expected exactly one of debian, tar or directory, got debian and tar",
            "keep one of them",
            id="two-bases",
        ),
        pytest.param(
            "system", '"02:00"', "2:00", 0,
            'update.window.start: expected a time such as "02:30", got "2:00"',
            "",
            id="time-without-leading-zero",
        ),
        pytest.param(
            "system", "source: http", "source: ftp", 0,
            "update.source: expected an address that starts with https://, http:// or file://, "
            'got "ftp://updates.example/gateway"',
            "",
            id="update-source-we-cannot-fetch-from",
        ),
        pytest.param(
            "system", "tries: 2", "tries: 0", 0,
            "trial.tries: expected a number from 1 to 9, got the number 0",
            "choose a number within these limits",
            id="trial-without-tries",
        ),
        pytest.param(
            "package", "type: system", "type: feature", 0,
            'type: expected system, got "feature"',
            "allowed values: system",
            id="package-type-we-do-not-know",
        ),
        pytest.param(
            "package", "package: one", "package: One/Two", 0,
            "package: expected a name of lower case letters, digits, - and _ (at most 63), "
            'got "One/Two"',
            "",
            id="name-that-is-no-file-name",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_line_key_expectation_and_fix(
    *, kind: str, old: str, new: str, below: int, brief: str, fix: str
) -> None:
    text, line = changed(kind, old, new)
    error = error_of(text, kind)
    assert error.brief == f"cannot use F:{line + below}: {brief}"
    assert error.resolution == fix
    assert error.exit_code == 3


@pytest.mark.parametrize(
    ("text", "brief"),
    [
        ("a: 1\nb: &x 2\n", "F:2: expected plain values, got an anchor or alias"),
        ("a: 1\na: 2\n", "F:2: a: expected each key once, got it a second time (first on line 1)"),
        ("a:\n  b: 1\n  b: 2", "F:3: a.b: expected each key once, got it a second time "
         "(first on line 2)"),
        ("\n? [a]\n: b\n", "F:2: expected text as a key, got a list or mapping"),
        ("[" * 10_000, "F:1: expected at most 32 levels of nesting, got more"),
        ("a: !!python/name:os.system x", "F:1: a: expected a plain value, got tag "
         "tag:yaml.org,2002:python/name:os.system"),
        ("a: b: c", "F:1: expected well-formed YAML, got an error (mapping values are not "
         "allowed here)"),
        ("", "F:1: expected a mapping with the keys package, version, summary, publisher, "
         "debian_packages, enable, kernel_modules, initramfs_hooks, health, got nothing"),
        ("a: 1\n" + "b" * MAX_BYTES, "F: it is larger than 256 KiB"),
    ],
)  # fmt: skip
def test_what_is_not_plain_yaml_is_refused(text: str, brief: str) -> None:
    assert error_of(text, "package").brief == f"cannot use {brief}"


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(ManifestError, match=r"cannot use F:2: expected UTF-8 text, got other"):
        parse_document(b"package: x\nsummary: \xff\n", "F", SystemPackage)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cannot read .*/none.yaml: No such file"):
        load_document(tmp_path / "none.yaml", SystemPackage)


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file() -> None:
    text = 'package: One\nversion: 1\ntype: system\nsummary: ""\nextra: 1\n'
    error = error_of(text, "package")
    assert error.brief.startswith("cannot use F:1: package:")
    assert [line.split(": ")[:2] for line in error.details.splitlines()] == [
        ["F:2", "version"],
        ["F:4", "summary"],
        ["F:5", "extra"],
    ]


@pytest.mark.parametrize("value", ["on", "no", "0x10", "1_000", "12:30:45", "2024-01-01", ".inf"])
def test_only_what_looks_like_a_number_or_boolean_is_one(value: str) -> None:
    package = parse_document(
        f"package: one\nversion: '1'\ntype: system\nsummary: {value} text\nenable: []\n".encode(),
        "F",
        SystemPackage,
    )
    assert package.summary == f"{value} text"
    text = f"package: one\nversion: '1'\ntype: system\nsummary: {value}\n"
    if len(value) >= 2:
        assert parse_document(text.encode(), "F", SystemPackage).summary == value


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_a_document_or_a_manifest_error(text: str) -> None:
    try:
        parse_document(text.encode("utf-8", "surrogatepass"), "F", SystemPackage)
    except ManifestError as error:
        assert error.brief.startswith("cannot use F:")


@settings(deadline=None)
@given(st.data())
def test_any_line_lost_or_changed_is_a_document_or_a_manifest_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(MODELS)))
    source, model, check = MODELS[kind]
    lines = source.splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    replacement = data.draw(st.sampled_from(["", "x", "  x: 1", "- 1", "  - a: {", "summary: []"]))
    lines[number : number + 1] = [replacement]
    try:
        parse_document("\n".join(lines).encode(), "F", model, check)
    except ManifestError as error:
        assert error.brief.startswith("cannot use F:")
