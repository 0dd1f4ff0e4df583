"""Whole builds of the reference product, with the real tools and Debian packages."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from imager.cache import Cache, default_directory
from imager.disk import build_factory_disk
from imager.image import Workshop, build_image, read_index
from imager.keys import make_development_keys
from imager.repository.anchor import make_anchor, read_anchor
from imager.root import RootFacts, verify_root
from imager.signing import load_pe_signer, verify_pe
from imager.tools import Tools, prepare_tools
from manifests.catalogue import Product, load_product
from recovery.device import decode
from recovery.errors import ManifestError

pytestmark = pytest.mark.build

BUILT = 1_735_689_600
REPOSITORY = Path(__file__).parents[2]
SOURCES = ("boards", "imager", "manifests", "orbital", "recovery", "updater", "pyproject.toml")
IGNORED = shutil.ignore_patterns("__pycache__")


class Log:
    """A reporter that remembers which stages were done and which came from the cache."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.cached: list[str] = []

    def stage(self, name: str) -> None:
        self.done.append(name)

    def progress(self, done: int, total: int) -> None:
        pass

    def message(self, text: str) -> None:
        name, _, rest = text.partition(": ")
        if rest == "cached":
            self.cached.append(name)


def workshop(cache: Path, keys: Path, log: Log) -> Workshop:
    store = Cache(cache, log)
    tools = prepare_tools(store)
    return Workshop(
        cache=store,
        tools=tools,
        signer=load_pe_signer(keys, tools, time=BUILT),
        trust_root=read_anchor(keys).to_bytes(),
        built=BUILT,
        reporter=log,
        publishers=keys / "packages",
    )


def gateway(version: str = "1.0") -> Product:
    return load_product("gateway", "qemu-x86_64", version=version)


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below the directory, by its path."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key directory with the trust anchor, as `orbital keys make` leaves it."""
    directory = tmp_path_factory.mktemp("product") / "keys"
    make_development_keys(directory)
    make_anchor(directory)
    return directory


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    """The reference product, built with the machine's cache."""
    output = tmp_path_factory.mktemp("out")
    return build_image(gateway(), output, workshop(default_directory(), keys, Log()))


_BUILD = """
import sys
from pathlib import Path
from orbital.main import main
keys, output = sys.argv[1:]
sys.exit(main(["image", "build", "--system", "gateway", "--keys", keys, "--output", output]))
"""


def build_from(checkout: Path, cache: Path, keys: Path, output: Path) -> tuple[Path, str]:
    """Builds in a process of its own; returns the build directory and what was reported."""
    environment = {**os.environ, "ORBITAL_CACHE": str(cache)}
    environment.pop("SOURCE_DATE_EPOCH", None)
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(keys), str(output)],
        cwd=checkout, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return output / "gateway_1.0_qemu-x86_64", done.stderr


def same_packages(one: Path, other: Path) -> bool:
    """Whether two caches hold the same versions of tools, base and kernel."""
    locks = [
        {path.read_bytes() for path in cache.glob("stages/*/*/packages.lock")}
        for cache in (one, other)
    ]
    return locks[0] <= locks[1]


def test_a_cold_build_elsewhere_is_byte_identical(tmp_path: Path, keys: Path) -> None:
    """Other checkout, cache and output; tools, base and kernel fetched again from the mirror.

    Compared with a build by the machine's cache; or, when the mirror has moved on since that
    was filled, with a second cold build.
    """
    # Copies, so that somebody who edits the sources does not change them between builds.
    checkouts = [tmp_path / "checkout", tmp_path / "another/place/with a space"]
    for number, checkout in enumerate(checkouts):
        for part in SOURCES:
            source = (REPOSITORY if number == 0 else checkouts[0]) / part
            if source.is_dir():
                shutil.copytree(source, checkout / part, symlinks=True, ignore=IGNORED)
            else:
                shutil.copy2(source, checkout / part)
    cold_cache = tmp_path / "cache"
    cold, log = build_from(checkouts[1], cold_cache, keys, tmp_path / "deep/er/out")
    for stage in ("tools", "base", "kernel", "root", "initramfs", "boot", "segments"):
        assert f"{stage}: cached" not in log.splitlines(), stage
    reference_cache = default_directory()
    reference, _ = build_from(checkouts[0], reference_cache, keys, tmp_path / "out")
    if not same_packages(cold_cache, reference_cache):
        reference, _ = build_from(checkouts[0], tmp_path / "cache-2", keys, tmp_path / "out")
    found = digests(cold)
    assert {
        "index.json",
        "root.img",
        "boot.img",
        "loader/loader.efi",
        "loader/watchdog.efi",
        "loader/loads.efi",
    } <= set(found)
    assert digests(reference) == found


def test_a_second_build_takes_every_stage_from_the_cache(
    tmp_path: Path, keys: Path, build: Path
) -> None:
    log = Log()
    again = build_image(gateway(), tmp_path, workshop(default_directory(), keys, log))
    assert log.done == ["output"]
    assert digests(again) == digests(build)


def test_a_change_of_one_line_reuses_what_it_does_not_touch(tmp_path: Path, keys: Path) -> None:
    # Versions nobody built before, of the same length.
    number = time.time_ns()
    first = build_image(
        gateway(f"1.{number}"), tmp_path, workshop(default_directory(), keys, Log())
    )
    log = Log()
    # An update: the rescue system, which knows the version that it came with, is the factory's.
    bench = replace(workshop(default_directory(), keys, log), rescue=False)
    second = build_image(gateway(f"1.{number + 1}"), tmp_path, bench)
    assert set(log.done) == {"root", "boot", "segments", "output"}
    assert {"tools", "base", "kernel", "initramfs", "loader"} <= set(log.cached)
    with pytest.raises(ManifestError, match=r"no rescue\.img") as refused:
        build_factory_disk(
            second, gateway().board, tmp_path / "disk.img", bench.tools, reporter=log
        )
    assert "--no-rescue" in refused.value.resolution
    before = {segment.sha256 for segment in read_index(first).root.stream.segments}
    after = read_index(second).root.stream.segments
    assert sum(segment.sha256 in before for segment in after) > len(after) // 2


def test_the_index_describes_the_files_beside_it(build: Path) -> None:
    index = read_index(build)
    for name, stream in (("root.img", index.root.stream), ("boot.img", index.boot.stream)):
        # The hash tree behind the root's data is not published.
        data = (build / name).read_bytes()[: index.root.hash_offset]
        assert (len(data), hashlib.sha256(data).hexdigest()) == (stream.size, stream.sha256)
        assert sum(segment.size for segment in stream.segments) == stream.size
        for segment in stream.segments:
            chunk = build / "chunks" / segment.stored_sha256[:2] / segment.stored_sha256
            stored = chunk.read_bytes()
            assert hashlib.sha256(stored).hexdigest() == segment.stored_sha256
    sbom = (build / "sbom.cdx.json").read_bytes()
    assert hashlib.sha256(sbom).hexdigest() == index.sbom_sha256
    assert index.packages == {"interface-manager": "1.0", "routing": "1.0"}
    config = decode((build / "device.json").read_bytes())
    assert (config.system, config.version, config.built) == ("gateway", "1.0", BUILT)


def test_the_root_hash_in_the_signed_artifact_is_that_of_the_root_image(
    build: Path, keys: Path, tools: Tools
) -> None:
    index = read_index(build)
    for name in ("boot.img", *(f"loader/{file}.efi" for file in ("loader", "watchdog", "loads"))):
        verify_pe(tools, build / name, keys / "secure-boot/db.pem")
    artifact = (build / "boot.img").read_bytes()
    assert f"orbital.roothash={index.root.root_hash} ".encode() in artifact
    assert f"orbital.hashoffset={index.root.hash_offset} ".encode() in artifact
    root = index.root
    facts = RootFacts(
        root.root_hash, root.hash_offset, root.salt, (build / "root.img").stat().st_size
    )
    verify_root(build / "root.img", facts, tools)


def test_the_root_image_has_what_a_device_needs_and_nothing_of_this_machine(
    tmp_path: Path, build: Path, tools: Tools
) -> None:
    tools.run("fsck.erofs", f"--extract={tmp_path / 'root'}", build / "root.img")
    root = tmp_path / "root"
    for path in (
        "usr/lib/orbital/early",
        "usr/lib/orbital/recovery/__pycache__/early.cpython-313.pyc",
        "usr/lib/orbital/trust/root.json",
        "usr/lib/systemd/systemd",
        "usr/lib/systemd/system/boot-complete.target.requires/orbital-health.service",
        "usr/lib/systemd/system/multi-user.target.wants/routing.service",
        "usr/sbin/nft",
    ):
        assert (root / path).exists() or (root / path).is_symlink(), path
    for path in ("usr/bin/perl", "usr/bin/dpkg", "etc/apt", "boot/vmlinuz", "usr/share/doc"):
        assert not (root / path).exists(), path
    assert not list((root / "var").iterdir())
    hostname = Path("/etc/hostname").read_text().strip()
    cache = str(default_directory())
    for file in (root / "etc").rglob("*"):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            assert cache.encode() not in content, file
            assert len(hostname) < 6 or hostname.encode() not in content, file


def test_the_bill_of_materials_names_what_was_fetched_and_not_what_was_dropped(build: Path) -> None:
    document = json.loads((build / "sbom.cdx.json").read_bytes())
    names = {item["name"] for item in document["components"]}
    assert {"systemd", "python3.13", "nftables", "routing", "orbital", "systemd-boot-efi"} <= names
    assert not names & {"dpkg", "perl-base", "debconf"}
    assert any(name.startswith("linux-image-6.12") for name in names)
