"""Reads what maintainer scripts (deb-preinst(5), deb-postinst(5)) ask for. Pure.

Most of them are written by debhelper, in marked sections of known content; what
such a section stands for is done by `imager.configure`. What is left after that
a person must have read once: see `imager.configure.reviewed`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

# Sections that stand for nothing but what this package does, or for nothing at a first
# installation (removal of old configuration files), or for something no device needs
# (menus; links of SysV scripts; compiling Python, which `imager.pyc` does).
_KNOWN_SECTIONS = frozenset(
    (
        "dh_installalternatives", "dh_installdeb", "dh_installinit", "dh_installmenu",
        "dh_installnss", "dh_installsystemd", "dh_installsystemduser", "dh_installsysusers",
        "dh_installtmpfiles", "dh_python3",
    )
)  # fmt: skip
_SECTION = re.compile(
    r"^# Automatically added by (\w+)[^\n]*\n(.*?)^# End automatically added section\n?",
    re.DOTALL | re.MULTILINE,
)
_NOTHING = re.compile(
    r"set -eu?|exit 0|:|export [A-Z_]+=\S*|(\.|source) /usr/share/debconf/confmodule|db_stop"
    r"|dpkg-maintscript-helper (rm_conffile|mv_conffile|symlink_to_dir|dir_to_symlink) .*"
)
_ENABLED = re.compile(
    r"deb-systemd-helper --quiet (--user )?was-enabled '([^']+)' ?; then\n"
    r"(?:\s*#[^\n]*\n)*\s*deb-systemd-helper (?:--user )?enable '\2'"
)
_TMPFILES = re.compile(r"systemd-tmpfiles .*--create ([^|&;\n]+)")


@dataclass(frozen=True)
class Alternative:
    """One way to provide a name (update-alternatives(1)): link leads to path, as do the slaves.

    slaves: (link, name, path) of what comes with it.
    """

    link: str
    name: str
    path: str
    priority: int
    slaves: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class EnabledUnit:
    """A unit that installation enables. user: of users' service managers."""

    name: str
    user: bool = False


def enabled_units(script: str) -> list[EnabledUnit]:
    """Units that a first installation enables, in order."""
    found: list[EnabledUnit] = []
    for name, section in _sections(script):
        # With this guard the section only keeps what an administrator chose.
        if name.startswith("dh_installsystemd") and "debian-installed" not in section:
            found += [EnabledUnit(match[2], bool(match[1])) for match in _ENABLED.finditer(section)]
    return found


def alternatives(script: str) -> list[Alternative]:
    """Every alternative that the script installs; wherever it does."""
    found: list[Alternative] = []
    for line in script.replace("\\\n", " ").splitlines():
        command = line.strip()
        if not command.startswith("update-alternatives "):
            continue
        words = shlex.split(command.partition("||")[0], comments=True)
        if "--install" in words:
            at = words.index("--install")
            link, name, path, priority = words[at + 1 : at + 5]
            slaves = tuple(
                (words[number + 1], words[number + 2], words[number + 3])
                for number, word in enumerate(words)
                if word == "--slave"
            )
            found.append(Alternative(link, name, path, int(priority), slaves))
    return found


def tmpfiles(script: str) -> list[str]:
    """Names of tmpfiles.d files that installation applies at once."""
    return [name for match in _TMPFILES.finditer(script) for name in match[1].split()]


def wants_nss(script: str) -> bool:
    """Whether the package puts itself into nsswitch.conf."""
    return any(name == "dh_installnss" for name, _ in _sections(script))


def unexplained(script: str) -> str:
    """What the script does beside sections that are understood, "" when that is nothing."""

    def known(match: re.Match[str]) -> str:
        return "" if match[1] in _KNOWN_SECTIONS else match[0]

    text = _SECTION.sub(known, script)
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(
        line for line in lines if line and line[0] != "#" and not _NOTHING.fullmatch(line)
    )


def _sections(script: str) -> Iterator[tuple[str, str]]:
    for match in _SECTION.finditer(script):
        yield match[1], match[2]
