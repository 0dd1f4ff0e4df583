"""What a package must declare: what is wrong is named at once, and nothing is written."""

from __future__ import annotations

import os
import struct
import textwrap
from pathlib import Path

import msgspec
import pytest

from imager.package.elf import read_elf
from imager.tools import Tools
from tests.imager.package.bench import INTERFACE, SERVICE, Bench

LOADER = "usr/lib/x86_64-linux-gnu"


def _program(tools: Tools, name: str = "usr/bin/openssl") -> bytes:
    """A real program that needs libssl.so.3 and libcrypto.so.3 with many versions."""
    return tools.file(name).read_bytes()


def _library(tools: Tools, name: str) -> bytes:
    return tools.file(f"{LOADER}/{name}").resolve().read_bytes()


def _promise(bench: Bench, tools: Tools, *names: str) -> None:
    # What libcrypto needs itself is there in any case.
    names = (*names, "libz.so.1", "libzstd.so.1")
    libraries = {name: read_elf(_library(tools, name), name).defines for name in names}
    bench.interface = msgspec.structs.replace(INTERFACE, libraries=libraries)


def test_a_program_may_need_what_the_image_promises(bench: Bench, tools: Tools) -> None:
    _promise(bench, tools, "libc.so.6", "libssl.so.3", "libcrypto.so.3")
    folder = bench.package(files={"usr/bin/demo": _program(tools)}, executable=["usr/bin/demo"])
    assert bench.build(folder).opk.manifest.architecture == "amd64"


def test_a_program_that_needs_an_undeclared_library_is_refused(bench: Bench, tools: Tools) -> None:
    _promise(bench, tools, "libc.so.6", "libssl.so.3")
    folder = bench.package(files={"usr/bin/demo": _program(tools)})
    problems = bench.problems(folder)
    assert problems.splitlines() == [
        "usr/bin/demo: needs the library libcrypto.so.3, which neither the image's interface nor "
        "the package nor its libraries provide"
    ]


def test_a_library_in_the_image_that_is_not_promised_is_none(bench: Bench, tools: Tools) -> None:
    _promise(bench, tools, "libc.so.6", "libssl.so.3")
    files = (*INTERFACE.files, f"{LOADER}/libcrypto.so.3")
    bench.interface = msgspec.structs.replace(bench.interface, files=files)
    problems = bench.problems(bench.package(files={"usr/bin/demo": _program(tools)}))
    assert "libcrypto.so.3, which is in the image, but not promised to packages" in problems


def test_a_program_that_needs_a_newer_symbol_version_is_refused(bench: Bench, tools: Tools) -> None:
    _promise(bench, tools, "libc.so.6", "libssl.so.3", "libcrypto.so.3")
    libraries = {**bench.interface.libraries, "libcrypto.so.3": ("OPENSSL_3.0.0",)}
    bench.interface = msgspec.structs.replace(bench.interface, libraries=libraries)
    problems = bench.problems(bench.package(files={"usr/bin/demo": _program(tools)}))
    assert problems.startswith("usr/bin/demo: needs OPENSSL_3.")
    assert problems.endswith("of libcrypto.so.3, which the image does not define")


def test_the_package_may_bring_its_libraries(bench: Bench, tools: Tools) -> None:
    _promise(bench, tools, "libc.so.6", "libssl.so.3")
    real = f"{LOADER}/libcrypto.so.3.5"
    files = {"usr/bin/demo": _program(tools), real: _library(tools, "libcrypto.so.3")}
    folder = bench.package(files=files)
    assert "does not look for" not in bench.problems(folder)
    (folder / "tree" / LOADER / "libcrypto.so.3").symlink_to("libcrypto.so.3.5")
    bench.build(folder)


def test_a_library_where_the_loader_does_not_look_is_none(bench: Bench, tools: Tools) -> None:
    _promise(bench, tools, "libc.so.6", "libssl.so.3")
    place = "usr/lib/demo/libcrypto.so.3"
    files = {"usr/bin/demo": _program(tools), place: _library(tools, "libcrypto.so.3")}
    problems = bench.problems(bench.package(files=files))
    assert f"which the loader does not look for in {place} of the package" in problems


def test_a_declared_dependency_may_bring_them(bench: Bench, tools: Tools) -> None:
    _promise(bench, tools, "libc.so.6", "libssl.so.3")
    library = bench.package(
        "crypto", files={f"{LOADER}/libcrypto.so.3": _library(tools, "libcrypto.so.3")}
    )
    built = bench.build(library).opk.path
    files = {"usr/bin/demo": _program(tools)}
    undeclared = bench.package("one", files=files)
    assert "libcrypto.so.3" in bench.problems(undeclared, against=[built])
    declared = bench.package("two", files=files, more="depends: [{package: crypto}]\n")
    bench.build(declared, against=[built.parent])
    assert "no package file for it" in bench.problems(declared)


def test_a_library_of_a_library_is_in_the_view(bench: Bench, tools: Tools) -> None:
    _promise(bench, tools, "libc.so.6", "libssl.so.3")
    lowest = {f"{LOADER}/libcrypto.so.3": _library(tools, "libcrypto.so.3")}
    crypto = bench.build(bench.package("crypto", files=lowest)).opk.path
    middle = bench.package(
        "middle", files={"usr/share/middle/a": "a"}, more="depends: [{package: crypto}]\n"
    )
    bench.build(middle, against=[crypto])
    folder = bench.package(
        files={"usr/bin/demo": _program(tools)}, more="depends: [{package: middle}]\n"
    )
    bench.build(folder, against=[crypto.parent])


def test_machine_code_of_another_architecture_is_refused(bench: Bench, tools: Tools) -> None:
    program = bytearray(_program(tools))
    struct.pack_into("<H", program, 18, 183)  # e_machine: EM_AARCH64
    problems = bench.problems(bench.package(files={"usr/bin/demo": bytes(program)}))
    assert problems == "usr/bin/demo: is machine code for AARCH64 (64 bits), not for amd64"


def test_damaged_machine_code_is_refused(bench: Bench, tools: Tools) -> None:
    cut = _program(tools)[:5000]
    stripped = bytearray(_program(tools))
    stripped[40:48] = bytes(8)  # e_shoff: where the section table is
    stripped[60:64] = bytes(4)
    files = {"usr/bin/cut": cut, "usr/bin/stripped": bytes(stripped)}
    lines = bench.problems(bench.package(files=files)).splitlines()
    assert lines[0].startswith("usr/bin/cut: cannot be checked")
    assert lines[1] == "usr/bin/stripped: cannot be checked: it has no section table"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("#!/bin/sh", ""),
        ("#!/usr/bin/env python3", "is a script for /usr/bin/env, which is in the image"),
        ("#!/usr/bin/perl -w", "/usr/bin/perl, which is in the image, which does not promise it"),
        ("#!/usr/bin/ruby", "/usr/bin/ruby, which is neither in the package"),
        ("#! python3", "whose interpreter is not a full path"),
        ("#!/usr/lib/demo/own", ""),
        ("#!/usr/lib/demo/data", "/usr/lib/demo/data, which is not executable"),
    ],
)
def test_scripts_need_a_promised_interpreter(bench: Bench, line: str, problem: str) -> None:
    files = {"usr/bin/demo": f"{line}\n", "usr/lib/demo/own": "x", "usr/lib/demo/data": "x"}
    folder = bench.package(files=files, executable=["usr/bin/demo", "usr/lib/demo/own"])
    if problem:
        assert problem in bench.problems(folder)
    else:
        bench.build(folder)


def test_files_of_the_image_are_not_replaced(bench: Bench) -> None:
    files = {"usr/bin/perl": "x", "usr/lib/os-release/a": "x", "usr/bin/demo": "x"}
    lines = bench.problems(bench.package(files=files)).splitlines()
    assert lines == [
        "usr/bin/perl: is also in the image gateway 1.0",
        "    move it, or leave it out with exclude",
        "usr/lib/os-release: is a directory, and a file in the image gateway 1.0",
    ]


def test_a_file_where_the_image_has_a_directory_is_refused(bench: Bench) -> None:
    problems = bench.problems(bench.package(files={"usr/lib64": "x"}))
    assert problems == "usr/lib64: is a file, and a directory in the image gateway 1.0"


def test_files_of_a_dependency_are_not_replaced(bench: Bench) -> None:
    other = bench.build(bench.package("other", files={"usr/share/both": "x"})).opk.path
    folder = bench.package(files={"usr/share/both": "x"}, more="depends: [{package: other}]\n")
    assert "usr/share/both: is also in the dependency other 1.0" in bench.problems(
        folder, against=[other]
    )


def test_the_newest_dependency_that_fits_is_taken(bench: Bench) -> None:
    old = bench.build(bench.package("other", "1.9", files={"usr/share/old": "x"})).opk.path
    bench.build(bench.package("other", "1.10", files={"usr/share/new": "x"}))
    bench.build(bench.package("other", "2.0", files={"usr/share/later": "x"}))
    files = {"usr/share/old": "", "usr/share/new": "", "usr/share/later": ""}
    folder = bench.package(files=files, more="depends: [{package: other, versions: '>=1, <2'}]\n")
    problems = bench.problems(folder, against=[old.parent])
    assert problems.startswith("usr/share/new: is also in the dependency other 1.10")
    assert "usr/share/old" not in problems
    assert "at hand: 1.9" in bench.problems(
        bench.package("third", files=files, more="depends: [{package: other, versions: '>=3'}]\n"),
        against=[old],
    )


def test_commands_must_be_there_and_executable(bench: Bench) -> None:
    more = """
        services:
          - name: main
            command: [/usr/bin/sh, /usr/lib/demo/absent]
            health: {kind: exec, command: [/usr/lib/demo/check]}
            state: true
        programs:
          - {name: show, command: [/usr/bin/perl]}
        state_version: 2
        migrations:
          - {service: main, source: 1, target: 2, command: [/usr/lib/demo/up]}
          - {service: main, source: 2, target: 1, command: [/usr/lib/demo/link]}
        overlay: [usr/share/demo]
        """
    files = {"usr/lib/demo/check": "x"}
    folder = bench.package(kind="feature", more=more, files=files)
    (folder / "tree/usr/lib/demo/link").symlink_to("check")
    lines = bench.problems(folder).splitlines()
    assert lines == [
        "health of service main: /usr/lib/demo/check is not executable",
        "migration of main from 1 to 2: /usr/lib/demo/up is neither in the package nor in its "
        "libraries nor among the image's programs",
        "migration of main from 2 to 1: /usr/lib/demo/link is not executable",
        "overlay usr/share/demo: is not in the package",
        "program show: /usr/bin/perl is in the image, which does not promise it to packages",
        "service main: /usr/lib/demo/absent does not exist in what it will see",
    ]


def test_special_files_and_rights_are_refused(bench: Bench) -> None:
    folder = bench.package(files={"usr/bin/demo": "x", "usr/bin/other": "x", "etc/demo": "x"})
    tree = folder / "tree"
    (tree / "usr/bin/demo").chmod(0o4755)
    (tree / "usr/bin/other").chmod(0o2755)
    os.mkfifo(tree / "usr/bin/pipe")
    (tree / "usr/bin/out").symlink_to("../../../etc/passwd")
    (tree / "usr/bin/absolute").symlink_to("/etc/passwd")
    (tree / "usr/bin/fine").symlink_to("/usr/bin/sh")
    problems = bench.problems(folder)
    lines = [line for line in problems.splitlines() if not line.startswith("    ")]
    assert lines == [
        "etc/demo: lies outside usr/ (from tree/)",
        "usr/bin/absolute: is a link to /etc/passwd, which leaves usr/ (from tree/)",
        "usr/bin/demo: has the set-user-id or set-group-id bit (mode 4755) (from tree/)",
        "usr/bin/other: has the set-user-id or set-group-id bit (mode 2755) (from tree/)",
        "usr/bin/out: is a link to ../../../etc/passwd, which leaves usr/ (from tree/)",
        "usr/bin/pipe: is a named pipe (from tree/)",
    ]


def test_excluding_a_path_settles_what_is_wrong_with_it(bench: Bench) -> None:
    more = "content: {exclude: [usr/bin/demo, 'etc/**']}\n"
    folder = bench.package(files={"usr/bin/demo": "", "etc/x": "", "usr/a": ""}, more=more)
    (folder / "tree/usr/bin/demo").chmod(0o4755)
    assert "usr/bin" not in bench.build(folder).opk.tree


def test_a_package_for_another_system_or_version_is_refused(bench: Bench) -> None:
    files = {"usr/share/demo/a": "a"}
    more = "systems: [{system: gateway, versions: '>=2'}]\n"
    later = bench.package(files=files, more=more)
    assert "is made for gateway >=2, and is built against 1.0" in bench.problems(later)
    other = bench.package("other", files=files, more="systems: [{system: router}]\n")
    assert "is made for router, and is built against gateway" in bench.problems(other)


def test_a_package_does_not_follow_itself(bench: Bench) -> None:
    files = {"usr/share/demo/a": "a"}
    first = bench.build(bench.package(files=files)).opk.path
    again = bench.package(files=files)
    assert "1.0 is not newer than --previous, 1.0" in bench.problems(again, previous=first)
    other = bench.package("other", "2.0", files=files)
    assert "is a version of demo, not of other" in bench.problems(other, previous=first)


def test_a_feature_in_the_view_is_none(bench: Bench, tools: Tools) -> None:
    """A feature's libraries are its own: whoever depends on it talks to it over IPC."""
    _promise(bench, tools, "libc.so.6", "libssl.so.3")
    files = {
        f"{LOADER}/libcrypto.so.3": _library(tools, "libcrypto.so.3"),
        "usr/lib/demo/serve": b"x",
    }
    feature = bench.package(
        "feature", kind="feature", more=SERVICE, files=files, executable=["usr/lib/demo/serve"]
    )
    built = bench.build(feature).opk.path
    folder = bench.package(
        files={"usr/bin/demo": _program(tools)}, more="depends: [{package: feature}]\n"
    )
    assert "needs the library libcrypto.so.3" in bench.problems(folder, against=[built])


def test_dependencies_at_hand_must_be_signed_by_somebody_known(
    bench: Bench, rogue_keys: Path
) -> None:
    rogue = Bench(bench.top / "rogue", bench.tools, rogue_keys)
    other = rogue.build(rogue.package("other", files={"usr/share/x": "x"})).opk.path
    folder = bench.package(files={"usr/share/a": "a"}, more="depends: [{package: other}]\n")
    with pytest.raises(Exception, match="by nobody known here") as caught:
        bench.build(folder, against=[other])
    assert textwrap.shorten(str(caught.value), 1000)
