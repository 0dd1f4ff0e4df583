"""Links in a tree: alternatives (update-alternatives(1)) and units enabled at installation."""

from __future__ import annotations

from collections.abc import Iterable

from imager.configure.scripts import Alternative, EnabledUnit
from imager.tree import Tree
from imager.units import LINK_FOLDERS, install_section, template_of

_ALTERNATIVES = "etc/alternatives"


def link_alternatives(tree: Tree, offers: Iterable[Alternative]) -> None:
    """Of each name, links the offer of highest priority whose file is there, with its slaves."""
    best: dict[str, Alternative] = {}
    for offer in offers:
        known = best.get(offer.name)
        if _is_there(tree, offer.path) and (known is None or offer.priority > known.priority):
            best[offer.name] = offer
    for offer in best.values():
        for link, name, path in ((offer.link, offer.name, offer.path), *offer.slaves):
            if _is_there(tree, path):
                _link(tree, link, f"/{_ALTERNATIVES}/{name}")
                tree.symlink(f"{_ALTERNATIVES}/{name}", path)


def enable_at_installation(tree: Tree, units: Iterable[EnabledUnit]) -> None:
    """Makes the links of /etc that `systemctl enable` makes. Units that are not there are left."""
    for unit in units:
        manager = "user" if unit.user else "system"
        names = (unit.name, template_of(unit.name))
        path = next((p for p in (f"usr/lib/systemd/{manager}/{n}" for n in names) if p in tree), "")
        if not path:
            continue
        for key, words in install_section(tree.read(path).decode()):
            for word in words:
                if key in LINK_FOLDERS:
                    folder = f"etc/systemd/{manager}/{word}.{LINK_FOLDERS[key]}"
                    tree.symlink(f"{folder}/{unit.name}", f"/{path}")
                elif key == "Alias":
                    tree.symlink(f"etc/systemd/{manager}/{word}", f"/{path}")
                elif key == "Also":
                    enable_at_installation(tree, [EnabledUnit(word, unit.user)])


def _is_there(tree: Tree, path: str) -> bool:
    return tree.resolve(path) in tree


def _link(tree: Tree, path: str, target: str) -> None:
    parent, _, name = path.rpartition("/")
    tree.symlink(f"{tree.resolve(parent)}/{name}", target)
