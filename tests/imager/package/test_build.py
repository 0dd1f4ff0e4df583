"""Whole packages built: what is in them, and that the same inputs give the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import msgspec
import pytest

from imager.cache import Cache, default_directory
from imager.package.build import load_interface, target_architecture
from imager.package.sources import unpack_archive
from imager.tools import Tools
from manifests.package_convert import definition_path
from recovery.errors import ManifestError
from recovery.process import run
from tests.imager.package.bench import INTERFACE, SERVICE, Bench, make_tar, make_wheel, tar_file

DEFINITION = '<node><interface name="org.example.Demo1"><method name="Go"/></interface></node>'


def test_the_same_inputs_give_the_same_bytes(
    tmp_path: Path, tools: Tools, publisher_keys: Path
) -> None:
    made = []
    names = [f"usr/share/demo/{letter}{number}" for letter in "zab" for number in range(9)]
    for turn, order in enumerate((names, names[::-1])):
        bench = Bench(tmp_path / f"turn{turn}", tools, publisher_keys)
        previous_mask = os.umask(0o077 if turn else 0o022)
        try:
            files = {name: f"content of {name}" for name in order}
            folder = bench.package(files=files, executable=["usr/share/demo/a1"])
            (folder / "tree/usr/share/demo/link").symlink_to("a1")
            (folder / "tree/usr/share/empty").mkdir()
            for path in (folder / "tree").rglob("*"):
                os.utime(path, (turn * 1e9, turn * 1e9), follow_symlinks=False)
            tar = [tar_file(f"usr/share/tar/{name}") for name in ("x", "y")]
            make_tar(folder / "more.tar", tar)
        finally:
            os.umask(previous_mask)
        (folder / "package.yaml").open("a").write("content: {tars: [more.tar]}\n")
        made.append(bench.build(folder).opk)
    first, second = made
    assert first.tree.read("usr/share/tar/x") == b"x"
    assert first.path.read_bytes() == second.path.read_bytes()


def test_another_time_or_version_gives_another_image(bench: Bench) -> None:
    folder = bench.package(files={"usr/share/demo/a": "a"})
    first = bench.build(folder).opk.digest
    bench.built += 1
    assert bench.build(folder).opk.digest != first


def test_owners_and_modes_are_those_of_every_package(bench: Bench) -> None:
    folder = bench.package(files={"usr/share/demo/a": "a", "usr/lib/demo/run": "b"})
    (folder / "tree/usr/share/demo/a").chmod(0o600)
    (folder / "tree/usr/lib/demo/run").chmod(0o700)
    (folder / "tree/usr/lib/demo").chmod(0o777)
    tree = bench.build(folder).opk.tree
    facts = {path: (entry.mode, entry.uid, entry.gid) for path, entry in tree.items()}
    assert facts["usr/share/demo/a"] == (0o644, 0, 0)
    assert facts["usr/lib/demo/run"] == (0o755, 0, 0)
    assert facts["usr/lib/demo"] == (0o755, 0, 0)


def test_a_package_without_machine_code_is_for_all(bench: Bench) -> None:
    opk = bench.build(bench.package(files={"usr/share/demo/a": "a"})).opk
    assert (opk.manifest.architecture, opk.path.name) == ("all", "demo_1.0_all.opk")


def test_a_feature_is_built_whole(bench: Bench) -> None:
    more = (
        SERVICE + "provides:\n  - {interface: org.example.Demo1, version: '1.0', service: main,\n"
        "     bus_name: org.example.Demo, definition: demo.xml}\noverlay: [usr/share/demo]\n"
    )
    files = {"usr/lib/demo/serve": "#!/bin/sh\n", "usr/share/demo/a": "a"}
    folder = bench.package(kind="feature", more=more, files=files, executable=[*files])
    (folder / "demo.xml").write_text(DEFINITION)
    opk = bench.build(folder).opk
    assert opk.manifest.services[0].command == ("/usr/lib/demo/serve",)
    assert opk.manifest.overlay == ("usr/share/demo",)
    place = definition_path("org.example.Demo1")
    assert opk.manifest.provides[0].definition == place
    assert opk.tree.read(place).decode() == DEFINITION


def test_a_suite_is_a_manifest_alone(bench: Bench) -> None:
    folder = bench.package(kind="suite", more="members: [{package: other}]\n")
    opk = bench.build(folder).opk
    assert [path for path, _ in opk.tree.items()] == ["manifest.json"]
    assert opk.manifest.members == ("other",)


def test_a_system_package_overlays_all_its_files_and_brings_no_etc(bench: Bench) -> None:
    files = {
        "usr/bin/perl": "#!/usr/bin/env sh\n",
        "usr/lib/demo/b": "b",
        "etc/demo.conf": "c",
    }
    folder = bench.package(kind="system", files=files, executable=["usr/bin/perl"])
    opk = bench.build(folder).opk
    assert opk.manifest.overlay == ("usr/bin/perl", "usr/lib/demo/b")
    assert "etc" not in opk.tree


def test_wheels_become_modules_and_commands(bench: Bench) -> None:
    folder = bench.package(more="content: {wheels: [demo.whl]}\n")
    make_wheel(
        folder / "demo.whl",
        {
            "demo/__init__.py": "def main() -> int:\n    return 0\n",
            "demo-2.5.dist-info/entry_points.txt": "[console_scripts]\ndemo = demo:main\n",
            "demo-2.5.data/scripts/old-demo": "#!python\nprint()\n",
            "demo-2.5.data/data/share/demo/a": "a",
        },
    )
    built = bench.build(folder)
    tree = built.opk.tree
    command = tree.get("usr/bin/demo")
    assert command is not None
    assert command.mode == 0o755
    assert command.read().startswith(b"#!/usr/bin/python3\nimport sys\nfrom demo import main\n")
    assert tree.read("usr/bin/old-demo").startswith(b"#!/usr/bin/python3\nprint()")
    assert tree.read("usr/share/demo/a") == b"a"
    assert "usr/lib/python3/dist-packages/demo-2.5.dist-info/METADATA" in tree
    sbom = json.loads(tree.read("sbom.cdx.json"))
    assert [item["purl"] for item in sbom["components"]] == ["pkg:pypi/demo@2.5"]
    assert built.lock is not None
    assert built.lock.read_text().startswith("demo\t2.5\twheel\t-\t")


def test_a_folder_replaces_what_others_bring_and_excluded_paths_are_left_out(bench: Bench) -> None:
    more = "content: {tars: [a.tar], directories: [tree], exclude: ['usr/share/doc/**']}\n"
    folder = bench.package(more=more, files={"usr/share/demo/a": "own"})
    members = [tar_file("./usr/share/demo/a", b"theirs"), tar_file("usr/share/doc/demo/b")]
    make_tar(folder / "a.tar", members)
    tree = bench.build(folder).opk.tree
    assert tree.read("usr/share/demo/a") == b"own"
    assert "usr/share/doc" not in tree


def test_a_debian_archive_is_unpacked_without_its_scripts(tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb makes the archive")
    top = tmp_path / "demo"
    (top / "DEBIAN").mkdir(parents=True)
    (top / "DEBIAN").chmod(0o755)
    (top / "DEBIAN/control").write_text(
        "Package: demo\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: demo\n"
    )
    marker = tmp_path / "it-ran"
    (top / "DEBIAN/postinst").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (top / "DEBIAN/postinst").chmod(0o755)
    (top / "usr/share/demo").mkdir(parents=True)
    (top / "usr/share/demo/a").write_text("a")
    run(["dpkg-deb", "--build", "--root-owner-group", top, tmp_path / "demo.deb"])
    unpack_archive((tmp_path / "demo.deb").read_bytes(), tmp_path / "data.tar")
    listed = run(["tar", "-tf", tmp_path / "data.tar"]).stdout.split()
    assert "./usr/share/demo/a" in listed
    assert not marker.exists()


@pytest.mark.build
def test_a_real_debian_package_is_built_and_locked(bench: Bench) -> None:
    libraries = {"libc.so.6": ("GLIBC_2.2.5", "GLIBC_2.34")}
    bench.cache = Cache(default_directory())
    bench.interface = msgspec.structs.replace(INTERFACE, libraries=libraries)
    folder = bench.package(
        more="content: {debian: [wireguard-tools], exclude: ['usr/share/**', 'usr/bin/wg-quick',"
        " 'usr/lib/systemd/**']}\n"
    )
    # The image of this test defines two versions; what wg needs besides is found.
    assert "of libc.so.6, which the image does not define" in bench.problems(folder)
    minors = (f"GLIBC_2.{minor}" for minor in range(2, 42))
    everything = (*minors, "GLIBC_2.2.5", "GLIBC_2.3.4", "GLIBC_ABI_DT_RELR")
    bench.interface = msgspec.structs.replace(INTERFACE, libraries={"libc.so.6": everything})
    built = bench.build(folder)
    assert built.opk.manifest.architecture == "amd64"
    assert [path for path, entry in built.opk.tree.items() if entry.kind == "file"] == [
        "manifest.json", "sbom.cdx.json", "usr/bin/wg",
    ]  # fmt: skip
    assert built.lock is not None
    name, version, architecture, source, digest = built.lock.read_text().split()
    assert (name, architecture, source, len(digest)) == (
        "wireguard-tools",
        "amd64",
        "wireguard",
        64,
    )
    sbom = json.loads(built.opk.tree.read("sbom.cdx.json"))
    assert sbom["components"][0]["version"] == version


def test_files_appear_whole_and_nothing_else_does(bench: Bench) -> None:
    output = bench.top / "out"
    bench.build(bench.package(files={"usr/share/demo/a": "a"}), output=output)
    assert [path.name for path in output.iterdir()] == ["demo_1.0_all.opk"]
    mode = (output / "demo_1.0_all.opk").stat().st_mode
    assert stat.S_ISREG(mode)


def test_the_architecture_is_the_images(tmp_path: Path) -> None:
    (tmp_path / "interface.json").write_bytes(msgspec.json.encode(INTERFACE))
    interface = load_interface(tmp_path)
    assert target_architecture(interface) == "amd64"
    assert target_architecture(interface, "x86_64") == "amd64"
    with pytest.raises(ManifestError, match="cannot build for arm64"):
        target_architecture(interface, "arm64")


@pytest.mark.parametrize("content", ["", "{}", '{"format": 2}'])
def test_an_interface_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "interface.json").write_text(content)
    with pytest.raises(ManifestError, match="cannot read what the image promises"):
        load_interface(tmp_path)


def test_python_modules_are_compiled_the_same_way_anywhere(
    tmp_path: Path, tools: Tools, publisher_keys: Path
) -> None:
    sources = {
        f"usr/lib/python3/dist-packages/demo/m{number}.py": f"import os\nX = ('a{number}', os)\n"
        for number in range(5)
    }
    files = {**sources, "usr/lib/demo/broken.py": "def\n"}
    made = []
    for name in ("one", "another-much-longer-name"):
        bench = Bench(tmp_path / name, tools, publisher_keys)
        made.append(bench.build(bench.package(files=files)).opk)
    compiled = "usr/lib/python3/dist-packages/demo/__pycache__/m0.cpython-313.pyc"
    # PEP 552: flags say "hash, unchecked"; the source's time plays no part.
    assert made[0].tree.read(compiled)[4:8] == b"\1\0\0\0"
    assert made[0].path.read_bytes() == made[1].path.read_bytes()
    assert "usr/lib/demo/__pycache__" not in made[0].tree


def test_modules_are_not_compiled_for_another_python(bench: Bench) -> None:
    files = tuple(path.replace("3.13", "3.14") for path in INTERFACE.files)
    bench.interface = msgspec.structs.replace(INTERFACE, files=files)
    tree = bench.build(bench.package(files={"usr/lib/demo/a.py": "A = 1\n"})).opk.tree
    assert "usr/lib/demo/__pycache__" not in tree
