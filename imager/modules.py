"""Which kernel modules a set of modules needs, from depmod's files. Pure.

The files (modules.dep, modules.softdep, modules.alias, modules.builtin) are
described in modules.dep(5) and depmod.d(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recovery.errors import ManifestError


@dataclass(frozen=True)
class ModuleIndex:
    """What depmod found.

    files: path (below the modules directory) of each module, by name.
    requires: names each module needs loaded before, nearest last (depmod's order).
    before: soft dependencies, names or aliases, wanted before.
    aliases: modules that offer each name (patterns match devices and are left out).
    builtin: modules in the kernel itself.
    """

    files: Mapping[str, str]
    requires: Mapping[str, tuple[str, ...]]
    before: Mapping[str, tuple[str, ...]]
    aliases: Mapping[str, tuple[str, ...]]
    builtin: frozenset[str]

    def closure(self, names: Iterable[str]) -> list[str]:
        """The named modules and all they need, in an order in which they can be loaded.

        Raises ManifestError for a name that the kernel does not have.
        """
        order: list[str] = []
        for name in names:
            self._add(canonical(name), order, required=True)
        return order

    def _add(self, name: str, order: list[str], *, required: bool) -> None:
        if name in order or name in self.builtin:
            return
        if name not in self.files:
            if not required:
                # A soft dependency may name an alias that several modules offer.
                for module in self.aliases.get(name, ()):
                    self._add(module, order, required=False)
                return
            near = [known for known in self.files if name in known or known in name]
            raise ManifestError(
                f"cannot find the kernel module {name}",
                details=f"similar names: {', '.join(sorted(near)[:5])}" if near else "",
                resolution="correct the name in the board or package manifest",
            )
        for soft in self.before.get(name, ()):
            self._add(soft, order, required=False)
        # depmod lists the nearest dependency first, the deepest last.
        for needed in reversed(self.requires.get(name, ())):
            self._add(needed, order, required=True)
        order.append(name)


def canonical(name: str) -> str:
    """A module's name as the kernel spells it: dm-verity is dm_verity."""
    return name.replace("-", "_")


def module_name(path: str) -> str:
    """Name of the module in a file such as kernel/drivers/md/dm-verity.ko.xz."""
    return canonical(path.rpartition("/")[2].partition(".ko")[0])


def parse_index(read: Mapping[str, str]) -> ModuleIndex:
    """The index from the texts of modules.dep, .softdep, .alias and .builtin, by file name."""
    files: dict[str, str] = {}
    requires: dict[str, tuple[str, ...]] = {}
    for line in read["modules.dep"].splitlines():
        path, _, needed = line.partition(":")
        name = module_name(path)
        files[name] = path
        requires[name] = tuple(module_name(word) for word in needed.split())
    before: dict[str, tuple[str, ...]] = {}
    for line in read["modules.softdep"].splitlines():
        words = line.split()
        if len(words) > 2 and words[0] == "softdep":
            name = canonical(words[1])
            before[name] = before.get(name, ()) + _before(words[2:])
    aliases: dict[str, tuple[str, ...]] = {}
    for line in read["modules.alias"].splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "alias" and "*" not in words[1]:
            alias = canonical(words[1])
            aliases[alias] = (*aliases.get(alias, ()), canonical(words[2]))
    builtin = frozenset(module_name(line) for line in read["modules.builtin"].splitlines())
    return ModuleIndex(files, requires, before, aliases, builtin)


def _before(words: list[str]) -> tuple[str, ...]:
    wanted: list[str] = []
    section = ""
    for word in words:
        if word.endswith(":"):
            section = word
        elif section == "pre:":
            wanted.append(canonical(word))
    return tuple(wanted)
