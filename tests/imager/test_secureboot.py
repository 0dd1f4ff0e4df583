"""Enrollment: a variable store and files that hold exactly our keys."""

from __future__ import annotations

import io
import json
import struct
from argparse import ArgumentParser
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import orbital.keys
from imager.keys import SECURE_BOOT, load_certificate, owner_guid
from imager.secureboot import export_enrollment, write_variable_store
from imager.tools import Tools
from orbital.output import Output
from recovery.errors import ManifestError


def _der(keys: Path, name: str) -> bytes:
    certificate = load_certificate(keys / "secure-boot" / f"{name}.pem")
    return certificate.public_bytes(serialization.Encoding.DER)


def test_the_variable_store_has_our_keys_alone_and_secure_boot_on(
    tools: Tools, keys: Path, tmp_path: Path
) -> None:
    template = tools.file("usr/share/OVMF/OVMF_VARS_4M.fd")
    store = tmp_path / "vars.fd"
    write_variable_store(tools, template, keys, store)
    assert store.stat().st_size == template.stat().st_size
    tools.run("virt-fw-vars", "--input", store, "--output-json", tmp_path / "vars.json")
    variables = {
        item["name"]: bytes.fromhex(item["data"])
        for item in json.loads((tmp_path / "vars.json").read_text())["variables"]
    }
    assert variables["SecureBootEnable"] == b"\x01"
    owner = owner_guid(keys).bytes_le
    for name in SECURE_BOOT:
        # One list, of one certificate: nobody else's is trusted.
        der = _der(keys, name)
        assert variables[name][28:] == owner + der
        assert struct.unpack_from("<I", variables[name], 16) == (28 + 16 + len(der),)


def test_exported_files_carry_the_certificates(keys: Path, tmp_path: Path) -> None:
    export_enrollment(keys, tmp_path, time=1_760_000_000)
    for name in SECURE_BOOT:
        der = (tmp_path / f"{name}.der").read_bytes()
        signature_list = (tmp_path / f"{name}.esl").read_bytes()
        authenticated = (tmp_path / f"{name}.auth").read_bytes()
        assert x509.load_der_x509_certificate(der) == load_certificate(
            keys / "secure-boot" / f"{name}.pem"
        )
        assert signature_list.endswith(owner_guid(keys).bytes_le + der)
        assert authenticated.endswith(signature_list)
        year, month, day = struct.unpack_from("<HBB", authenticated)
        assert (year, month, day) == (2025, 10, 9)


@pytest.mark.parametrize(("name", "authority"), [("PK", "PK"), ("KEK", "PK"), ("db", "KEK")])
def test_an_authenticated_variable_is_signed_by_its_authority(
    tools: Tools, keys: Path, tmp_path: Path, name: str, authority: str
) -> None:
    export_enrollment(keys, tmp_path, time=1_760_000_000)
    blob = (tmp_path / f"{name}.auth").read_bytes()
    stamp = blob[:16]
    (length,) = struct.unpack_from("<I", blob, 16)
    signature, data = blob[16 + 24 : 16 + length], blob[16 + length :]
    # What UEFI 8.2.2 says the firmware hashes: name, vendor GUID, attributes, time, data.
    vendor = (
        "cbb219d73a3d9645a3bcdad00e67656f" if name == "db" else "61dfe48bca93d211aa0d00e098032b8c"
    )
    signed = name.encode("utf-16-le") + bytes.fromhex(vendor) + b"\x27\0\0\0" + stamp + data
    (tmp_path / "signature").write_bytes(signature)
    (tmp_path / "signed").write_bytes(signed)

    def verifies(signer: str) -> bool:
        done = tools.run(
            "openssl", "cms", "-verify", "-binary", "-inform", "DER", "-noverify", "-nointern",
            "-in", tmp_path / "signature", "-content", tmp_path / "signed",
            "-certfile", keys / "secure-boot" / f"{signer}.pem", "-out", tmp_path / "out",
            check=False,
        )  # fmt: skip
        return done.returncode == 0

    assert {signer for signer in SECURE_BOOT if verifies(signer)} == {authority}


def test_without_the_private_key_of_the_authority_nothing_is_claimed(
    keys: Path, tmp_path: Path
) -> None:
    public = tmp_path / "public" / "secure-boot"
    public.mkdir(parents=True)
    for name in SECURE_BOOT:
        (public / f"{name}.pem").write_bytes((keys / f"secure-boot/{name}.pem").read_bytes())
    with pytest.raises(ManifestError, match=r"cannot sign PK\.auth"):
        export_enrollment(public.parent, tmp_path / "out", time=0)


def test_the_command_lists_the_files_that_it_wrote(keys: Path, tmp_path: Path) -> None:
    parser = ArgumentParser()
    orbital.keys.configure(parser)
    args = parser.parse_args(["enrollment", str(keys), str(tmp_path / "out")])
    stdout = io.StringIO()
    assert args.handler(args, Output(json=True, stdout=stdout, stderr=io.StringIO())) == 0
    names = {Path(path).name for path in json.loads(stdout.getvalue())["files"]}
    assert names == {f"{name}.{kind}" for name in SECURE_BOOT for kind in ("auth", "der", "esl")}
