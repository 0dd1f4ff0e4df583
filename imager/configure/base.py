"""Configures an unpacked base system: the steps, in the order in which they need each other."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from imager.configure.accounts import make_accounts
from imager.configure.links import enable_at_installation, link_alternatives
from imager.configure.loadercache import write_loader_cache
from imager.configure.reviewed import REVIEWED
from imager.configure.scripts import (
    alternatives,
    enabled_units,
    tmpfiles,
    unexplained,
    wants_nss,
)
from imager.configure.tmpfiles import apply_tmpfiles
from imager.deb import Deb
from imager.tree import Tree
from recovery.errors import ToolError

_NSS = "etc/nsswitch.conf"
_NSS_DATABASES = ("passwd", "group", "shadow", "gshadow")


def configure(
    tree: Tree, debs: Sequence[Deb], epoch: int, without_scripts: Collection[str] = ()
) -> None:
    """Does to the tree what the scripts of its packages would do at installation.

    epoch: seconds; when the accounts were made. without_scripts: packages of
    which only what debhelper's sections say is done, whatever else they do.
    Raises ToolError for a package whose scripts do what nobody has reviewed.
    """
    _check(debs, without_scripts)
    scripts = [script for deb in debs for script in deb.scripts.values()]
    make_accounts(tree, epoch)
    for deb in debs:
        if deb.name in REVIEWED:
            REVIEWED[deb.name](tree)
    for deb in debs:
        if any(wants_nss(script) for script in deb.scripts.values()):
            _name_service(tree, deb.name.removeprefix("libnss-"))
    link_alternatives(tree, [offer for script in scripts for offer in alternatives(script)])
    enable_at_installation(tree, [unit for script in scripts for unit in enabled_units(script)])
    apply_tmpfiles(tree, [name for script in scripts for name in tmpfiles(script)])
    write_loader_cache(tree)


def _check(debs: Sequence[Deb], without_scripts: Collection[str]) -> None:
    for deb in debs:
        if deb.name in REVIEWED or deb.name in without_scripts:
            continue
        for name, script in deb.scripts.items():
            unknown = unexplained(script)
            if unknown:
                raise ToolError(
                    f"cannot install the Debian package {deb.name}: what its {name} does is not "
                    "known to the imager, which runs no scripts of packages",
                    details=unknown[:2000],
                    resolution="read the script; if the device can do without, or a system "
                    "package of yours does it, name the package in base.debian.without_scripts",
                )


def _name_service(tree: Tree, service: str) -> None:
    """Adds a service to the databases of users and groups (nsswitch.conf(5))."""
    text = tree.read(_NSS).decode()
    for database in _NSS_DATABASES:
        text = re.sub(rf"^({database}:\s[^#\n]*)$", rf"\1 {service}", text, flags=re.MULTILINE)
    tree.file(_NSS, text)
