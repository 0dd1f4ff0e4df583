"""Key directories: made whole, private where they must be, shown without secrets."""

from __future__ import annotations

import io
import json
import resource
from argparse import ArgumentParser
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import orbital.keys
from imager.keys import (
    ROOT_KEYS,
    inspect_keys,
    load_certificate,
    make_development_keys,
    owner_guid,
)
from orbital.output import Output
from recovery.errors import ManifestError, RefusedError, SpaceError


def test_every_private_key_can_be_read_by_its_owner_only(keys: Path) -> None:
    private = sorted(keys.rglob("*.key"))
    assert len(private) == 3 + 3 + 3 + 1 + 2
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in keys.iterdir()} == {0o700}


def test_each_certificate_belongs_to_its_private_key(keys: Path) -> None:
    for certificate in [*keys.glob("secure-boot/*.pem"), *keys.glob("packages/*.pem")]:
        private = load_pem_private_key(certificate.with_suffix(".key").read_bytes(), None)
        assert private.public_key() == load_certificate(certificate).public_key()


def test_inspection_names_roles_and_distinct_keys(keys: Path) -> None:
    found = inspect_keys(keys)
    assert {key.name for key in found if key.role == "root"} == set(ROOT_KEYS)
    assert {key.role for key in found} == {
        "PK", "KEK", "db", "root", "targets", "snapshot", "timestamp", "os", "publisher",
        "publisher-publisher",
    }  # fmt: skip
    assert len({key.fingerprint for key in found}) == len(found)
    assert all(key.location == "file" for key in found)
    assert all((key.expires is None) == (key.purpose == "tuf") for key in found)


def test_a_directory_that_holds_keys_is_never_written_to(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    make_development_keys(directory, delegations=())
    before = {path: path.read_bytes() for path in directory.rglob("*.*")}
    with pytest.raises(RefusedError, match=r"cannot make keys in .*: it is not empty"):
        make_development_keys(directory)
    assert {path: path.read_bytes() for path in directory.rglob("*.*")} == before


def test_keys_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    # The first private key is larger than any file may now be, as on a full disk.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(SpaceError, match=r"cannot write keys to .*: File too large"):
            make_development_keys(tmp_path / "keys")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("role", ["", "../os", "targets", "root", "Os"])
def test_a_role_that_cannot_be_delegated_to_is_refused(tmp_path: Path, role: str) -> None:
    with pytest.raises(ManifestError, match="cannot make a key for the role"):
        make_development_keys(tmp_path / "keys", delegations=(role,))
    assert list(tmp_path.iterdir()) == []


def test_a_private_key_that_is_elsewhere_is_shown_as_such(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    make_development_keys(directory)
    (directory / "tuf/root-1.key").unlink()
    (directory / "tuf/root-2.key").rename(directory / "tuf/root-2.uri")
    locations = {key.name: key.location for key in inspect_keys(directory)}
    assert locations["root-1"] == "absent"
    assert locations["root-2"] == "external"
    assert locations["root-3"] == "file"


def test_a_directory_without_keys_is_an_error_that_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot find keys") as error:
        inspect_keys(tmp_path)
    assert "orbital keys make" in error.value.resolution


def test_the_owner_guid_follows_the_platform_key(keys: Path, rogue_keys: Path) -> None:
    assert owner_guid(keys) == owner_guid(keys)
    assert owner_guid(keys) != owner_guid(rogue_keys)


def test_commands_print_public_facts_and_no_secret(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    parser = ArgumentParser()
    orbital.keys.configure(parser)
    printed = ""
    for words in (["make", str(directory), "--delegation", "os"], ["show", str(directory)]):
        stdout = io.StringIO()
        args = parser.parse_args(words)
        assert args.handler(args, Output(json=True, stdout=stdout, stderr=io.StringIO())) == 0
        printed = stdout.getvalue()
        document = json.loads(printed)
        assert len(document["keys"]) == 12
    text = io.StringIO()
    args = parser.parse_args(["show", str(directory)])
    args.handler(args, Output(stdout=text, stderr=io.StringIO()))
    for key in inspect_keys(directory):
        assert key.key_id in text.getvalue()
        assert key.fingerprint in printed
    for private in directory.rglob("*.key"):
        for line in private.read_text().splitlines():
            assert line not in printed
            assert line not in text.getvalue()
