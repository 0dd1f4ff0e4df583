"""Which Debian mirror packages come from: the machine's own, never one written here.

Read from apt's sources (deb822 and one-line format, see sources.list(5)), so
that a machine behind a local mirror uses it without being told. Overridden by
``ORBITAL_MIRROR="URL"`` or ``ORBITAL_MIRROR="URL SECURITY_URL"``; "-" as the second
is for a mirror whose security archive cannot be used: images then lack its updates.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from recovery.errors import ToolError

APT_DIRECTORY = Path("/etc/apt")
RELEASE = "trixie"
# Suites that only Debian's own archive publishes; others are third parties'.
_DEBIAN_SUITES = frozenset(
    ["bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"]
)
_ONE_LINE = re.compile(r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+\S")


@dataclass(frozen=True)
class Mirror:
    """Where Debian's main archive and its security archive are. security may be empty.

    components: sections of the archive, separated by blanks.
    """

    main: str
    security: str = ""
    components: str = "main"

    def sources(self, release: str = RELEASE) -> list[str]:
        """One-line apt sources of the release from this mirror."""
        lines = [f"deb {self.main} {release} {self.components}"]
        if self.security:
            lines.append(f"deb {self.security} {release}-security {self.components}")
        return lines


def find_mirror(
    apt_directory: Path = APT_DIRECTORY, environment: Mapping[str, str] = os.environ
) -> Mirror:
    """The mirror that builds on this machine use.

    Raises ToolError when neither ORBITAL_MIRROR nor apt's sources name one.
    """
    words = environment.get("ORBITAL_MIRROR", "").split()
    configured = _configured(apt_directory)
    if words:
        security = words[1] if len(words) > 1 else (configured.security if configured else "")
        return Mirror(words[0], "" if security == "-" else security)
    if configured is None:
        raise ToolError(
            "cannot find a Debian mirror",
            details=f"no source of Debian packages is configured in {apt_directory}",
            resolution='set ORBITAL_MIRROR="URL SECURITY_URL", or add Debian to apt\'s sources',
        )
    return configured


def _configured(apt_directory: Path) -> Mirror | None:
    main = security = ""
    for uri, suite in _sources(apt_directory):
        if suite in _DEBIAN_SUITES:
            main = main or uri
        elif suite.removesuffix("-security") in _DEBIAN_SUITES and suite.endswith("-security"):
            security = security or uri
    return Mirror(main, security) if main else None


def _sources(apt_directory: Path) -> Iterator[tuple[str, str]]:
    """Every (URI, suite) of apt's enabled binary sources, in apt's order."""
    parts = apt_directory / "sources.list.d"
    files = [apt_directory / "sources.list", *sorted(parts.glob("*"))]
    for path in files:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".list":
            yield from _one_line_sources(text.splitlines())
        elif path.suffix == ".sources":
            yield from _deb822_sources(text)


def _one_line_sources(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        found = _ONE_LINE.match(line.strip())
        if found:
            yield found[1].rstrip("/"), found[2].rstrip("/")


def _deb822_sources(text: str) -> Iterator[tuple[str, str]]:
    # Comment lines may stand inside a field, so they go first (deb822(5)).
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes") == "no":
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield uri.rstrip("/"), suite.rstrip("/")
