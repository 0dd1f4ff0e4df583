"""Python wheels as content: unpacked and checked against their RECORD, no code of them run.

Format: packaging.python.org, "Binary distribution format" (1.0), "Entry points
specification", "Platform compatibility tags".
"""

from __future__ import annotations

import base64
import binascii
import configparser
import csv
import hashlib
import re
import stat
import zipfile
import zlib
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path

from imager.package.collect import Collector, find_kind
from imager.tree import Entry
from recovery.errors import ManifestError, ToolError

LIBRARY = "usr/lib/python3/dist-packages"
PROGRAMS = "usr/bin"
INTERPRETER = "/usr/bin/python3"
_UNPACKED_AT_MOST = 1 << 30
_MEMBERS_AT_MOST = 50_000
_HASHES = ("sha256", "sha384", "sha512")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "riscv64": "riscv64", "armhf": "armv7l"}
_SCRIPT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_IDENTIFIERS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_SCRIPT = """\
#!{interpreter}
import sys
from {module} import {first}
if __name__ == "__main__":
    sys.exit({whole}())
"""


@dataclass(frozen=True)
class Wheel:
    """What a wheel says of itself. sha256: of the file, hex."""

    name: str
    version: str
    tags: tuple[str, ...]
    sha256: str


def collect_wheel(path: Path, architecture: str, python: str) -> tuple[Wheel, Collector]:
    """A wheel's files as they lie in a package.

    architecture: Debian's name of the device's. python: version of its Python,
    "3.13", or "" when the image has none.

    Raises ManifestError when there is no such file, ToolError when it is not a wheel.
    """
    if not path.is_file():
        raise ManifestError(
            f"cannot take content from {path}: there is no such file",
            resolution="paths in package.yaml are relative to its folder",
        )
    collector = Collector(path.name)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_directory(archive, path.stat().st_size)
            files = _files(archive, collector)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError,
            OSError, UnicodeDecodeError) as error:  # fmt: skip
        # OSError: a place before the file's beginning, which a directory can name.
        raise ToolError(
            f"cannot unpack {path.name}: not a sound zip", details=str(error)
        ) from error
    top = _info_folder(files, path)
    wheel = _describe(files, top, path)
    if not any(_fits(tag, architecture, python) for tag in wheel.tags):
        collector.find(
            f"{wheel.name} {wheel.version}",
            f"is made for {', '.join(wheel.tags)}, not for Python {python or '(none)'} "
            f"on {architecture}",
        )
    _check_record(files, top, collector)
    for name, (content, mode) in files.items():
        _place(name, content, mode, top, collector)
    for name, text in _console_scripts(files.get(f"{top}/entry_points.txt"), collector):
        collector.add(f"{PROGRAMS}/{name}", Entry("file", 0o755, content=text.encode()))
    return wheel, collector


_Files = dict[str, tuple[bytes, int]]


def _check_directory(archive: zipfile.ZipFile, size: int) -> None:
    """Raises BadZipFile when the directory names what a file of size bytes cannot hold."""
    for member in archive.infolist():
        if not member.filename or member.compress_size > size:
            raise zipfile.BadZipFile(f"the member {member.filename!r} is not in it")


def _files(archive: zipfile.ZipFile, collector: Collector) -> _Files:
    """Content and mode of every file, by name; names are judged when they are placed."""
    members = archive.infolist()
    if len(members) > _MEMBERS_AT_MOST or sum(m.file_size for m in members) > _UNPACKED_AT_MOST:
        raise ToolError(f"cannot use {collector.label}: it unpacks to more than a wheel may")
    files: _Files = {}
    for member in members:
        mode = member.external_attr >> 16
        if member.is_dir():
            continue
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            find_kind(collector, member.filename, "link or special file in a wheel")
        elif member.filename in files:
            collector.find(member.filename, "appears twice")
        else:
            files[member.filename] = (archive.read(member), stat.S_IMODE(mode))
    return files


def _info_folder(files: _Files, path: Path) -> str:
    folders = {name.split("/")[0] for name in files if name.split("/")[0].endswith(".dist-info")}
    if len(folders) != 1:
        raise ToolError(f"cannot use {path.name}: a wheel has one .dist-info folder")
    return folders.pop()


def _describe(files: _Files, top: str, path: Path) -> Wheel:
    try:
        wheel = message_from_string(files[f"{top}/WHEEL"][0].decode())
        metadata = message_from_string(files[f"{top}/METADATA"][0].decode())
        version = str(wheel["Wheel-Version"])
        name, own = str(metadata["Name"] or ""), str(metadata["Version"] or "")
        if version.split(".", maxsplit=1)[0] != "1" or not name or not own:
            raise ValueError(f"Wheel-Version {version}, Name {name}, Version {own}")
    except (KeyError, ValueError) as error:
        raise ToolError(
            f"cannot use {path.name}: it is not a wheel of version 1", details=str(error)
        ) from error
    tags = tuple(str(tag) for tag in wheel.get_all("Tag", []))
    return Wheel(name, own, tags, hashlib.sha256(path.read_bytes()).hexdigest())


def _fits(tag: str, architecture: str, python: str) -> bool:
    words = tag.split("-")
    if len(words) != 3 or not python:
        return False
    minor = int(python.split(".")[1])
    interpreter, abi, system = words
    if interpreter in ("py3", f"cp3{minor}"):
        same = abi in ("none", "abi3", f"cp3{minor}")
    else:
        older = re.fullmatch(r"(?:py|cp)3([0-9]+)", interpreter)
        same = bool(older and int(older[1]) <= minor and abi in ("none", "abi3"))
    machine = _MACHINES.get(architecture, architecture)
    linux = system.startswith(("linux_", "manylinux")) and system.endswith(f"_{machine}")
    return same and (system == "any" or linux)


def _check_record(files: _Files, top: str, collector: Collector) -> None:
    """Every file is in RECORD with its digest and size, and nothing else is."""
    record = f"{top}/RECORD"
    if record not in files:
        collector.find(record, "is missing")
        return
    unsigned = {record, f"{record}.jws", f"{record}.p7s"}
    listed: set[str] = set()
    try:
        rows = list(csv.reader(files[record][0].decode().splitlines()))
    except (csv.Error, UnicodeDecodeError) as error:
        collector.find(record, f"is not valid: {error}")
        return
    for row in rows:
        if len(row) != 3:
            collector.find(record, f"has a line of {len(row)} fields")
            continue
        name, digest, size = row
        listed.add(name)
        if name in unsigned:
            continue
        if name not in files:
            collector.find(name, "is in RECORD, not in the wheel")
        elif not _is(files[name][0], digest, size):
            collector.find(name, "differs from what RECORD says")
    for name in sorted(set(files) - listed - unsigned):
        collector.find(name, "is not in RECORD")


def _is(content: bytes, digest: str, size: str) -> bool:
    algorithm, _, value = digest.partition("=")
    if algorithm not in _HASHES or (size and size != str(len(content))):
        return False
    try:
        wanted = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except (binascii.Error, ValueError):
        return False
    return hashlib.new(algorithm, content).digest() == wanted


def _place(name: str, content: bytes, mode: int, top: str, collector: Collector) -> None:
    data = f"{top.removesuffix('.dist-info')}.data/"
    if not name.startswith(data):
        collector.add(f"{LIBRARY}/{name}", Entry("file", _mode(mode), content=content))
        return
    scheme, _, rest = name.removeprefix(data).partition("/")
    if scheme in ("purelib", "platlib"):
        collector.add(f"{LIBRARY}/{rest}", Entry("file", _mode(mode), content=content))
    elif scheme == "scripts":
        if content.startswith(b"#!python"):
            # "#!python" and "#!pythonw" stand for the interpreter of the installation.
            content = f"#!{INTERPRETER}\n".encode() + content.partition(b"\n")[2]
        collector.add(f"{PROGRAMS}/{rest}", Entry("file", 0o755, content=content))
    elif scheme == "data":
        collector.add(f"usr/{rest}", Entry("file", _mode(mode), content=content))
    else:
        collector.find(name, f"belongs to the scheme {scheme!r}, which packages do not have")


def _mode(mode: int) -> int:
    # Many tools that make wheels record no mode at all.
    return mode or 0o644


def _console_scripts(
    entry_points: tuple[bytes, int] | None, collector: Collector
) -> list[tuple[str, str]]:
    """Name and text of each command that entry_points.txt declares."""
    if entry_points is None:
        return []
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(entry_points[0].decode())
    except (configparser.Error, UnicodeDecodeError) as error:
        collector.find("entry_points.txt", f"is not valid: {error}")
        return []
    scripts: list[tuple[str, str]] = []
    if not parser.has_section("console_scripts"):
        return scripts
    for name, reference in sorted(parser.items("console_scripts")):
        module, _, attribute = reference.split("[")[0].strip().partition(":")
        module, attribute = module.strip(), attribute.strip()
        if not (
            _SCRIPT_NAME.fullmatch(name)
            and _IDENTIFIERS.fullmatch(module)
            and _IDENTIFIERS.fullmatch(attribute)
        ):
            collector.find("entry_points.txt", f"has the unusable command {name!r} = {reference!r}")
            continue
        first = attribute.split(".")[0]
        text = _SCRIPT.format(interpreter=INTERPRETER, module=module, first=first, whole=attribute)
        scripts.append((name, text))
    return scripts
