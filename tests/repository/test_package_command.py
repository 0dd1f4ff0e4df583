"""Packages through the command line, with real package files and the pinned tools."""

from __future__ import annotations

import hashlib
import io
import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest

import orbital.keys
import orbital.repository
from imager.cache import Cache, default_directory
from imager.package.image import write_image
from imager.package.opk import OpkFile, file_name, read_opk, write_opk
from imager.package.signing import load_package_signer
from imager.repository import listing
from imager.tools import Tools, prepare_tools
from imager.tree import Tree
from orbital.output import Output
from recovery.errors import RefusedError, TrustError
from recovery.packages import model
from recovery.packages.digest import file_digest
from tests.updater.packages.repository import manifest

XML = """<node><interface name="org.acme.Tunnel">
  <method name="Up"><arg name="name" type="s" direction="in"/></method>{more}
</interface></node>
"""
DOWN = '<method name="Down"/>'


@pytest.fixture(scope="module")
def tools() -> Tools:
    """The pinned tools tree; from the cache, or built from the Debian mirror."""
    return prepare_tools(Cache(default_directory()))


def run(group: Any, *words: str | Path) -> dict[str, Any]:
    """Runs a command with --json and returns its document."""
    parser = ArgumentParser()
    group.configure(parser)
    args = parser.parse_args([str(word) for word in words])
    stdout = io.StringIO()
    assert args.handler(args, Output(json=True, stdout=stdout, stderr=io.StringIO())) == 0
    document: dict[str, Any] = json.loads(stdout.getvalue())
    return document


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Keys with the publisher acme, and an empty repository."""
    run(orbital.keys, "make", tmp_path / "keys")
    document = run(orbital.keys, "publisher", tmp_path / "keys", "acme", "--packages", "acme-*, wg")
    assert document["publishers"]["acme"] == ["acme-*", "wg"]
    run(orbital.repository, "init", tmp_path / "repository", "--keys", tmp_path / "keys")
    return tmp_path


def build(place: Path, tools: Tools, package: model.Package, **files: bytes | str) -> Path:
    """A real package file. files: contents of usr/share/NAME."""
    tree = Tree()
    tree.file(model.MANIFEST, model.encode(package))
    for name, data in files.items():
        tree.file(f"usr/share/{name}", data)
    image = place / "image.erofs"
    write_image(tree, image, tools, name=f"{package.name}_{package.version}", built=1_700_000_000)
    signer = load_package_signer(place / "keys", package.publisher, package.name)
    path = place / file_name(package)
    write_opk(image, signer.sign(file_digest(image)), path)
    return path


def publish(place: Path, *paths: Path) -> dict[str, Any]:
    """orbital repository publish."""
    return run(
        orbital.repository, "publish", place / "repository", "--keys", place / "keys", *paths
    )


def test_publish_list_and_withdraw(place: Path, tools: Tools) -> None:
    path = build(place, tools, manifest("acme-vpn", "1.0"), data=bytes(range(256)) * 40_000)
    opk: OpkFile = read_opk(path, place / "keys")
    (done,) = publish(place, path)["packages"]
    assert (done["package"], done["publisher"], done["digest"]) == ("acme-vpn", "acme", opk.digest)
    (listed,) = run(orbital.repository, "list", place / "repository")["packages"]
    assert (listed["version"], listed["built"]) == ("1.0", 1_700_000_000)
    assert listed["image_bytes"] == opk.image_size > 10_000_000
    words = ("withdraw", place / "repository", "--keys", place / "keys", "acme-vpn", "1.0")
    assert run(orbital.repository, *words)["warnings"] == []
    assert listing.packages(place / "repository") == []


def test_a_large_package_gets_a_delta_from_the_version_before(place: Path, tools: Tools) -> None:
    noise = bytearray(hashlib.shake_128(b"noise").digest(1 << 20))
    for version in ("1.0", "1.1"):
        noise[500_000:500_003] = version.encode()
        path = build(place, tools, manifest("acme-vpn", version), large=bytes(noise))
        done = publish(place, path)
    (found,) = done["package_deltas"]
    assert (found["package"], found["version"], found["from_version"]) == ("acme-vpn", "1.1", "1.0")
    assert found["fetch_bytes"] < 1000 < 1 << 20 < found["full_bytes"]
    again = run(
        orbital.repository, "publish", place / "repository", "--keys", place / "keys", path,
        "--deltas", "0",
    )  # fmt: skip
    assert again["package_deltas"] == []


def test_a_package_file_signed_by_the_wrong_publisher(place: Path, tools: Tools) -> None:
    with pytest.raises(TrustError, match="not allowed to"):
        build(place, tools, manifest("firewall", "1.0"))
    path = build(place, tools, manifest("acme-vpn", "1.0"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrustError, match="cannot accept the signature"):
        publish(place, path)


def tunnel(version: str, interface: str) -> model.Package:
    """A package that provides org.acme.Tunnel."""
    return manifest(
        "acme-vpn",
        version,
        kind="feature",
        services=(model.Service("main", ("/usr/bin/x",), model.Check("active")),),
        provides=(
            model.Provided(
                "org.acme.Tunnel", interface, "org.acme.Tunnel", "main", "usr/share/xml"
            ),
        ),
    )


def test_an_interface_is_only_broken_by_a_new_major(place: Path, tools: Tools) -> None:
    publish(place, build(place, tools, tunnel("1.0", "1.0"), xml=XML.format(more=DOWN)))
    broken = build(place, tools, tunnel("1.1", "1.0"), xml=XML.format(more=""))
    with pytest.raises(RefusedError, match=r"break those of 1\.0") as caught:
        publish(place, broken)
    assert "Down" in caught.value.details
    back = build(place, tools, tunnel("1.1", "0.9"), xml=XML.format(more=DOWN))
    with pytest.raises(RefusedError, match=r"break those of 1\.0"):
        publish(place, back)
    assert [item.version for item in listing.packages(place / "repository")] == ["1.0"]
    publish(place, build(place, tools, tunnel("2.0", "2.0"), xml=XML.format(more="")))
    # A correction of the older line is compared with that line.
    publish(place, build(place, tools, tunnel("1.0.1", "1.0"), xml=XML.format(more=DOWN)))
