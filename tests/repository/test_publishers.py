"""The list of publishers in a key directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tuf.api.metadata import DelegatedRole

from imager.keys import inspect_keys, load_certificate, make_development_keys
from imager.publishers import (
    LIST,
    add_development_publisher,
    add_publisher,
    load_publishers,
    may_sign,
    remove_publisher,
)
from imager.repository.keyring import KeyDirectory
from recovery.errors import ManifestError, RefusedError
from recovery.packages import trust


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Development keys."""
    make_development_keys(tmp_path / "keys")
    return tmp_path / "keys"


def test_development_keys_have_one_publisher_of_everything(keys: Path) -> None:
    assert load_publishers(keys) == {"publisher": ("*",)}
    assert KeyDirectory(keys).publishers() == {"publisher": ("*",)}
    assert KeyDirectory(keys).signers("publisher-publisher")


def test_a_publisher_gets_keys_of_its_own(keys: Path) -> None:
    add_publisher(keys, "acme", ["wireguard", "acme-*"])
    assert load_publishers(keys) == {"acme": ("acme-*", "wireguard"), "publisher": ("*",)}
    certificates = [load_certificate(path) for path in (keys / "packages").glob("*.pem")]
    assert len({(item.issuer, item.serial_number) for item in certificates}) == 2
    assert len({item.issuer for item in certificates}) == 2
    private = [keys / "packages/acme.key", keys / "tuf/publisher-acme.key"]
    assert [path.stat().st_mode & 0o777 for path in private] == [0o600, 0o600]
    assert {key.name for key in inspect_keys(keys)} >= {"acme", "publisher-acme"}


def test_changing_the_packages_keeps_the_keys(keys: Path) -> None:
    add_publisher(keys, "acme", ["acme-*"])
    before = {path: path.read_bytes() for path in keys.rglob("*.key")}
    add_publisher(keys, "acme", ["acme-vpn"])
    assert {path: path.read_bytes() for path in keys.rglob("*.key")} == before
    assert load_publishers(keys) == {"acme": ("acme-vpn",), "publisher": ("*",)}


def test_a_publisher_whose_keys_are_elsewhere(keys: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    add_publisher(theirs, "acme", ["acme-*"])
    for public in ("packages/acme.pem", "tuf/publisher-acme.pem"):
        (keys / public).write_bytes((theirs / public).read_bytes())
    add_publisher(keys, "acme", ["acme-*"])
    assert not list(keys.rglob("*acme.key"))
    assert KeyDirectory(keys).public_keys("publisher-acme")
    assert KeyDirectory(keys).signers("publisher-acme") == ()


def test_directories_of_before_there_were_publishers_are_completed(keys: Path) -> None:
    for path in (LIST, "tuf/publisher-publisher.key", "tuf/publisher-publisher.pem"):
        (keys / path).unlink()
    certificate = (keys / "packages/publisher.pem").read_bytes()
    add_development_publisher(keys)
    assert (keys / "packages/publisher.pem").read_bytes() == certificate
    assert KeyDirectory(keys).signers("publisher-publisher")
    remove_publisher(keys, "publisher")
    add_development_publisher(keys)
    assert load_publishers(keys) == {}, "a list that is there is left alone"


def test_removal(keys: Path) -> None:
    remove_publisher(keys, "publisher")
    assert load_publishers(keys) == {}
    assert (keys / "packages/publisher.key").exists()
    with pytest.raises(RefusedError, match="does not list it"):
        remove_publisher(keys, "publisher")


def test_two_publishers_of_one_pattern(keys: Path) -> None:
    with pytest.raises(RefusedError, match="publisher does so already"):
        add_publisher(keys, "acme", ["*"])
    assert not list(keys.rglob("*acme*"))


@pytest.mark.parametrize("name", ["", "../acme", "Acme", "a b", "-acme", "acme.com", "a" * 64])
def test_names_that_are_none(keys: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="as the name of a publisher"):
        add_publisher(keys, name, ["acme-*"])


@pytest.mark.parametrize("pattern", ["", "../*", "acme/*", "Acme-*", "acme-?", "[a-z]*", "a\n"])
def test_patterns_that_are_none(keys: Path, pattern: str) -> None:
    """What is refused here would mean one thing to the repository and another to a device."""
    with pytest.raises(ManifestError, match="as a pattern of package names"):
        add_publisher(keys, "acme", [pattern])
    with pytest.raises(ManifestError, match="without packages"):
        add_publisher(keys, "acme", [])


def test_half_a_key_is_not_overwritten(keys: Path) -> None:
    add_publisher(keys, "acme", ["acme-*"])
    (keys / "packages/acme.pem").unlink()
    private = (keys / "packages/acme.key").read_bytes()
    with pytest.raises(RefusedError, match=r"acme\.key is there without it"):
        add_publisher(keys, "acme", ["acme-*"])
    assert (keys / "packages/acme.key").read_bytes() == private


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"format": 2, "publishers": {}}', '{"format": 1, "publishers": {"x": ["*"]}}'],
)
def test_a_list_that_is_none(keys: Path, text: str) -> None:
    (keys / LIST).write_text(text)
    with pytest.raises(ManifestError, match="it is not a list of publishers"):
        load_publishers(keys)


@pytest.mark.parametrize("pattern", ["*", "acme-*", "acme", "*-vpn", "a*e-*n", "a**b"])
@pytest.mark.parametrize(
    "name", ["acme", "acme-", "acme-vpn", "vpn", "ab", "a", "aceme-n", "other"]
)
def test_host_and_device_read_patterns_alike(pattern: str, name: str) -> None:
    role = DelegatedRole("r", ["k"], 1, True, paths=[f"packages/{pattern}/releases.json"])
    expected = trust.matches(pattern, name)
    assert may_sign({"x": (pattern,)}, "x", name) == expected
    assert role.is_delegated_path(f"packages/{name}/releases.json") == expected


def test_the_document_is_what_devices_read(keys: Path) -> None:
    add_publisher(keys, "acme", ["acme-*"])
    data = (keys / LIST).read_bytes()
    assert trust.decode(data) == load_publishers(keys)
    assert json.loads(data)["format"] == 1
