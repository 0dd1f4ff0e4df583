"""Signing: the same bytes each time, and nothing that does not verify is let through."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from imager.keys import inspect_keys
from imager.signing import (
    CommandSigner,
    KeyFileSigner,
    load_pe_signer,
    load_tuf_signers,
    verify_pe,
)
from imager.tools import Tools
from recovery.errors import ManifestError, ToolError, TrustError

TIME = 1_760_000_000


@pytest.fixture(scope="session")
def program(tools: Tools) -> Path:
    """An unsigned EFI program."""
    return tools.file("usr/lib/systemd/boot/efi/systemd-bootx64.efi")


@pytest.fixture
def own_keys(keys: Path, tmp_path: Path) -> Path:
    """A key directory that the test may change."""
    return Path(shutil.copytree(keys, tmp_path / "own"))


def test_two_signatures_of_one_program_are_the_same_bytes(
    tools: Tools, keys: Path, program: Path, tmp_path: Path
) -> None:
    signer = load_pe_signer(keys, tools, time=TIME)
    one, two = tmp_path / "one.efi", tmp_path / "two.efi"
    signer.sign(program, one)
    signer.sign(program, two)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != program.read_bytes()
    verify_pe(tools, one, keys / "secure-boot/db.pem")


def test_a_changed_byte_breaks_the_signature(
    tools: Tools, keys: Path, program: Path, tmp_path: Path
) -> None:
    signed = tmp_path / "signed.efi"
    load_pe_signer(keys, tools, time=TIME).sign(program, signed)
    data = bytearray(signed.read_bytes())
    data[0x2000] ^= 1
    signed.write_bytes(data)
    with pytest.raises(TrustError, match="cannot accept the signature"):
        verify_pe(tools, signed, keys / "secure-boot/db.pem")


def test_unsigned_and_rogue_programs_do_not_verify(
    tools: Tools, keys: Path, rogue_keys: Path, program: Path, tmp_path: Path
) -> None:
    rogue = tmp_path / "rogue.efi"
    load_pe_signer(rogue_keys, tools, time=TIME).sign(program, rogue)
    for path in (program, rogue):
        with pytest.raises(TrustError, match="cannot accept the signature"):
            verify_pe(tools, path, keys / "secure-boot/db.pem")


def test_a_key_of_another_certificate_is_refused(
    tools: Tools, keys: Path, program: Path, tmp_path: Path
) -> None:
    signer = KeyFileSigner(tools, keys / "secure-boot/KEK.key", keys / "secure-boot/db.pem", TIME)
    with pytest.raises(TrustError, match="does not belong to"):
        signer.sign(program, tmp_path / "out.efi")
    assert not (tmp_path / "out.efi").exists()


def test_an_external_command_signs_in_place_of_the_key(
    tools: Tools, own_keys: Path, program: Path, tmp_path: Path
) -> None:
    reference = tmp_path / "reference.efi"
    load_pe_signer(own_keys, tools, time=TIME).sign(program, reference)
    # The "service" has the key; the directory no longer does.
    private = own_keys / "secure-boot/db.key"
    service = private.rename(tmp_path / "hsm key.pem")
    (own_keys / "secure-boot/db.command").write_text(
        f"{tools.path('osslsigncode')} sign -nolegacy -h sha256 -certs {{certificate}}"
        f" -key '{service}' -time {TIME} -in {{unsigned}} -out {{signed}}\n"
    )
    signer = load_pe_signer(own_keys, tools, time=TIME)
    assert isinstance(signer, CommandSigner)
    signed = tmp_path / "signed.efi"
    signer.sign(program, signed)
    assert signed.read_bytes() == reference.read_bytes()


def test_words_of_the_command_reach_no_shell(
    tools: Tools, keys: Path, program: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace; touch injected"
    script = "import sys; open(sys.argv[1], 'w').write(repr(sys.argv[2:]))"
    signer = CommandSigner(
        tools,
        (sys.executable, "-c", script, str(trace), "$(id)", "{signed};x"),
        keys / "secure-boot/db.pem",
    )
    with pytest.raises(TrustError, match="the signing command wrote no file"):
        signer.sign(program, tmp_path / "out.efi")
    assert "$(id)" in trace.read_text()
    assert not (tmp_path / "injected").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("cp", "{unsigned}", "{signed}"), TrustError),
        (("true",), TrustError),
        (("false",), ToolError),
        (("/nonexistent/signer", "{signed}"), ToolError),
    ],
    ids=["leaves it unsigned", "writes nothing", "fails", "is missing"],
)
def test_a_signing_command_that_does_not_sign_leaves_no_output(
    words: tuple[str, ...], error: type[Exception], keys: Path, program: Path, tools: Tools
) -> None:
    signer = CommandSigner(tools, words, keys / "secure-boot/db.pem")
    with tempfile.TemporaryDirectory() as directory:
        with pytest.raises(error):
            signer.sign(program, Path(directory) / "out.efi")
        assert list(Path(directory).iterdir()) == []


def test_the_identity_follows_what_the_signature_depends_on(
    tools: Tools, keys: Path, rogue_keys: Path
) -> None:
    one = load_pe_signer(keys, tools, time=TIME).identity
    assert one == load_pe_signer(keys, tools, time=TIME).identity
    assert one != load_pe_signer(keys, tools, time=TIME + 1).identity
    assert one != load_pe_signer(rogue_keys, tools, time=TIME).identity


def test_without_any_secure_boot_key_the_error_names_both_ways(
    tools: Tools, own_keys: Path
) -> None:
    (own_keys / "secure-boot/db.key").unlink()
    with pytest.raises(ManifestError, match="has no Secure Boot key") as error:
        load_pe_signer(own_keys, tools, time=TIME)
    assert "db.command" in error.value.resolution


def test_a_command_that_cannot_say_where_it_writes_is_refused(tools: Tools, own_keys: Path) -> None:
    (own_keys / "secure-boot/db.command").write_text("sign-service {unsigned}\n")
    with pytest.raises(ManifestError, match="no word contains"):
        load_pe_signer(own_keys, tools, time=TIME)


def test_tuf_signers_sign_what_their_public_keys_verify(keys: Path) -> None:
    for role, count in {"root": 3, "targets": 1, "snapshot": 1, "timestamp": 1, "os": 1}.items():
        signers = load_tuf_signers(keys, role)
        assert len(signers) == count
        for signer in signers:
            signature = signer.sign(b"metadata")
            signer.public_key.verify_signature(signature, b"metadata")
    known = {key.key_id for key in inspect_keys(keys) if key.role == "root"}
    assert {signer.public_key.keyid for signer in load_tuf_signers(keys, "root")} == known


def test_a_holder_of_one_root_key_can_sign_alone(own_keys: Path) -> None:
    (own_keys / "tuf/root-1.key").unlink()
    (own_keys / "tuf/root-3.key").unlink()
    (signer,) = load_tuf_signers(own_keys, "root")
    assert signer.public_key.keyid == next(
        key.key_id for key in inspect_keys(own_keys) if key.name == "root-2"
    )


def test_a_file_uri_names_a_key_elsewhere(own_keys: Path) -> None:
    (own_keys / "vault").mkdir()
    (own_keys / "tuf/os.key").rename(own_keys / "vault/os.pem")
    (own_keys / "tuf/os.uri").write_text("file:../vault/os.pem\n")
    (signer,) = load_tuf_signers(own_keys, "os")
    signer.public_key.verify_signature(signer.sign(b"x"), b"x")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nonsense:1", "cannot use the key os: Unsupported private key scheme nonsense"),
        ("file:missing.pem", "cannot use the key os: .*No such file"),
    ],
)
def test_a_bad_key_uri_is_one_clear_error(own_keys: Path, uri: str, message: str) -> None:
    (own_keys / "tuf/os.uri").write_text(uri)
    with pytest.raises(ManifestError, match=message):
        load_tuf_signers(own_keys, "os")


def test_a_private_key_of_another_role_is_refused(own_keys: Path) -> None:
    shutil.copy(own_keys / "tuf/targets.key", own_keys / "tuf/os.key")
    with pytest.raises(TrustError, match=r"does not belong to os\.pem"):
        load_tuf_signers(own_keys, "os")


def test_a_role_without_keys_is_an_error(keys: Path) -> None:
    with pytest.raises(ManifestError, match="cannot sign for the role nobody"):
        load_tuf_signers(keys, "nobody")
