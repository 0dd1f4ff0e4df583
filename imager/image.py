"""Builds an image: from a product and keys to a build directory. Reads as a table of contents.

A build directory, OUT/SYSTEM_VERSION_BOARD/::

    index.json      what is published: sizes and digests of everything below
    root.img        root image (erofs + verity) as a slot holds it
    boot.efi        signed UKI
    chunks/         the segments of both, compressed, named by digest
    sbom.cdx.json   software bill of materials
    device.json     what the image says of itself
    loader.efi      signed systemd-boot          } for the factory disk
    watchdog.efi    signed watchdog driver       }
    packages.lock   Debian packages with versions and hashes
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from imager import agent, assemble, identity, index, root, sbom, strip, units, var
from imager.cache import Cache, Input
from imager.debian import BaseSystem, prepare_base
from imager.efi_driver import build_watchdog_driver
from imager.index import ImageFacts, write_index
from imager.initramfs import initramfs_tree, write_initramfs
from imager.kernel import Kernel, prepare_kernel
from imager.loader import loader_source
from imager.lock import DebianPackage, format_lock
from imager.mirror import Mirror
from imager.pyc import compile_python
from imager.root import RootFacts, build_root
from imager.signing import PeSigner
from imager.tools import Tools
from imager.uki import build_uki, command_line
from manifests.catalogue import Product
from manifests.convert import device_config
from manifests.index import OsIndex
from recovery.device import encode
from recovery.errors import ManifestError, SpaceError
from recovery.reporter import Reporter


@dataclass(frozen=True)
class Workshop:
    """What every build needs besides the product.

    signer: for boot artifacts. trust_root: TUF root metadata that devices start
    from. built: SOURCE_DATE_EPOCH of the image, seconds since the epoch.
    """

    cache: Cache
    tools: Tools
    signer: PeSigner
    trust_root: bytes
    built: int
    reporter: Reporter
    mirror: Mirror | None = None
    refresh: bool = False


def build_image(product: Product, output: Path, workshop: Workshop) -> Path:
    """Builds the image and returns its build directory, output/SYSTEM_VERSION_BOARD.

    The same product, keys and Debian packages give the same bytes. The directory
    appears whole or not at all, replacing an earlier one.

    Raises ManifestError, FetchError, ToolError, TrustError or SpaceError.
    """
    base = prepare_base(product, workshop.cache, mirror=workshop.mirror, refresh=workshop.refresh)
    kernel = prepare_kernel(
        product.board, workshop.cache, workshop.tools,
        mirror=workshop.mirror, refresh=workshop.refresh,
    )  # fmt: skip
    root_directory = _root(product, base, kernel, workshop)
    initramfs = _initramfs(product, base, kernel, workshop)
    boot = _boot(product, kernel, root_directory, initramfs, workshop)
    packages = (*base.packages, *kernel.packages)
    published = _published(product, packages, (root_directory, boot), workshop)
    return _collect(output / product.name, (root_directory, boot, published))


def _root(product: Product, base: BaseSystem, kernel: Kernel, workshop: Workshop) -> Path:
    """Stage "root": root.img, root.json (its facts), os-release, device.json."""

    def build(directory: Path) -> None:
        modules = kernel.module_tree(product.kernel_modules)
        tree = assemble.assemble(product, base.tree(), modules, workshop.trust_root, workshop.built)
        # Two stages: Debian's part stays compiled while ours changes.
        for patterns in (assemble.PYTHON_OF_BASE, assemble.PYTHON_OF_ORBITAL):
            compile_python(tree, patterns, workshop.cache, workshop.tools, workshop.reporter)
        facts = build_root(
            tree,
            directory / "root.img",
            workshop.tools,
            name=product.name,
            built=workshop.built,
            compression=product.manifest.image.compression,
        )
        (directory / "root.json").write_text(json.dumps(facts.as_dict(), sort_keys=True))
        (directory / "os-release").write_bytes(tree.read("usr/lib/os-release"))
        (directory / "device.json").write_bytes(encode(device_config(product, workshop.built)))

    inputs: dict[str, Input] = {
        "product": _product_inputs(product),
        "base": workshop.cache.content(base.archive),
        "kernel": workshop.cache.content(kernel.directory),
        "tools": workshop.tools.lock,
        "trust": workshop.trust_root,
        "built": workshop.built,
        "agent": {str(path.relative_to(agent.REPOSITORY)): path for path in agent.agent_sources()},
        "code": [
            Path(str(module.__file__))
            for module in (agent, assemble, identity, root, strip, units, var)
        ],
    }
    return workshop.cache.stage("root", inputs, build)


def _initramfs(product: Product, base: BaseSystem, kernel: Kernel, workshop: Workshop) -> Path:
    """Stage "initramfs": initramfs.zst."""
    board = product.board
    hooks = {
        f"{number:02}-{path.name}": path.read_bytes()
        for number, path in enumerate(
            hook for package in product.packages for hook in package.hooks
        )
    }
    watchdog = kernel.module_files([board.watchdog.driver]) if board.watchdog else []
    modules = kernel.module_files(board.kernel.initramfs_modules)

    def build(directory: Path) -> None:
        tree = initramfs_tree(base.tree(), watchdog, modules, hooks)
        write_initramfs(tree, directory / "initramfs.zst", workshop.tools, mtime=workshop.built)

    folder = Path(__file__).parent
    inputs: dict[str, Input] = {
        "base": workshop.cache.content(base.archive),
        "modules": dict((*watchdog, *modules)),
        "order": " ".join(name for name, _ in (*watchdog, *modules)),
        "watchdog": " ".join(name for name, _ in watchdog),
        "hooks": {**hooks},
        "tools": workshop.tools.lock,
        "built": workshop.built,
        "code": [folder / "initramfs.py", folder / "initramfs" / "init"],
    }
    return workshop.cache.stage("initramfs", inputs, build) / "initramfs.zst"


def _boot(
    product: Product, kernel: Kernel, root_directory: Path, initramfs: Path, workshop: Workshop
) -> Path:
    """Stage "boot": boot.efi, loader.efi and watchdog.efi, signed."""
    board = product.board
    facts = read_facts(root_directory)
    line = command_line(
        board,
        root_hash=facts.root_hash,
        hash_offset=facts.hash_offset,
        extra=product.manifest.kernel_command_line,
    )
    os_release = (root_directory / "os-release").read_bytes()

    def build(directory: Path) -> None:
        build_uki(
            architecture=board.architecture,
            linux=kernel.image,
            initramfs=initramfs,
            command_line=line,
            os_release=os_release,
            uname=kernel.version,
            signer=workshop.signer,
            output=directory / "boot.efi",
            tools=workshop.tools,
        )
        source = workshop.tools.file(loader_source(board.architecture))
        workshop.signer.sign(source, directory / "loader.efi")
        if board.watchdog and board.watchdog.boot_stage == "efi-driver":
            build_watchdog_driver(
                board.watchdog,
                board.architecture,
                workshop.signer,
                directory / "watchdog.efi",
                workshop.tools,
            )

    folder = Path(__file__).parent
    inputs: dict[str, Input] = {
        "kernel": workshop.cache.content(kernel.image),
        "initramfs": workshop.cache.content(initramfs),
        "line": line,
        "os-release": os_release,
        "watchdog": repr(board.watchdog),
        "signer": workshop.signer.identity,
        "tools": workshop.tools.lock,
        "code": [folder / "uki.py", folder / "efi_driver.py", folder / "watchdog"],
    }
    return workshop.cache.stage("boot", inputs, build)


def _published(
    product: Product,
    debian: tuple[DebianPackage, ...],
    stages: tuple[Path, Path],
    workshop: Workshop,
) -> Path:
    """Stage "published": chunks/, index.json, sbom.cdx.json, packages.lock."""
    root_directory, boot = stages
    bill = sbom.make_sbom(product, debian, workshop.built)
    facts = ImageFacts(
        system=product.manifest.system,
        version=product.manifest.version,
        board=product.board.board,
        architecture=product.board.architecture,
        built=workshop.built,
        packages={item.manifest.package: item.manifest.version for item in product.packages},
        sbom_sha256=hashlib.sha256(bill).hexdigest(),
    )

    def build(directory: Path) -> None:
        with tempfile.TemporaryDirectory(dir=directory) as name:
            work = Path(name)
            (work / "root.img").symlink_to(root_directory / "root.img")
            (work / "boot.efi").symlink_to(boot / "boot.efi")
            write_index(work, read_facts(root_directory), facts, workshop.reporter)
            (work / "chunks").rename(directory / "chunks")
            (work / "index.json").rename(directory / "index.json")
        (directory / "sbom.cdx.json").write_bytes(bill)
        (directory / "packages.lock").write_text(format_lock(debian))

    inputs: dict[str, Input] = {
        "root": workshop.cache.content(root_directory / "root.img"),
        "boot": workshop.cache.content(boot / "boot.efi"),
        "facts": repr(facts),
        "code": Path(str(index.__file__)),
    }
    return workshop.cache.stage("published", inputs, build)


def read_facts(directory: Path) -> RootFacts:
    """What `build_root` said of the root.img beside root.json."""
    return RootFacts(**json.loads((directory / "root.json").read_text()))


def read_index(build: Path) -> OsIndex:
    """The index of a build directory. Raises ManifestError."""
    import msgspec

    try:
        return msgspec.json.decode((build / "index.json").read_bytes(), type=OsIndex)
    except (OSError, msgspec.DecodeError) as error:
        raise ManifestError(
            f"cannot use {build} as a build directory: {error}",
            resolution="name a directory made by 'orbital image build'",
        ) from error


def _product_inputs(product: Product) -> dict[str, Input]:
    """Everything the root image takes from the manifests, files of packages included."""
    found: dict[str, Input] = {
        "manifest": repr(product.manifest),
        "board": repr(product.board),
    }
    for source in product.packages:
        found[f"package {source.manifest.package}"] = source.folder
    return found


def _collect(target: Path, stages: tuple[Path, ...]) -> Path:
    """Puts the stages' files into one directory, by hard links where the file system allows."""
    wanted = {
        path.name: path
        for stage in stages
        for path in sorted(stage.iterdir())
        if path.name not in ("root.json", "os-release")
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
            fresh = Path(name) / "build"
            fresh.mkdir()
            for path in wanted.values():
                if path.is_dir():
                    shutil.copytree(path, fresh / path.name, copy_function=_link_or_copy)
                else:
                    _link_or_copy(path, fresh / path.name)
            if target.exists():
                target.rename(Path(name) / "old")
            fresh.rename(target)
    except OSError as error:
        raise SpaceError(
            f"cannot write {target}: {error.strerror}",
            resolution="make room, or choose another --output",
        ) from error
    return target


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
