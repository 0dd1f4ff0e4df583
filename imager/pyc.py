"""Compiles the Python files of a tree in advance: a read-only root cannot keep what it compiles.

Unchecked-hash .pyc files (PEP 552) carry no time and are never compared with
their source, which saves a stat of every module at boot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from imager.cache import Cache, Input
from imager.tools import Tools
from imager.tree import Tree
from recovery.reporter import Reporter

# Compiled with the tools' Python: one process, files in order, so that the bytes repeat.
# A file that does not compile (a template, another version's syntax) stays as it is.
_COMPILE = """\
import pathlib, py_compile, sys
top = pathlib.Path(sys.argv[1])
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
for source in sorted(top.rglob("*.py")):
    name = "/" + str(source.relative_to(top))
    try:
        py_compile.compile(str(source), dfile=name, doraise=True, invalidation_mode=mode)
    except py_compile.PyCompileError:
        pass
    source.unlink()
"""


def compile_python(
    tree: Tree, patterns: tuple[str, ...], cache: Cache, tools: Tools, reporter: Reporter
) -> None:
    """Adds the .pyc file of every .py file that matches.

    Says so and does nothing when the tree's Python is another version than the
    tools': the device then compiles at each start.
    """
    versions = [re.sub(r".*python", "", path) for path in tree.glob("usr/bin/python3.[0-9]*")]
    tools_version = tools.run("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    if tools_version.stdout.strip() not in versions:
        reporter.message(
            f"python: not compiled in advance, the base has {', '.join(versions) or 'none'} "
            f"and the tools have {tools_version.stdout.strip()}"
        )
        return
    sources = {path: tree.read(path) for pattern in patterns for path in tree.glob(pattern)}

    def build(directory: Path) -> None:
        compile_sources(sources, directory, tools)

    inputs: dict[str, Input] = {
        "sources": {**sources},
        "code": _COMPILE,
        "tools": tools.lock,
    }
    compiled = Tree.from_directory(cache.stage("python", inputs, build))
    for path in compiled.glob("**/*.pyc"):
        entry = compiled.get(path)
        if entry is not None:
            tree.put(path, entry)
            tree.chmod(path, 0o644)


def compile_sources(sources: Mapping[str, bytes], directory: Path, tools: Tools) -> None:
    """Writes the .pyc file of each source, by its path in the device's tree, below directory."""
    for path, content in sources.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    tools.run("python3", "-c", _COMPILE, directory, env={"PYTHONHASHSEED": "0"})
