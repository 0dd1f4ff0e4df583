"""Orbital's own programs in the image: /usr/lib/orbital, /usr/bin/orbital and their units."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from imager.tree import Tree
from recovery.errors import ToolError
from recovery.packages import bus

LIBRARY = "usr/lib/orbital"
REPOSITORY = Path(__file__).resolve().parent.parent
_OURS = ("orbital", "updater", "delta", "manifests", "recovery")
# Whole folders, since parts are loaded by name; of the command line the device's groups.
# What else is needed follows from their imports.
_FOLDERS = ("recovery", "updater", "delta")
_MODULES = (
    "orbital.main",
    "orbital.system",
    "orbital.package",
    "orbital.audit",
    "orbital.rescue",
)
_UNIT_FOLDERS = ("recovery/units", "updater/units", "imager/device/units")
_LAUNCHERS = ("recovery/launch", "imager/device/launch")
# Isolated: neither the environment nor the current folder decides what is imported.
_COMMAND = """\
#!/usr/bin/python3 -IB
import sys

sys.path.insert(0, "/usr/lib/orbital")
from orbital.main import main

sys.exit(main())
"""


def agent_files(repository: Path = REPOSITORY) -> dict[str, Path]:
    """Every Python file of ours that the device runs: path in the repository → file."""
    todo = [
        _module(path.relative_to(repository))
        for folder in _FOLDERS
        for path in sorted((repository / folder).rglob("*.py"))
    ]
    todo += [name for name in _MODULES if _file(repository, name) is not None]
    found: dict[str, Path] = {}
    while todo:
        name = todo.pop()
        path = _file(repository, name)
        if path is None or str(path.relative_to(repository)) in found:
            continue
        found[str(path.relative_to(repository))] = path
        todo.extend(_imports(path))
        # Importing a.b also runs a/__init__.py.
        if "." in name:
            todo.append(name.rpartition(".")[0])
    return dict(sorted(found.items()))


def agent_sources(repository: Path = REPOSITORY) -> list[Path]:
    """All files that `install_agent` reads: inputs of the stage that calls it."""
    extra = [
        path
        for folder in (*_UNIT_FOLDERS, *_LAUNCHERS)
        for path in sorted((repository / folder).glob("*"))
        if path.is_file()
    ]
    return [*agent_files(repository).values(), *extra]


def install_agent(tree: Tree, repository: Path = REPOSITORY) -> list[str]:
    """Puts the programs into the tree; returns the names of their units.

    Raises ToolError when the checkout has no launcher for the boot.
    """
    for relative, path in agent_files(repository).items():
        tree.file(f"{LIBRARY}/{relative}", path.read_bytes())
    launchers = [
        path
        for folder in _LAUNCHERS
        for path in sorted((repository / folder).glob("*"))
        if path.is_file()
    ]
    if not any(path.name == "early" for path in launchers):
        raise ToolError(
            f"cannot install Orbital's programs: {repository / _LAUNCHERS[0]} has no early",
            resolution="use a complete checkout of Orbital",
        )
    for path in launchers:
        tree.file(f"{LIBRARY}/{path.name}", path.read_bytes(), 0o755)
    tree.file("usr/bin/orbital", _COMMAND, 0o755)
    tree.file(bus.INCLUDE, bus.INCLUDE_TEXT)
    units: list[str] = []
    for folder in _UNIT_FOLDERS:
        for path in sorted((repository / folder).glob("*.*")):
            tree.file(f"usr/lib/systemd/system/{path.name}", path.read_bytes())
            units.append(path.name)
    return units


def _imports(path: Path) -> Iterator[str]:
    """Modules of ours that the file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in _OURS)


def _module(relative: Path) -> str:
    name = ".".join(relative.with_suffix("").parts)
    return name.removesuffix(".__init__")


def _file(repository: Path, module: str) -> Path | None:
    base = repository / module.replace(".", "/")
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None
