"""orbital package build and inspect, as people call them."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import msgspec
import pytest

from orbital import package_build
from orbital.output import Output
from recovery.errors import ManifestError, RefusedError
from tests.imager.package.bench import INTERFACE, Bench


def _run(*words: str | Path, as_json: bool = False) -> str:
    parser = argparse.ArgumentParser()
    package_build.add_build(parser.add_subparsers(required=True))
    args = parser.parse_args([str(word) for word in words])
    out = io.StringIO()
    assert args.handler(args, Output(json=as_json, stdout=out, stderr=io.StringIO())) == 0
    return out.getvalue()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A build directory, as far as packages need it."""
    (tmp_path / "build").mkdir()
    (tmp_path / "build/interface.json").write_bytes(msgspec.json.encode(INTERFACE))
    return tmp_path / "build"


def test_build_and_inspect(bench: Bench, image: Path, publisher_keys: Path) -> None:
    folder = bench.package(files={"usr/share/demo/a": "hello"})
    common = ("--keys", publisher_keys, "--system-build", image, "--output", bench.top / "out")
    document = json.loads(_run("build", folder, *common, as_json=True))
    assert document["signer"] == "publisher"
    path = Path(document["file"])
    assert path.name == "demo_1.0_all.opk"
    shown = json.loads(_run("inspect", path, "--keys", publisher_keys, as_json=True))
    assert shown["digest"] == document["digest"]
    assert shown["files"]["usr/share/demo/a"] == 5
    assert shown["manifest"]["name"] == "demo"
    assert "signature not checked" in _run("inspect", path)


def test_a_later_version_is_built_against_the_one_before(
    bench: Bench, image: Path, publisher_keys: Path
) -> None:
    files = {"usr/share/demo/a": "hello"}
    first = bench.build(bench.package(files=files)).opk.path
    common = ("--keys", publisher_keys, "--system-build", image, "--output", bench.top / "out")
    _run("build", bench.package(version="1.1", files=files), *common, "--previous", first)
    with pytest.raises(RefusedError, match=r"cannot build package demo 1\.0: 1 finding"):
        _run("build", bench.package(files=files), *common, "--previous", first)


def test_errors_say_what_to_do(bench: Bench, image: Path, publisher_keys: Path) -> None:
    folder = bench.package(files={"usr/share/demo/a": "hello"})
    keys = ("--keys", publisher_keys)
    with pytest.raises(ManifestError, match="cannot read what the image promises"):
        _run("build", folder, *keys, "--system-build", bench.top)
    with pytest.raises(ManifestError, match="cannot find package files in"):
        _run("build", folder, *keys, "--system-build", image, "--against", folder)
    with pytest.raises(ManifestError, match="cannot find package absent"):
        _run("build", "absent", *keys, "--system-build", image)
