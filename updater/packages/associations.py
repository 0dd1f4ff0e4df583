"""Which package opens a file or an address: what activated packages declare.

    /run/orbital/packages/associations.json    {"format": 1, "associations": [...]}

Written by every activation (`recovery.packages.activate`) from the manifests of
verified images, so what a package declared is gone when the package is.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from manifests.decoding import decode_json
from recovery.errors import RefusedError, StateError
from recovery.packages.paths import Paths

FORMAT = 1
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):")
# systemd would read blanks, quotes and colons in a bind mount's path in ways of its own.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_.,+@=/-]+")


class Handler(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """kind: file or protocol. match: suffix or scheme. program: of the package."""

    kind: str
    match: str
    package: str
    program: str


class Registry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    format: int
    associations: tuple[Handler, ...] = ()


def load(root: Path = Path("/")) -> tuple[Handler, ...]:
    """What is registered now; nothing when no packages are active. Raises StateError."""
    path = Paths(root).associations
    try:
        registry = decode_json(path.read_bytes(), Registry)
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError) as error:
        raise StateError(
            f"cannot read {path}: {error}", resolution="it is made at every boot; reboot"
        ) from error
    return registry.associations if registry.format == FORMAT else ()


def handler_of(target: str, handlers: tuple[Handler, ...]) -> Handler:
    """Who opens the file or address. Pure. Raises RefusedError when nobody does.

    An address has a scheme; everything else is a file, by its longest suffix
    that somebody registered. Of several packages the first by name.
    """
    scheme = _SCHEME.match(target)
    if scheme is not None and not target.startswith("/"):
        found = [item for item in handlers if (item.kind, item.match) == ("protocol", scheme[1])]
    else:
        name = target.rpartition("/")[2]
        fitting = [i for i in handlers if i.kind == "file" and name.endswith(i.match)]
        longest = max((len(item.match) for item in fitting), default=0)
        found = [item for item in fitting if len(item.match) == longest]
    if not found:
        known = ", ".join(sorted(item.match for item in handlers))
        raise RefusedError(
            f"cannot open {target}: no installed package handles it",
            resolution=f"registered: {known}" if known else "no package has registered anything",
        )
    return min(found, key=lambda item: (item.package, item.program))


def file_to_show(target: str) -> Path:
    """The file as the program's sandbox is to see it. Raises RefusedError."""
    path = Path(target).resolve()
    if not path.is_file():
        raise RefusedError(f"cannot open {target}: no such file")
    if not _PLAIN_PATH.fullmatch(str(path)):
        raise RefusedError(
            f"cannot open {target}: its path has characters that cannot be passed on",
            resolution="rename it; letters, digits and _.,+@=- are fine",
        )
    return path
