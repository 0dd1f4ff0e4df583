"""What fuzzing and hostile state found, each as the smallest input that showed it."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from imager.elf import dependencies
from imager.package.elf import read_elf
from imager.package.wheel import collect_wheel
from recovery import boot, device, generations, state
from recovery.bootcontrol.systemd_boot import SystemdBoot
from recovery.errors import ManifestError, OrbitalError, StateError, ToolError
from recovery.packages import keyring
from recovery.state import StateRecord
from tests.delta import programs
from tests.recovery.builders import CONFIG, generation
from updater import budget, journal, policy, seen
from updater.index import decode_index, decode_releases

NOT_UTF8 = b'{"format": 1, "x": "\xff"}'
DEEP = b'{"x":' + b"[" * 5000


def test_half_a_surrogate_pair_is_no_text_of_a_record() -> None:
    record = state.encode(StateRecord(next_generation=2, committed=1)).decode()
    text = json.dumps({**json.loads(record), "change": {"generation": 1, "boot_id": "\ud800"}})
    with pytest.raises(ValueError, match="surrogates"):
        state.decode(text.encode())
    made = json.loads(generations.encode(generation(1, "a")))
    with pytest.raises(ValueError, match="surrogates"):
        generations.decode(json.dumps({**made, "version": "\ud800"}).encode())


def test_a_device_document_that_is_nested_deeply_is_an_error() -> None:
    with pytest.raises(ManifestError):
        device.decode(DEEP)


def test_an_activation_number_of_thousands_of_digits_counts_as_none(tmp_path: Path) -> None:
    entries = tmp_path / "loader/entries"
    entries.mkdir(parents=True)
    for slot, number in (("a", "9" * 5000), ("b", "1")):
        text = f"version {number}\nefi /EFI/orbital/{slot}.efi\n"
        (entries / f"orbital-{slot}.conf").write_text(text)
    assert SystemdBoot(tmp_path, "a").active_slot() == "b"


@pytest.mark.parametrize("data", [NOT_UTF8, DEEP], ids=["not-utf8", "deep"])
def test_files_of_the_updater_with_any_bytes_are_read_or_refused(
    tmp_path: Path, data: bytes
) -> None:
    for name in ("install.json", "usage.json", "seen.json", str(policy.OVERRIDE)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert journal.load(tmp_path) is None
    assert budget.load(tmp_path / "usage.json") == budget.Usage()
    with pytest.raises(StateError, match="damaged"):
        seen.load(tmp_path / "seen.json")
    with pytest.raises(ManifestError):
        policy.load_policy(CONFIG, tmp_path)
    for decode in (decode_index, decode_releases):
        with pytest.raises(ManifestError):
            decode(data)


def test_a_key_called_like_a_line_of_proc_keys_is_no_keyring(tmp_path: Path) -> None:
    line = "%08x I------     1 perm 1f030000     0     0 keyring   %s"
    named = f"x\x0c{line % (0xBAD, '.fs-verity: 1')}"
    (tmp_path / "proc").mkdir()
    keys = tmp_path / "proc/keys"
    keys.write_bytes(f"{line % (1, named)}\n{line % (2, '.fs-verity: 1')}\n".encode() + b"\xff\n")
    assert keyring.find(tmp_path) == 2


def test_elf_files_whose_numbers_are_beyond_any_file_are_damaged() -> None:
    data = bytearray(programs.link("x86_64", programs.functions(4, 1), 1))
    data[0x28:0x30] = (2**63).to_bytes(8, "little")
    with pytest.raises(ToolError):
        read_elf(bytes(data), "x")
    data[0x20:0x28] = (2**64 - 1).to_bytes(8, "little")
    with pytest.raises(ToolError):
        dependencies(bytes(data), "x")


@pytest.mark.parametrize("field", ["size", "place", "name"])
def test_a_wheel_whose_directory_lies_is_no_sound_zip(tmp_path: Path, field: str) -> None:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        archive.writestr("demo", b"content")
    data = bytearray(output.getvalue())
    entry = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    match field:
        case "size":
            data[entry + 20 : entry + 28] = b"\xf0\xff\xff\x3f" * 2
        case "place":
            # The directory is said to begin later than it does: members lie before the file.
            data[end + 16 : end + 20] = (end + 9000).to_bytes(4, "little")
        case _:
            data[entry + 28 : entry + 30] = b"\0\0"
            data[entry + 30 : entry + 32] = b"\x04\0"
    path = tmp_path / "demo-2.5-py3-none-any.whl"
    path.write_bytes(data)
    with pytest.raises(ToolError):
        collect_wheel(path, "amd64", "")


def test_a_boot_report_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / boot.REPORT_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(NOT_UTF8)
    with pytest.raises(OrbitalError):
        boot.load_report(tmp_path)
