"""Checks that what is to run can run: ELF files, scripts, commands of the manifest. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from imager.package.elf import MACHINES, MAGIC, TRIPLETS, ElfFacts, read_elf
from imager.package.findings import Finding
from imager.package.view import View
from imager.tree import Entry, Slice, Tree
from recovery.errors import ToolError
from recovery.packages import model

_HEAD = 256
_LISTED = 6


def has_machine_code(tree: Tree) -> bool:
    """Whether any file is ELF."""
    return any(_head(entry).startswith(MAGIC) for _, entry in tree.items() if entry.kind == "file")


def program_findings(tree: Tree, view: View, architecture: str) -> Iterator[Finding]:
    """What is wrong with the ELF files and the scripts of the package."""
    linker = _Linker(view, architecture)
    for path, entry in tree.items():
        if entry.kind != "file":
            continue
        head = _head(entry)
        if head.startswith(MAGIC):
            yield from linker.check(path, entry)
        elif head.startswith(b"#!") and entry.mode & 0o111:
            yield from _check_script(path, head, view)


def command_findings(manifest: model.Package, view: View) -> Iterator[Finding]:
    """What is wrong with the commands that the manifest names."""
    commands: list[tuple[str, tuple[str, ...]]] = []
    for service in manifest.services:
        commands.append((f"service {service.name}", service.command))
        if service.check.command:
            commands.append((f"health of service {service.name}", service.check.command))
    commands += [(f"program {item.name}", item.command) for item in manifest.programs]
    commands += [
        (f"migration of {item.service} from {item.source} to {item.target}", item.command)
        for item in manifest.migrations
    ]
    for where, command in commands:
        program, *arguments = command
        problem = view.cannot_run(program)
        if problem:
            yield Finding(where, f"{program} {problem}")
        for argument in arguments:
            # Mostly a script for the interpreter before it.
            if argument.startswith("/usr/") and not view.exists(argument):
                yield Finding(where, f"{argument} does not exist in what it will see")


class _Linker:
    """Finds libraries as the dynamic loader will (ld.so(8))."""

    def __init__(self, view: View, architecture: str) -> None:
        self._view = view
        self._architecture = architecture
        triplet = TRIPLETS.get(architecture, "")
        self._folders = (f"usr/lib/{triplet}", "usr/lib") if triplet else ("usr/lib",)
        self._facts: dict[str, ElfFacts] = {}

    def check(self, path: str, entry: Entry) -> Iterator[Finding]:
        try:
            facts = self._read(path, entry)
        except ToolError as error:
            yield Finding(path, f"cannot be checked: {error.details}")
            return
        machine, bits = MACHINES.get(self._architecture, ("", 0))
        if (facts.machine, facts.bits, facts.little) != (machine, bits, True):
            yield Finding(
                path,
                f"is machine code for {facts.machine.removeprefix('EM_')} ({facts.bits} bits), "
                f"not for {self._architecture}",
            )
            return
        if facts.interpreter and not self._view.exists(facts.interpreter):
            yield Finding(path, f"needs the loader {facts.interpreter}, which is nowhere")
        for library in facts.needed:
            yield from self._check_library(path, facts, library)

    def _check_library(self, path: str, facts: ElfFacts, library: str) -> Iterator[Finding]:
        wanted = set(facts.wants.get(library, ()))
        offered, owner = self._offer(path, facts, library)
        if offered is None:
            yield Finding(path, f"needs the library {library}, {self._why_absent(library)}")
            return
        missing = sorted(wanted - offered)
        if missing:
            more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
            yield Finding(
                path,
                f"needs {', '.join(missing[:_LISTED])}{more} of {library}, "
                f"which {owner} does not define",
            )

    def _offer(self, path: str, facts: ElfFacts, library: str) -> tuple[set[str] | None, str]:
        """Symbol versions of the library that the loader will take, and whose it is."""
        origin = posixpath.dirname(path)
        for folder in facts.search:
            place = folder.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", f"/{origin}")
            found = self._file(posixpath.join(place, library))
            if found is not None:
                return found
        # The image's loader cache comes before the default folders.
        promised = self._view.interface.libraries.get(library)
        if promised is not None:
            return set(promised), "the image"
        for folder in self._folders:
            found = self._file(posixpath.join(folder, library))
            if found is not None:
                return found
        return None, ""

    def _file(self, path: str) -> tuple[set[str], str] | None:
        entry = self._view.file(path)
        if entry is None or not _head(entry).startswith(MAGIC):
            return None
        place = self._view.resolve(path)
        try:
            return set(self._read(place, entry).defines), place
        except ToolError:
            return None

    def _why_absent(self, library: str) -> str:
        for layer in self._view.layers:
            for path, _ in layer.tree.items():
                if path.rpartition("/")[2] == library:
                    return f"which the loader does not look for in {path} of {layer.label}"
        if any(path.rpartition("/")[2] == library for path in self._view.image):
            return "which is in the image, but not promised to packages"
        return "which neither the image's interface nor the package nor its libraries provide"

    def _read(self, path: str, entry: Entry) -> ElfFacts:
        if path not in self._facts:
            self._facts[path] = read_elf(entry.read(), path)
        return self._facts[path]


def _check_script(path: str, head: bytes, view: View) -> Iterator[Finding]:
    """The interpreter line as the kernel reads it (execve(2)): a path and at most one argument."""
    words = head[2:].partition(b"\n")[0].decode("utf-8", "replace").split()
    if not words or not words[0].startswith("/"):
        yield Finding(path, "is a script whose interpreter is not a full path")
        return
    interpreters = [words[0]]
    if posixpath.basename(words[0]) == "env":
        names = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        interpreters += [_in_path(name, view) for name in names[:1]]
    for interpreter in interpreters:
        problem = view.cannot_run(interpreter)
        if problem:
            yield Finding(path, f"is a script for {interpreter}, which {problem}")


def _in_path(name: str, view: View) -> str:
    places = [f"/usr/{folder}/{name}" for folder in ("sbin", "bin")]
    return next((place for place in places if not view.cannot_run(place)), places[-1])


def _head(entry: Entry) -> bytes:
    content = entry.content
    if isinstance(content, bytes):
        return content[:_HEAD]
    return Slice(content.path, content.offset, min(content.size, _HEAD)).read()
