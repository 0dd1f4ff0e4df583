"""Which publisher may sign which package: the image's own word, checked at every activation.

    /usr/lib/orbital/trust/publishers/PUBLISHER.der    X.509, also in the kernel's keyring
    /usr/lib/orbital/trust/publishers.json             {"format": 1, "publishers":
                                                       {"acme": {"packages": ["acme-*"]}}}

The kernel says that one of the publishers signed; this says which, and
whether the package's name is theirs.
"""

from __future__ import annotations

from pathlib import Path

from recovery import codec
from recovery.errors import ManifestError, TrustError
from recovery.packages import signer
from recovery.value import Value

DIRECTORY = Path("usr/lib/orbital/trust")
FORMAT = 1


class Publisher(Value):
    """One who may sign packages whose name matches one of the patterns ("*" is any run)."""

    name: str
    patterns: tuple[str, ...]
    signer: signer.Signer

    def may_sign(self, package: str) -> bool:
        """Whether the name is theirs."""
        return any(matches(pattern, package) for pattern in self.patterns)


class Publishers(Value):
    """All publishers that this image trusts."""

    publishers: tuple[Publisher, ...] = ()

    def check(self, signature: bytes, package: str) -> str:
        """The publisher who made the signature, if the package's name is theirs.

        Raises TrustError.
        """
        try:
            found = signer.of_signature(signature)
        except ValueError as error:
            raise TrustError(
                f"cannot trust package {package}: its signature cannot be read: {error}"
            ) from error
        publisher = next((item for item in self.publishers if item.signer == found), None)
        if publisher is None:
            raise TrustError(
                f"cannot trust package {package}: this system does not know who signed it",
                resolution="a system image with this publisher's certificate is needed",
            )
        if not publisher.may_sign(package):
            raise TrustError(
                f"cannot trust package {package}: {publisher.name} may not sign that name",
                details=f"their names: {', '.join(publisher.patterns) or 'none'}",
            )
        return publisher.name


def certificates(root: Path) -> tuple[Path, ...]:
    """The certificates in the image, sorted."""
    return tuple(sorted((root / DIRECTORY / "publishers").glob("*.der")))


def load(root: Path) -> Publishers:
    """The publishers of the running image; none when it trusts none. Raises ManifestError."""
    path = root / DIRECTORY / "publishers.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Publishers()
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}") from error
    try:
        return Publishers(
            tuple(
                Publisher(name, patterns, signer.of_certificate(_certificate(root, name)))
                for name, patterns in sorted(decode(data).items())
            )
        )
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"cannot use {path}: {error}",
            resolution="this file is made by 'orbital image build'; rebuild the image",
        ) from error


def decode(data: bytes) -> dict[str, tuple[str, ...]]:
    """The patterns of each publisher. Raises ValueError."""
    document = codec.parse_object(data)
    if document.get("format") != FORMAT or set(document) != {"format", "publishers"}:
        raise ValueError(f"format is not {FORMAT}")
    found = document["publishers"]
    if not isinstance(found, dict):
        raise ValueError("publishers is not an object")
    read = codec.several(codec.text)
    patterns: dict[str, tuple[str, ...]] = {}
    for name, entry in found.items():
        if "/" in name or name.startswith(".") or not isinstance(entry, dict):
            raise ValueError(f"publisher {name!r} is not valid")
        if set(entry) != {"packages"}:
            raise ValueError(f"publisher {name!r} has other keys than packages")
        patterns[name] = read(entry["packages"])
    return patterns


def matches(pattern: str, name: str) -> bool:
    """Whether the name matches; "*" stands for any run of characters, nothing else is special.

    A pattern with other wildcards of fnmatch(3) matches nothing: better
    refused than read in another way than the repository's delegation does.
    """
    if any(character in "?[]" for character in pattern):
        return False
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    last = rest.pop()
    if not name.startswith(first) or not name.endswith(last):
        return False
    middle, end = len(first), len(name) - len(last)
    for part in rest:
        at = name.find(part, middle, max(end, 0))
        if at < 0:
            return False
        middle = at + len(part)
    return middle <= end


def _certificate(root: Path, name: str) -> bytes:
    return (root / DIRECTORY / "publishers" / f"{name}.der").read_bytes()
