"""The boot artifact: its command line as a value, its sections as written."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from imager.command_line import command_line
from imager.firmware.uki import build_uki
from imager.signing import load_pe_signer, verify_pe
from imager.tools import Tools
from manifests.board import Board, Watchdog
from manifests.catalogue import load_board
from recovery.artifacts.check import check
from recovery.artifacts.content import Artifact, Checked, DamageError
from recovery.errors import ManifestError
from tests.recovery.artifacts import make_uki

ROOT_HASH = "4953ba365f5972bed9ff82f93b6223c5253a3d98fd59726cb0ccc7f917b9e385"


@pytest.fixture
def board() -> Board:
    return load_board(Path(__file__).parents[2] / "boards/qemu-x86_64.yaml")


def _line(board: Board, *extra: str) -> list[str]:
    return command_line(board, root_hash=ROOT_HASH, hash_offset=8192, extra=extra).split(" ")


def test_the_command_line_names_image_slots_state_and_watchdog(board: Board) -> None:
    words = _line(board, "quiet")
    assert words[:7] == [
        f"orbital.roothash={ROOT_HASH}",
        "orbital.hashoffset=8192",
        "orbital.slots=root-a,root-b",
        "orbital.state=state",
        "orbital.starts=environment",
        "orbital.oneshot=efi",
        "orbital.watchdog=i6300esb:heartbeat=60",
    ]
    assert {"gpt", "systemd.gpt_auto=0", "panic=-1", "console=ttyS0", "ro"} <= set(words)
    assert words[-1] == "quiet"


def test_the_driver_is_named_as_the_kernel_names_modules(board: Board) -> None:
    other = msgspec.structs.replace(board, watchdog=Watchdog("imx2-wdt", "timeout", 60))
    assert "orbital.watchdog=imx2_wdt:timeout=60" in _line(other)


def test_a_board_without_watchdog_has_no_watchdog_argument(board: Board) -> None:
    words = _line(msgspec.structs.replace(board, watchdog=None))
    assert not any(word.startswith("orbital.watchdog") for word in words)


@pytest.mark.parametrize("argument", ["", "two words", "tab\there", "line\nbreak", "nul\0"])
def test_an_argument_cannot_smuggle_in_another(board: Board, argument: str) -> None:
    with pytest.raises(ManifestError, match="cannot use the kernel argument"):
        _line(board, argument)


def test_a_command_line_longer_than_the_kernel_takes_is_refused(board: Board) -> None:
    with pytest.raises(ManifestError, match="cannot use a kernel command line of"):
        _line(board, "x=" + "y" * 2048)
    arm = msgspec.structs.replace(board, architecture="armhf")
    assert _line(board, "x=" + "y" * 1000)
    with pytest.raises(ManifestError, match="cannot use a kernel command line of") as error:
        _line(arm, "x=" + "y" * 1000)
    assert error.value.details.startswith("armhf kernels take 1023:")


def _build(tools: Tools, keys: Path, directory: Path) -> Path:
    directory.mkdir()
    # A UKI does not look into kernel and initramfs; any PE file stands for a kernel.
    initramfs = directory / "initramfs"
    initramfs.write_bytes(b"initramfs content")
    output = directory / "boot.img"
    build_uki(
        architecture="x86_64",
        linux=tools.file("usr/lib/systemd/boot/efi/systemd-bootx64.efi"),
        initramfs=initramfs,
        command_line="orbital.roothash=1 panic=-1",
        os_release=b"ID=orbital\nIMAGE_ID=gateway\nIMAGE_VERSION=1.0\n",
        uname="6.12-test",
        signer=load_pe_signer(keys, tools, time=1_760_000_000),
        output=output,
        tools=tools,
    )
    return output


def test_the_artifact_holds_what_it_was_given_and_is_signed(
    tools: Tools, keys: Path, tmp_path: Path
) -> None:
    artifact = _build(tools, keys, tmp_path / "build")
    verify_pe(tools, artifact, keys / "secure-boot/db.pem")
    inspected = tools.run("ukify", "inspect", artifact).stdout
    for expected in (
        "orbital.roothash=1 panic=-1", "IMAGE_ID=gateway", "IMAGE_VERSION=1.0", "6.12-test",
        ".linux", ".initrd", ".sbat",
    ):  # fmt: skip
        assert expected in inspected


def test_rescue_finds_damage_in_an_artifact(tools: Tools, keys: Path, tmp_path: Path) -> None:
    data = _build(tools, keys, tmp_path / "build").read_bytes()
    assert check("uki", Artifact.of(data), must_be_signed=True) == Checked(len(data))
    for at in (0, 60, 600, data.index(b"orbital.roothash"), data.index(b"initramfs content"), -400):
        place = at % len(data)
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(DamageError):
            check("uki", Artifact.of(changed))
    with pytest.raises(DamageError):
        check("uki", Artifact.of(data[:-4096]))


def test_an_external_program_s_signature_is_read_as_well(
    tools: Tools, keys: Path, tmp_path: Path
) -> None:
    """With certificates that it adds, and another hash algorithm."""
    unsigned = tmp_path / "unsigned.efi"
    unsigned.write_bytes(make_uki("x", b"kernel"))
    certificate, key = keys / "secure-boot/db.pem", keys / "secure-boot/db.key"
    for algorithm in ("sha1", "sha256", "sha384", "sha512"):
        signed = tmp_path / f"{algorithm}.efi"
        tools.run(
            "osslsigncode", "sign", "-nolegacy", "-h", algorithm, "-certs", certificate,
            "-key", key, "-in", unsigned, "-out", signed,
        )  # fmt: skip
        data = signed.read_bytes()
        assert check("uki", Artifact.of(data)) == Checked(len(data))


def test_the_artifact_is_the_same_bytes_wherever_it_is_built(
    tools: Tools, keys: Path, tmp_path: Path
) -> None:
    one = _build(tools, keys, tmp_path / "one")
    two = _build(tools, keys, tmp_path / "another place")
    assert one.read_bytes() == two.read_bytes()


def test_an_architecture_without_uefi_stub_is_refused(
    tools: Tools, keys: Path, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match="cannot build a UKI for riscv64"):
        build_uki(
            architecture="riscv64",
            linux=tmp_path,
            initramfs=tmp_path,
            command_line="",
            os_release=b"",
            uname="",
            signer=load_pe_signer(keys, tools, time=0),
            output=tmp_path / "out",
            tools=tools,
        )
