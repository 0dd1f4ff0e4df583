"""Reads Debian archives (deb(5)): what a package is, its scripts, and its files as a tar."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zstandard import ZstdDecompressor, ZstdError

from imager.lock import DebianPackage
from recovery.errors import ToolError

_AR_MAGIC = b"!<arch>\n"
_SCRIPTS = ("preinst", "postinst")


@dataclass(frozen=True)
class Deb:
    """One archive. replaces: packages whose files it may take over.

    scripts: the maintainer scripts that run at installation, by name.
    files: an uncompressed tar with what it installs.
    """

    package: DebianPackage
    replaces: frozenset[str]
    scripts: Mapping[str, str]
    files: Path

    @property
    def name(self) -> str:
        """The package's name."""
        return self.package.name


def read_deb(archive: bytes, directory: Path) -> Deb:
    """Reads an archive; its files go to directory/NAME.tar.

    Raises ToolError when it is damaged.
    """
    with _damaged():
        parts = dict(members(archive))
        control = _control(_member(parts, "control.tar"))
        fields = parse_fields(control["control"])
        package = _package(archive, fields)
        output = directory / f"{package.name}.tar"
        output.write_bytes(_member(parts, "data.tar"))
    scripts = {name: control[name] for name in _SCRIPTS if name in control}
    return Deb(package, _names(fields.get("replaces", "")), scripts, output)


def read_package(archive: bytes) -> DebianPackage:
    """What the archive is. Raises ToolError when it is damaged."""
    with _damaged():
        control = _control(_member(dict(members(archive)), "control.tar"))
        return _package(archive, parse_fields(control["control"]))


def parse_fields(text: str) -> dict[str, str]:
    """Fields of the first stanza of a control file (deb-control(5)), names in lower case."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line[:1].isspace():
            fields[name] += f"\n{line.strip()}"
        elif not line:
            break
        else:
            name, _, value = line.partition(":")
            name = name.lower()
            fields[name] = value.strip()
    return fields


def _package(archive: bytes, fields: Mapping[str, str]) -> DebianPackage:
    return DebianPackage(
        name=fields["package"],
        version=fields["version"],
        architecture=fields["architecture"],
        source=fields.get("source", fields["package"]).partition(" ")[0],
        sha256=hashlib.sha256(archive).hexdigest(),
    )


@contextmanager
def _damaged() -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error,
            gzip.BadGzipFile, ZstdError) as error:  # fmt: skip
        raise ToolError(
            "cannot read a Debian package: it is damaged", details=str(error)
        ) from error


def _names(relation: str) -> frozenset[str]:
    """Package names of a relation such as "mount (<< 2.38), bsdutils:any"."""
    words = (item.strip().partition(" ")[0] for item in relation.split(","))
    return frozenset(word.partition(":")[0] for word in words if word)


def members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Members of an ar archive (ar(5)): 60-byte headers, data padded to 2 bytes.

    Raises ValueError when it is none.
    """
    if not archive.startswith(_AR_MAGIC):
        raise ValueError("not an ar archive")
    at = len(_AR_MAGIC)
    while at + 60 <= len(archive):
        header = archive[at : at + 60]
        size = int(header[48:58])
        yield header[:16].decode().rstrip(" /"), archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def _member(members: Mapping[str, bytes], name: str) -> bytes:
    """The decompressed member, by its name without what says how it is compressed."""
    for full, data in members.items():
        if not full.startswith(name):
            continue
        match full.removeprefix(name):
            case ".xz" | ".lzma":
                return lzma.decompress(data)
            case ".zst":
                return ZstdDecompressor().decompressobj().decompress(data)
            case ".gz":
                return gzip.decompress(data)
            case "":
                return data
            case other:
                raise ValueError(f"{name} is compressed as {other}")
    raise ValueError(f"it has no {name}")


def _control(archive: bytes) -> dict[str, str]:
    """The control files by name, as text."""
    found: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is not None:
                name = member.name.removeprefix("./")
                found[name] = stream.read().decode("utf-8", "surrogateescape")
    return found
