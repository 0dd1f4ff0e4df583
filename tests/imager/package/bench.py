"""A workbench for packages: folders as authors write them, built against a small image."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imager.cache import Cache
from imager.package.build import BuiltPackage, PackageWorkshop, build_package, read_available
from imager.package.opk import read_opk
from imager.package.signing import load_package_signer
from imager.tools import Tools
from manifests.catalogue import load_package
from manifests.interface import OsInterface
from recovery.errors import RefusedError

INTERFACE = OsInterface(
    format=1,
    system="gateway",
    version="1.0",
    board="qemu-x86_64",
    architecture="x86_64",
    libraries={},
    programs=("/usr/bin/sh", "/usr/bin/python3"),
    files=(
        "usr/bin/env", "usr/bin/perl", "usr/bin/python3", "usr/bin/python3.13", "usr/bin/sh",
        "usr/lib/os-release", "usr/lib64/ld-linux-x86-64.so.2",
    ),
    packages={},
)  # fmt: skip
SERVICE = """
services:
  - name: main
    command: [/usr/lib/demo/serve]
    capabilities: [net.server]
    health: {kind: tcp, port: 8080}
"""


@dataclass
class Bench:
    """Makes packages in a folder of its own; errors come out as `problems`."""

    top: Path
    tools: Tools
    keys: Path
    interface: OsInterface = INTERFACE
    built: int = 1_700_000_000
    cache: Cache = field(init=False)

    def __post_init__(self) -> None:
        self.cache = Cache(self.top / "cache")

    def package(
        self,
        name: str = "demo",
        version: str = "1.0",
        *,
        kind: str = "library",
        more: str = "",
        files: Mapping[str, str | bytes] | None = None,
        executable: Sequence[str] = (),
    ) -> Path:
        """A package's folder. files: below tree/."""
        folder = self.top / "packages" / f"{name}-{version}" / name
        folder.mkdir(parents=True, exist_ok=True)
        text = f"""\
            package: {name}
            version: "{version}"
            type: {kind}
            summary: A package of the tests
            publisher: publisher
            """
        (folder / "package.yaml").write_text(textwrap.dedent(text) + textwrap.dedent(more))
        for path, content in (files or {}).items():
            target = folder / "tree" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
            target.chmod(0o755 if path in executable else 0o644)
        return folder

    def build(
        self,
        folder: Path,
        *,
        against: Sequence[Path] = (),
        previous: Path | None = None,
        output: Path | None = None,
    ) -> BuiltPackage:
        """Builds the package in a folder. Raises what building raises."""
        source = load_package(folder / "package.yaml")
        workshop = PackageWorkshop(
            cache=self.cache,
            tools=self.tools,
            interface=self.interface,
            signer=load_package_signer(self.keys, "publisher", source.manifest.package),
            keys=self.keys,
            architecture="amd64",
            built=self.built,
            available=read_available(against, self.keys),
            previous=read_opk(previous, self.keys) if previous else None,
        )
        return build_package(source, output or self.top / "out", workshop)

    def problems(
        self, folder: Path, *, against: Sequence[Path] = (), previous: Path | None = None
    ) -> str:
        """Why the package is refused. Fails when it is not, or when something was written."""
        output = self.top / "refused"
        try:
            self.build(folder, against=against, previous=previous, output=output)
        except RefusedError as error:
            assert not output.exists()
            return error.details
        raise AssertionError(f"{folder} was built")


def make_tar(path: Path, members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """An uncompressed tar with exactly these members."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def tar_file(name: str, content: bytes = b"x", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    """A regular file for `make_tar`."""
    member = tarfile.TarInfo(name)
    member.mode = mode
    return member, content


def tar_special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """A link or special file for `make_tar`."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def make_wheel(
    path: Path,
    files: Mapping[str, str],
    *,
    tag: str = "py3-none-any",
    unrecorded: Mapping[str, str] | None = None,
    record: Mapping[str, str] | None = None,
) -> Path:
    """A wheel named demo 2.5. unrecorded: files not in RECORD. record: lines that replace the
    right ones, by name."""
    info = "demo-2.5.dist-info"
    contents = {
        **files,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: demo\nVersion: 2.5\n",
    }
    lines = []
    for name, content in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest())
        line = f"{name},sha256={digest.decode().rstrip('=')},{len(content.encode())}"
        lines.append((record or {}).get(name, line))
    contents.update(unrecorded or {})
    contents[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path
