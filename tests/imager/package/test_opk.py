"""The package file: what is accepted as one, and what its signature is worth."""

from __future__ import annotations

import hashlib
import shutil
import struct
from pathlib import Path

import pytest

from imager.package.opk import OpkFile, read_opk
from imager.package.pkcs7 import parse_signature
from imager.package.signing import load_package_signer
from imager.publishers import add_development_publisher, add_publisher
from imager.tools import Tools
from recovery.errors import ManifestError, TrustError
from recovery.packages.digest import file_digest, signed_message, stream_digest
from tests.imager.package.bench import Bench


@pytest.fixture
def opk(bench: Bench) -> OpkFile:
    """A package file."""
    return bench.build(bench.package(files={"usr/share/demo/text": "hello\n"})).opk


def _changed(opk: OpkFile, tmp_path: Path, offset: int, data: bytes) -> Path:
    path = tmp_path / "changed.opk"
    shutil.copyfile(opk.path, path)
    with path.open("r+b") as out:
        out.seek(offset)
        out.write(data)
    return path


def test_a_package_reads_back_as_it_was_built(opk: OpkFile) -> None:
    assert opk.signer == "publisher"
    assert (opk.manifest.name, opk.manifest.version, opk.manifest.kind) == (
        "demo",
        "1.0",
        "library",
    )
    assert opk.tree.read("usr/share/demo/text") == b"hello\n"
    assert opk.digest == file_digest(opk.path, opk.image_size)
    assert opk.path.stat().st_size == opk.image_size + len(opk.signature) + 32


def test_the_trailer_is_as_documented(opk: OpkFile) -> None:
    data = opk.path.read_bytes()
    magic, image, signature, zeros = struct.unpack("<8sQQ8s", data[-32:])
    assert (magic, zeros) == (b"ORBITAL1", bytes(8))
    assert image % 4096 == 0
    assert data[image : image + signature] == opk.signature


def test_the_image_is_sound_for_erofs_utils(opk: OpkFile, tools: Tools, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(opk.path.read_bytes()[: opk.image_size])
    tools.run("fsck.erofs", f"--extract={tmp_path / 'out'}", image)
    assert (tmp_path / "out/usr/share/demo/text").read_text() == "hello\n"
    assert (tmp_path / "out/manifest.json").is_file()


def test_openssl_accepts_the_signature(
    opk: OpkFile, tools: Tools, publisher_keys: Path, tmp_path: Path
) -> None:
    (tmp_path / "signature").write_bytes(opk.signature)
    (tmp_path / "message").write_bytes(signed_message(opk.digest))
    certificate = publisher_keys / "packages/publisher.pem"
    tools.run(
        "openssl", "smime", "-verify", "-binary", "-inform", "DER", "-in", tmp_path / "signature",
        "-content", tmp_path / "message", "-certfile", certificate, "-noverify",
    )  # fmt: skip


@pytest.mark.parametrize("offset", [0, 1024, 4096])
def test_a_changed_byte_of_the_image_is_refused(
    opk: OpkFile, publisher_keys: Path, tmp_path: Path, offset: int
) -> None:
    at = min(offset, opk.image_size - 1)
    byte = opk.path.read_bytes()[at]
    path = _changed(opk, tmp_path, at, bytes([byte ^ 1]))
    with pytest.raises(TrustError, match="cannot accept the signature"):
        read_opk(path, publisher_keys)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda data: data[:-1], "not a package's trailer", id="cut"),
        pytest.param(lambda data: data[-20:], "only 20 bytes", id="tiny"),
        pytest.param(lambda data: b"x" + data, "its trailer names", id="data-before"),
        pytest.param(lambda data: data + b"x", "not a package's trailer", id="data-behind"),
        pytest.param(lambda data: data[:-1] + b"\1", "does not know", id="reserved"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(
    opk: OpkFile, tmp_path: Path, change: object, reason: str
) -> None:
    assert callable(change)
    path = tmp_path / "changed.opk"
    path.write_bytes(change(opk.path.read_bytes()))
    with pytest.raises(ManifestError, match="not a whole package file") as caught:
        read_opk(path)
    assert reason in caught.value.details


def test_the_signature_of_another_package_is_refused(
    bench: Bench, opk: OpkFile, publisher_keys: Path, tmp_path: Path
) -> None:
    other = bench.build(bench.package("other", files={"usr/share/other/text": "x"})).opk
    path = _changed(opk, tmp_path, opk.image_size, other.signature)
    with pytest.raises(TrustError, match="does not verify"):
        read_opk(path, publisher_keys)


def test_a_stranger_is_not_believed(opk: OpkFile, rogue_keys: Path) -> None:
    with pytest.raises(TrustError, match="by nobody known here"):
        read_opk(opk.path, rogue_keys)


def test_a_publisher_signs_its_own_names_only(opk: OpkFile, tmp_path: Path, keys: Path) -> None:
    shutil.copytree(keys, tmp_path / "keys")
    (tmp_path / "keys/packages/publishers.json").unlink(missing_ok=True)
    add_publisher(tmp_path / "keys", "publisher", ["other-*"])
    with pytest.raises(TrustError, match="cannot let publisher sign the package demo"):
        read_opk(opk.path, tmp_path / "keys")
    with pytest.raises(TrustError, match="it is not allowed to") as caught:
        load_package_signer(tmp_path / "keys", "publisher", "demo")
    assert "it may sign: other-*" in caught.value.details


def test_without_a_list_of_publishers_nobody_signs(tmp_path: Path) -> None:
    with pytest.raises(TrustError) as caught:
        load_package_signer(tmp_path, "publisher", "demo")
    assert "there is no" in caught.value.details


def test_a_package_does_not_name_another_publisher_than_its_signer(
    opk: OpkFile, publisher_keys: Path, tmp_path: Path
) -> None:
    shutil.copytree(publisher_keys, tmp_path / "keys")
    for suffix in ("pem", "key"):
        path = tmp_path / f"keys/packages/publisher.{suffix}"
        path.rename(path.with_stem("acme"))
    add_publisher(tmp_path / "keys", "acme", ["demo"])
    with pytest.raises(TrustError, match="acme signed it, and it says that publisher made it"):
        read_opk(opk.path, tmp_path / "keys")


def test_an_external_command_signs_the_same_bytes(
    tools: Tools, publisher_keys: Path, tmp_path: Path
) -> None:
    shutil.copytree(publisher_keys, tmp_path / "keys")
    key = (tmp_path / "keys/packages/publisher.key").rename(tmp_path / "hsm.key")
    command = tmp_path / "keys/packages/publisher.command"
    command.write_text(
        f"{tools.path('openssl')} smime -sign -binary -noattr -nocerts -md sha256 "
        f"-signer {{certificate}} -inkey {key} -in {{unsigned}} -outform DER -out {{signed}}"
    )
    digest = hashlib.sha256(b"anything").hexdigest()
    outside = load_package_signer(tmp_path / "keys", "publisher", "demo").sign(digest)
    inside = load_package_signer(publisher_keys, "publisher", "demo").sign(digest)
    assert parse_signature(outside).value == parse_signature(inside).value


def test_an_external_command_that_signs_something_else_is_refused(
    tools: Tools, publisher_keys: Path, tmp_path: Path
) -> None:
    shutil.copytree(publisher_keys, tmp_path / "keys")
    (tmp_path / "other").write_text("something else")
    command = tmp_path / "keys/packages/publisher.command"
    command.write_text(
        f"{tools.path('openssl')} smime -sign -binary -noattr -nocerts -md sha256 -signer "
        f"{{certificate}} -inkey {tmp_path}/keys/packages/publisher.key -in {tmp_path}/other "
        "-outform DER -out {signed}"
    )
    signer = load_package_signer(tmp_path / "keys", "publisher", "demo")
    with pytest.raises(TrustError, match="does not verify"):
        signer.sign("00" * 32)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["-nocerts", "-md", "sha256"], id="attributes"),
        pytest.param(["-noattr", "-md", "sha256"], id="certificates"),
        pytest.param(["-noattr", "-nocerts", "-nodetach", "-md", "sha256"], id="content"),
        pytest.param(["-noattr", "-nocerts", "-md", "sha512"], id="sha512"),
    ],
)
def test_other_forms_of_pkcs7_are_refused(
    tools: Tools, publisher_keys: Path, tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "message").write_bytes(signed_message("00" * 32))
    certificate = publisher_keys / "packages/publisher.pem"
    tools.run(
        "openssl", "smime", "-sign", "-binary", *options, "-signer", certificate,
        "-inkey", certificate.with_suffix(".key"), "-in", tmp_path / "message",
        "-outform", "DER", "-out", tmp_path / "signature",
    )  # fmt: skip
    with pytest.raises(TrustError, match="cannot read the publisher's signature"):
        parse_signature((tmp_path / "signature").read_bytes())


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_a_damaged_signature_is_never_something_else(opk: OpkFile, at: int) -> None:
    data = bytearray(opk.signature)
    data[at] ^= 0x55
    with pytest.raises(TrustError):
        parse_signature(bytes(data[:-1]))
    with pytest.raises(TrustError):
        parse_signature(opk.signature[:at])


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (0, "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
        (4096, "258b680fa93e3bfc1586d9b439d29a2172bd0db550fe7da1272fd8120d801182"),
        (600_001, "6b047af5dc844c3c923e3fac33e69c1d45b0b87d9ac0855de255d3246c3c7437"),
    ],
)
def test_digests_are_those_of_fsverity_utils(size: int, digest: str) -> None:
    # Printed by "fsverity digest" of fsverity-utils 1.5 for these bytes.
    assert stream_digest([bytes(number * 7 % 251 for number in range(size))]) == digest


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 128 * 4096, 128 * 4096 + 1, 1 << 20])
def test_a_digest_does_not_depend_on_the_chunks(size: int) -> None:
    data = bytes(number * 7 % 251 for number in range(size))
    pieces = [data[start : start + 1000] for start in range(0, size, 1000)]
    assert stream_digest(pieces) == stream_digest([data]) == stream_digest([data[:3], data[3:]])
    assert stream_digest([data]) != stream_digest([data + b"\0"])


def test_development_keys_may_sign_everything(tmp_path: Path, keys: Path) -> None:
    shutil.copytree(keys, tmp_path / "keys")
    (tmp_path / "keys/packages/publishers.json").unlink(missing_ok=True)
    add_development_publisher(tmp_path / "keys")
    assert load_package_signer(tmp_path / "keys", "publisher", "any-name")
