"""Archives that anybody may have made: nothing of them gets out of its place."""

from __future__ import annotations

import gzip
import lzma
import tarfile
from pathlib import Path

import pytest
import zstandard

from imager.package.sources import collect_tar, read_tar
from imager.package.wheel import collect_wheel
from recovery.errors import ManifestError, ToolError
from tests.imager.package.bench import Bench, make_tar, make_wheel, tar_file, tar_special


def _findings(path: Path) -> list[str]:
    return [str(finding) for finding in read_tar(path, "a.tar").findings]


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (tar_file("../etc/passwd"), "is not a plain relative path"),
        (tar_file("usr/../../etc/passwd"), "is not a plain relative path"),
        (tar_file("usr//bin/x"), "is not a plain relative path"),
        (tar_file("/usr/bin/x"), "is not a plain relative path"),
        (tar_file("etc/passwd"), "lies outside usr/"),
        (tar_file("usr"), "lies outside usr/"),
        (tar_file("usr/a\nb"), "has a name with control characters"),
        (tar_file("usr/a\udcff"), "not in UTF-8"),
        (tar_file("usr/" + "x" * 2000), "is not a plain relative path"),
        (tar_file("usr/bin/x", mode=0o4755), "set-user-id"),
        (tar_special("usr/dev", tarfile.CHRTYPE), "is a device node"),
        (tar_special("usr/dev", tarfile.BLKTYPE), "is a device node"),
        (tar_special("usr/pipe", tarfile.FIFOTYPE), "is a named pipe"),
        (tar_special("usr/x", tarfile.SYMTYPE, "/etc/shadow"), "leaves usr/"),
        (tar_special("usr/x", tarfile.SYMTYPE, "../etc/shadow"), "leaves usr/"),
        (tar_special("usr/x", tarfile.SYMTYPE, ""), "unusable target"),
        (tar_special("usr/x", tarfile.LNKTYPE, "/etc/shadow"), "no file before it"),
        (tar_special("usr/x", tarfile.LNKTYPE, "../../etc/shadow"), "no file before it"),
        (tar_special("usr/x", b"Z"), "member of the unknown kind"),
    ],
)
def test_a_member_of_a_tar_that_has_no_place_is_found(
    tmp_path: Path, member: tuple[tarfile.TarInfo, bytes], problem: str
) -> None:
    found = _findings(make_tar(tmp_path / "a.tar", [member]))
    assert len(found) == 1
    assert problem in found[0]


def test_nothing_is_placed_through_a_link(tmp_path: Path) -> None:
    link = tar_special("usr/lib/x", tarfile.SYMTYPE, "/usr/bin")
    found = _findings(make_tar(tmp_path / "a.tar", [link, tar_file("usr/lib/x/sh")]))
    assert len(found) == 1
    assert found[0].startswith("usr/lib/x/sh: cannot be placed")


def test_a_member_that_appears_twice_is_found(tmp_path: Path) -> None:
    members = [tar_file("usr/a", b"1"), tar_file("./usr/a", b"2")]
    assert _findings(make_tar(tmp_path / "a.tar", members)) == ["usr/a: appears twice (from a.tar)"]


def test_hard_links_and_merged_folders_are_taken(tmp_path: Path) -> None:
    members = [
        tar_file("./bin/a", b"1", 0o755),
        tar_special("./usr/bin/b", tarfile.LNKTYPE, "./bin/a"),
        tar_special("lib64", tarfile.SYMTYPE, "usr/lib64"),
    ]
    collector = read_tar(make_tar(tmp_path / "a.tar", members), "a.tar")
    assert collector.findings == []
    assert collector.tree.read("usr/bin/b") == b"1"


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstandard.compress])
def test_tars_may_be_compressed(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    plain = make_tar(tmp_path / "a.tar", [tar_file("usr/a", b"1")])
    packed = tmp_path / "packed"
    packed.write_bytes(pack(plain.read_bytes()))
    assert collect_tar(packed, "packed", tmp_path).tree.read("usr/a") == b"1"
    packed.write_bytes(pack(plain.read_bytes())[:-9])
    with pytest.raises(ToolError, match=r"cannot (unpack|read) packed"):
        collect_tar(packed, "packed", tmp_path)


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(ToolError, match="not a tar archive"):
        collect_tar(tmp_path / "a.tar", "a.tar", tmp_path)
    with pytest.raises(ManifestError, match="no such file"):
        collect_tar(tmp_path / "b.tar", "b.tar", tmp_path)


def _wheel_findings(path: Path, python: str = "3.13") -> list[str]:
    _, collector = collect_wheel(path, "amd64", python)
    return [str(finding) for finding in collector.findings]


@pytest.mark.parametrize(
    "name",
    ["../../../../bin/x", "/etc/x", "demo/../../x", "demo-2.5.data/data/../../etc/x", "a//b"],
)
def test_a_member_of_a_wheel_that_has_no_place_is_found(tmp_path: Path, name: str) -> None:
    found = _wheel_findings(make_wheel(tmp_path / "a.whl", {name: "x"}))
    assert len(found) == 1
    assert "is not a plain relative path" in found[0]


def test_a_wheel_is_checked_against_its_record(tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path / "a.whl",
        {"demo/a.py": "a", "demo/b.py": "b", "demo/c.py": "c"},
        unrecorded={"demo/evil.py": "x"},
        record={
            "demo/a.py": "demo/a.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,1",
            "demo/b.py": "demo/b.py,md5=kutf_uauL-w61xx3dTFXjw,1",
            "demo/c.py": "demo/c.py,,",
        },
    )
    assert _wheel_findings(wheel) == [
        "demo/a.py: differs from what RECORD says (from a.whl)",
        "demo/b.py: differs from what RECORD says (from a.whl)",
        "demo/c.py: differs from what RECORD says (from a.whl)",
        "demo/evil.py: is not in RECORD (from a.whl)",
    ]


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("py3-none-any", True),
        ("cp313-cp313-manylinux_2_17_x86_64", True),
        ("cp39-abi3-linux_x86_64", True),
        ("cp312-cp312-manylinux_2_17_x86_64", False),
        ("cp314-abi3-manylinux_2_17_x86_64", False),
        ("cp313-cp313-manylinux_2_17_aarch64", False),
        ("cp313-cp313-win_amd64", False),
        ("cp313-cp313-musllinux_1_1_x86_64", False),
        ("py2-none-any", False),
    ],
)
def test_a_wheel_must_be_made_for_the_images_python(tmp_path: Path, tag: str, fits: bool) -> None:
    found = _wheel_findings(make_wheel(tmp_path / "a.whl", {"demo.py": ""}, tag=tag))
    assert found == [] if fits else "is made for" in found[0]
    assert "not for Python (none)" in _wheel_findings(tmp_path / "a.whl", python="")[0]


@pytest.mark.parametrize(
    "line",
    ["demo = demo:main; import os", "../demo = demo:main", "demo = os:system('x')", "demo ="],
)
def test_commands_of_a_wheel_cannot_smuggle_code(tmp_path: Path, line: str) -> None:
    entry = "demo-2.5.dist-info/entry_points.txt"
    wheel = make_wheel(tmp_path / "a.whl", {entry: f"[console_scripts]\n{line}\n"})
    found = _wheel_findings(wheel)
    assert len(found) == 1
    assert found[0].startswith("entry_points.txt: has the unusable command")


def test_what_is_no_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"PK not a zip")
    with pytest.raises(ToolError, match="not a sound zip"):
        collect_wheel(tmp_path / "a.whl", "amd64", "3.13")


def test_sources_that_disagree_are_refused(bench: Bench) -> None:
    folder = bench.package(more="content: {tars: [a.tar, b.tar]}\n")
    make_tar(folder / "a.tar", [tar_file("usr/x", b"1"), tar_file("usr/same", b"1")])
    make_tar(folder / "b.tar", [tar_file("usr/x", b"2"), tar_file("usr/same", b"1")])
    problems = bench.problems(folder)
    assert problems == "usr/x: comes from a.tar and, different, from b.tar"


def test_content_is_only_taken_from_the_package_folder(bench: Bench) -> None:
    folder = bench.package(more="content: {directories: [../outside]}\n")
    (folder.parent / "outside/usr").mkdir(parents=True)
    with pytest.raises(ManifestError, match=r"(lies outside the package's folder|\.\.)"):
        bench.build(folder)
