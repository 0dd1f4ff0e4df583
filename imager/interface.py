"""What an image promises to feature packages, read from its tree and checked: `interface.json`."""

from __future__ import annotations

import msgspec

from imager.package.elf import MACHINES, MAGIC, ElfFacts, read_elf
from imager.tree import Tree
from manifests.architectures import DEBIAN, LOADERS
from manifests.catalogue import Product
from manifests.interface import FORMAT, OsInterface
from manifests.problem import suggestion
from recovery.errors import ManifestError

_GLIBC = "libc.so.6"
# Where Debian and others keep libraries (ld.so(8)); the first that has one counts.
_LIBRARIES = ("usr/lib/*-linux-gnu*", "usr/lib64", "usr/lib")


def os_interface(product: Product, tree: Tree) -> OsInterface:
    """The promise of an image with this tree.

    Raises ManifestError when the system declares a library or program that the
    tree does not have.
    """
    board, manifest = product.board, product.manifest
    return OsInterface(
        format=FORMAT,
        system=manifest.system,
        version=manifest.version,
        board=board.board,
        architecture=board.architecture,
        libraries={
            soname: _versions(tree, soname, product) for soname in sorted(_promised(product))
        },
        programs=tuple(
            _program(tree, path, product) for path in sorted(manifest.interface.programs)
        ),
        files=tuple(
            path
            for path, entry in tree.items()
            if path.startswith("usr/") and entry.kind != "directory"
        ),
        packages={item.manifest.package: item.manifest.version for item in product.packages},
    )


def _promised(product: Product) -> set[str]:
    """Names of libraries. Who promises glibc promises its loader, whose name differs by board."""
    libraries = set(product.manifest.interface.libraries)
    loader = LOADERS.get(product.board.architecture)
    return libraries | {loader} if loader and _GLIBC in libraries else libraries


def encode_interface(interface: OsInterface) -> bytes:
    """The document as deterministic JSON."""
    return msgspec.json.format(msgspec.json.encode(interface, order="sorted"), indent=1) + b"\n"


def _versions(tree: Tree, soname: str, product: Product) -> tuple[str, ...]:
    """The symbol versions that the library defines."""
    folders = [folder for pattern in _LIBRARIES for folder in tree.glob(pattern)]
    path = next((f"{folder}/{soname}" for folder in folders if f"{folder}/{soname}" in tree), None)
    if path is None:
        there = {name.rpartition("/")[2] for folder in folders for name in tree.glob(f"{folder}/*")}
        known = sorted(name for name in there if ".so" in name)
        raise _broken(product, f"the library {soname}", suggestion(soname, known).strip())
    content = tree.read(path)
    if not content.startswith(MAGIC):
        raise _broken(product, f"the library {soname}", f"/{path} is not an ELF file")
    facts = read_elf(content, path)
    if facts.soname != soname or not _is_for(facts, product):
        details = f"/{path} is {facts.soname or 'a library without a name'} for {facts.machine}"
        raise _broken(product, f"the library {soname}", details)
    # The first definition names the library itself; private ones change at any time.
    return tuple(sorted({name for name in facts.defines if "PRIVATE" not in name} - {soname}))


def _is_for(facts: ElfFacts, product: Product) -> bool:
    architecture = DEBIAN.get(product.board.architecture, "")
    return (facts.machine, facts.bits) == MACHINES.get(architecture)


def _program(tree: Tree, path: str, product: Product) -> str:
    """The path, when a program is there."""
    entry = tree.get(tree.resolve(path))
    if entry is None or entry.kind != "file" or not entry.mode & 0o111:
        there = "the file there cannot be executed" if entry is not None else ""
        name = path.rpartition("/")[2]
        other = tree.glob(f"usr/*bin/{name}")
        details = there or (f"it is at /{other[0]}" if other else "")
        raise _broken(product, f"the program {path}", details)
    return path


def _broken(product: Product, what: str, details: str) -> ManifestError:
    return ManifestError(
        f"cannot build {product.name}: its interface promises {what}, which the image has not",
        details=details,
        resolution=f"correct interface in the manifest of {product.manifest.system}, or add the "
        "Debian package that brings it",
    )
