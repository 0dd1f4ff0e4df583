"""Makes Debian archives for tests, byte by byte as deb(5) describes them."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Mapping

from imager.tree import Entry


def make_deb(
    name: str,
    files: Mapping[str, Entry] | None = None,
    *,
    fields: str = "",
    **scripts: str,
) -> bytes:
    """An archive. files: entries by path, as in the package. scripts: postinst="...", ..."""
    control = f"Package: {name}\nVersion: 1.0-1\nArchitecture: arm64\n{fields}"
    texts = {"control": control, **scripts}
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": _tar({path: Entry("file", content=text.encode())
                                for path, text in texts.items()}),
        "data.tar.xz": _tar(files or {}),
    }  # fmt: skip
    archive = b"!<arch>\n"
    for member, data in members.items():
        content = lzma.compress(data) if member.endswith(".xz") else data
        header = f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        archive += header.encode() + content + b"\n" * (len(content) % 2)
    return archive


def _tar(files: Mapping[str, Entry]) -> bytes:
    output = io.BytesIO()
    kinds = {"directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "file": tarfile.REGTYPE}
    with tarfile.open(fileobj=output, mode="w") as tar:
        for path, entry in files.items():
            member = tarfile.TarInfo(f"./{path}")
            member.type, member.mode, member.linkname = kinds[entry.kind], entry.mode, entry.target
            member.uid, member.gid = entry.uid, entry.gid
            content = entry.read() if entry.kind == "file" else b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return output.getvalue()
