"""Package publishers: who may sign which packages.

    KEYS/packages/publishers.json          this list; images carry it, too
    KEYS/packages/NAME.pem                 certificate whose key signs images of packages
    KEYS/tuf/publisher-NAME.pem            public key of the TUF role that offers packages

publishers.json: ``{"format": 1, "publishers": {"acme": {"packages": ["acme-*"]}}}``.
A pattern is the name of a package, in which ``*`` stands for any text.

The list of the key directory is what counts: `imager.repository.refresh` makes
the repository's delegations agree with it, `orbital image build` copies it.
Of a publisher who works elsewhere the directory has only the public parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from imager.keyfiles import make_certified, make_ed25519
from recovery import durable
from recovery.errors import ManifestError, RefusedError, SpaceError

FORMAT = 1
LIST = Path("packages/publishers.json")
DEVELOPMENT = "publisher"
"""The publisher of development keys, who may sign every package."""

_NAME = re.compile("[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
_PATTERN = re.compile("[a-z0-9*][a-z0-9_*-]{0,62}")

Publishers = dict[str, tuple[str, ...]]
"""Patterns of the packages that each publisher may sign, by the publisher's name."""


def role_of(publisher: str) -> str:
    """The TUF role of a publisher."""
    return f"publisher-{publisher}"


def may_sign(publishers: Publishers, publisher: str, package: str) -> bool:
    """Whether the publisher may sign packages of that name."""
    return any(fnmatchcase(package, pattern) for pattern in publishers.get(publisher, ()))


def load_publishers(keys: Path) -> Publishers | None:
    """The list of a key directory; None when it has none.

    Raises ManifestError when it is not valid.
    """
    path = keys / LIST
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        found = {
            name: tuple(str(pattern) for pattern in item["packages"])
            for name, item in document["publishers"].items()
        }
        for name, patterns in found.items():
            _check(name, patterns)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(
            f"cannot use {path}: it is not a list of publishers",
            details=str(error),
            resolution="write it with 'orbital keys publisher'",
        ) from error
    return found


def encode(publishers: Publishers) -> bytes:
    """The list as a document, the same bytes for the same list."""
    document = {
        "format": FORMAT,
        "publishers": {
            name: {"packages": list(patterns)} for name, patterns in sorted(publishers.items())
        },
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def add_publisher(keys: Path, name: str, patterns: Sequence[str]) -> None:
    """Lists a publisher for the packages that patterns name, replacing what was listed for it.

    Keys are made, unencrypted, where the directory has no public part of them:
    keys that somebody else holds are added by copying their public parts here
    first. The list is written last, so a cut leaves it as it was.

    Raises ManifestError for a name or pattern that cannot be used, RefusedError
    when another publisher has the same pattern or half of a key is there,
    SpaceError when the files cannot be written.
    """
    _check(name, patterns)
    listed = load_publishers(keys) or {}
    for other, theirs in listed.items():
        both = sorted(set(theirs) & set(patterns))
        if other != name and both:
            raise RefusedError(
                f"cannot let {name} sign {', '.join(both)}: {other} does so already",
                resolution="a package has one publisher: use another pattern, or remove "
                f"{other} with 'orbital keys publisher {other} --remove'",
            )
    try:
        _make_missing(keys, name)
        listed[name] = tuple(sorted(set(patterns)))
        durable.replace_file(keys / LIST, encode(listed))
    except OSError as error:
        raise SpaceError(
            f"cannot write the publisher {name} to {keys}: {error.strerror}",
            resolution="make room, or choose a directory that you may write to",
        ) from error


def remove_publisher(keys: Path, name: str) -> None:
    """Takes a publisher off the list; its keys stay. Raises RefusedError when it is not there."""
    listed = load_publishers(keys) or {}
    if name not in listed:
        raise RefusedError(
            f"cannot remove the publisher {name}: {keys / LIST} does not list it",
            details=f"it lists: {', '.join(sorted(listed)) or 'nobody'}",
        )
    del listed[name]
    durable.replace_file(keys / LIST, encode(listed))


def add_development_publisher(keys: Path) -> None:
    """Lists the publisher of development keys unless the directory has a list already.

    Also completes directories that were made before there were publishers.
    """
    if not (keys / LIST).exists():
        add_publisher(keys, DEVELOPMENT, ("*",))


def _make_missing(keys: Path, name: str) -> None:
    for public in (keys / "packages" / f"{name}.pem", keys / "tuf" / f"{role_of(name)}.pem"):
        if public.exists():
            continue
        if public.with_suffix(".key").exists():
            raise RefusedError(
                f"cannot make {public}: {public.stem}.key is there without it",
                details="making it was cut, or the public part was lost",
                resolution="restore the public part; or remove the key if nothing was signed",
            )
        public.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if public.parent.name == "packages":
            make_certified(public.parent, public.stem, f"Orbital publisher {name}")
        else:
            make_ed25519(public.parent, public.stem)


def _check(name: str, patterns: Sequence[str]) -> None:
    """Raises ManifestError for what cannot be a publisher or a pattern."""
    if not _NAME.fullmatch(name):
        raise ManifestError(
            f"cannot use {name!r} as the name of a publisher",
            resolution="use lower case letters, digits, - and _ (at most 63)",
        )
    if not patterns:
        raise ManifestError(
            f"cannot list the publisher {name} without packages",
            resolution="name packages or patterns, such as 'wireguard,acme-*'",
        )
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise ManifestError(
                f"cannot use {pattern!r} as a pattern of package names",
                resolution="use lower case letters, digits, -, _ and *",
            )
