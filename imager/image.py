"""Builds an image: from a product and keys to a build directory. Reads as a table of contents.

Every step is a stage of the cache (`imager.cache`): its inputs name all it
depends on, so a step whose inputs did not change is not done again. What a
build directory holds is described in `imager.builddir`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imager import (
    agent,
    anchors,
    archive,
    assemble,
    identity,
    interface,
    pyc,
    root,
    strip,
    tree,
    units,
    var,
)
from imager import initramfs as initramfs_module
from imager.anchors import trust_files
from imager.builddir import Published, open_build, write_build
from imager.cache import Cache, Input
from imager.command_line import command_line
from imager.debian import BaseSystem, prepare_base
from imager.firmware.choose import firmware_of
from imager.firmware.kind import Ingredients
from imager.firmware_files import FirmwareFiles, prepare_firmware_files
from imager.initramfs import initramfs_tree, write_initramfs
from imager.interface import encode_interface, os_interface
from imager.kernel import Kernel, prepare_kernel
from imager.lock import DebianPackage, parse_lock
from imager.mirror import Mirror
from imager.rescue.build import RescueSystem, build_rescue, rescue_base
from imager.restart import build_restart, restart_source
from imager.root import RootFacts, build_root
from imager.sbom import make_sbom
from imager.segments import LEVEL, cut
from imager.signing import PeSigner
from imager.tools import Tools
from manifests import capabilities, convert
from manifests.board_problems import Contents, size_problems
from manifests.capabilities import known_capabilities
from manifests.catalogue import Product
from manifests.document import read_document, refuse
from manifests.index import OsIndex, Stream
from recovery.device import encode
from recovery.reporter import Reporter


@dataclass(frozen=True)
class Workshop:
    """What every build needs besides the product.

    signer: for boot artifacts. trust_root: TUF root metadata that devices start
    from. built: SOURCE_DATE_EPOCH of the image, seconds since the epoch.
    publishers: packages/ of the key directory: whose feature packages devices
    accept; None for nobody's. level: zstd level of the published segments. rescue: the
    rescue system, which only a factory disk needs, is built too.
    """

    cache: Cache
    tools: Tools
    signer: PeSigner
    trust_root: bytes
    built: int
    reporter: Reporter
    mirror: Mirror | None = None
    refresh: bool = False
    level: int = LEVEL
    publishers: Path | None = None
    rescue: bool = True


def build_image(product: Product, output: Path, workshop: Workshop) -> Path:
    """Builds the image and returns its build directory, output/SYSTEM_VERSION_BOARD.

    The same product, keys and Debian packages give the same bytes. The directory
    appears whole or not at all, replacing an earlier one.

    Raises ManifestError, FetchError, ToolError, TrustError or SpaceError.
    """
    kernel = prepare_kernel(
        product.board,
        workshop.cache,
        workshop.tools,
        mirror=workshop.mirror,
        refresh=workshop.refresh,
    )
    files = prepare_firmware_files(
        product.board, workshop.cache, mirror=workshop.mirror, refresh=workshop.refresh
    )
    base = prepare_base(product, workshop.cache, mirror=workshop.mirror, refresh=workshop.refresh)
    root_stage = _root(product, base, kernel, workshop)
    initramfs = _initramfs(product, base, kernel, workshop)
    artifact = _boot_artifact(product, kernel, files, (root_stage, initramfs), workshop)
    loader = _loader(product, workshop)
    _check_sizes(product, root_stage, (artifact, loader))
    rescue = _rescue(product, kernel, files, loader, workshop)
    fetched = [*kernel.packages, *files.packages]
    sbom = _sbom(product, base, fetched, rescue, workshop)
    image = rescue.image if rescue else None
    return _publish(product, (root_stage, artifact, loader, image), sbom, output, workshop)


def read_index(build: Path) -> OsIndex:
    """The index of a build directory. Raises ManifestError when it is not complete."""
    return open_build(build).index


def _root(product: Product, base: BaseSystem, kernel: Kernel, workshop: Workshop) -> Path:
    """Stage "root": root.img, root.json (its facts), os-release, device.json, interface.json."""
    trust = trust_files(workshop.trust_root, workshop.publishers)

    def build(directory: Path) -> None:
        modules = kernel.module_tree([*product.kernel_modules, *_boot_modules(product)])
        content = assemble.assemble(product, base.tree(), modules, trust, workshop.built)
        # Two stages: Debian's part stays compiled while ours changes.
        for patterns in (assemble.PYTHON_OF_BASE, assemble.PYTHON_OF_ORBITAL):
            pyc.compile_python(content, patterns, workshop.cache, workshop.tools, workshop.reporter)
        facts = build_root(
            content,
            directory / "root.img",
            workshop.tools,
            name=product.name,
            built=workshop.built,
            compression=product.manifest.image.compression,
        )
        (directory / "root.json").write_text(json.dumps(facts.as_dict(), sort_keys=True))
        (directory / "os-release").write_bytes(content.read("usr/lib/os-release"))
        device = encode(convert.device_config(product, workshop.built))
        (directory / "device.json").write_bytes(device)
        promise = encode_interface(os_interface(product, content))
        (directory / "interface.json").write_bytes(promise)

    inputs: dict[str, Input] = {
        "manifest": repr(product.manifest),
        "board": repr(product.board),
        "packages": {source.manifest.package: source.folder for source in product.packages},
        "base": base.archive,
        "kernel": kernel.directory,
        "tools": workshop.tools.lock,
        "trust": {**trust},
        "capabilities": repr(known_capabilities()),
        "built": workshop.built,
        "agent": {str(path.relative_to(agent.REPOSITORY)): path for path in agent.agent_sources()},
        "code": [
            Path(str(module.__file__))
            for module in (agent, anchors, archive, assemble, capabilities, convert, identity,
                           interface, pyc, root, strip, tree, units, var)
        ],
    }  # fmt: skip
    return workshop.cache.stage("root", inputs, build)


def _initramfs(product: Product, base: BaseSystem, kernel: Kernel, workshop: Workshop) -> Path:
    """Stage "initramfs": the archive."""
    board = product.board
    scripts = [hook for package in product.packages for hook in package.hooks]
    hooks = {f"{number:02}-{path.name}": path.read_bytes() for number, path in enumerate(scripts)}
    watchdog = kernel.module_files([board.watchdog.driver]) if board.watchdog else []
    modules = kernel.module_files(board.kernel.initramfs_modules)

    def build(directory: Path) -> None:
        program = build_restart(board, workshop.tools)
        content = initramfs_tree(base.tree(), watchdog, modules, hooks, restart=program)
        write_initramfs(content, directory / "initramfs.cpio", mtime=workshop.built)

    code = Path(str(initramfs_module.__file__))
    inputs: dict[str, Input] = {
        "base": base.archive,
        "modules": dict((*watchdog, *modules)),
        "order": " ".join(name for name, _ in (*watchdog, *modules)),
        "watchdog": " ".join(name for name, _ in watchdog),
        "hooks": {**hooks},
        "restart": restart_source(board),
        "tools": workshop.tools.lock,
        "built": workshop.built,
        "code": [
            code,
            code.with_suffix(""),
            code.with_name("elf.py"),
            code.with_name("restart.py"),
            Path(str(archive.__file__)),
        ],
    }
    return workshop.cache.stage("initramfs", inputs, build) / "initramfs.cpio"


def _boot_artifact(
    product: Product,
    kernel: Kernel,
    files: FirmwareFiles,
    stages: tuple[Path, Path],
    workshop: Workshop,
) -> Path:
    """Stage "boot": boot.img, from kernel, initramfs and command line."""
    root_stage, initramfs = stages
    board, facts = product.board, read_facts(root_stage)
    firmware = firmware_of(board)
    ingredients = Ingredients(
        board=board,
        linux=kernel.image,
        initramfs=initramfs,
        command_line=command_line(
            board,
            root_hash=facts.root_hash,
            hash_offset=facts.hash_offset,
            extra=product.manifest.kernel_command_line,
        ),
        os_release=(root_stage / "os-release").read_bytes(),
        uname=kernel.version,
        built=workshop.built,
        device_tree=kernel.device_tree(board.kernel.device_tree),
        firmware_files=files.files,
    )

    def build(directory: Path) -> None:
        firmware.build_artifact(
            ingredients, directory / "boot.img", workshop.signer, workshop.tools
        )

    inputs: dict[str, Input] = {
        "board": repr(board),
        "kernel": kernel.image,
        "initramfs": initramfs,
        "line": ingredients.command_line,
        "os-release": ingredients.os_release,
        "built": workshop.built,
        "device-tree": ingredients.device_tree or "",
        "firmware-files": dict(files.files),
        "tools": workshop.tools.lock,
        **firmware.artifact_inputs(workshop.signer),
    }
    return workshop.cache.stage("boot", inputs, build)


def _loader(product: Product, workshop: Workshop) -> Path:
    """Stage "loader": what the firmware starts before the slots."""
    board = product.board
    firmware = firmware_of(board)

    def build(directory: Path) -> None:
        firmware.build_loader(board, directory, workshop.signer, workshop.tools)

    inputs: dict[str, Input] = {
        "kind": board.firmware.kind,
        "tools": workshop.tools.lock,
        **firmware.loader_inputs(board, workshop.signer),
    }
    return workshop.cache.stage("loader", inputs, build)


def _rescue(
    product: Product, kernel: Kernel, files: FirmwareFiles, loader: Path, workshop: Workshop
) -> RescueSystem | None:
    """The rescue system; None for a board without one, or when nobody wants it."""
    if product.board.rescue_partition is None or not workshop.rescue:
        return None
    base = rescue_base(product, workshop)
    return build_rescue(product, base, kernel, loader, workshop, firmware_files=files.files)


def _sbom(
    product: Product,
    base: BaseSystem,
    boot: Sequence[DebianPackage],
    rescue: RescueSystem | None,
    workshop: Workshop,
) -> bytes:
    """The bill of materials, from what was fetched for root image, boot partition and rescue."""
    tools_packages = parse_lock(workshop.tools.lock.read_text())
    from_tools = firmware_of(product.board).packages
    firmware = [item for item in tools_packages if item.name in from_tools]
    return make_sbom(
        product,
        root=strip.kept_packages(base.packages, product),
        boot=[*boot, *firmware],
        rescue=[*rescue.packages, *firmware] if rescue else (),
        built=workshop.built,
    )


def _publish(
    product: Product,
    stages: tuple[Path, Path, Path, Path | None],
    sbom: bytes,
    output: Path,
    workshop: Workshop,
) -> Path:
    """Segments (stages "segments") and index; then the build directory, in one step."""
    root_stage, artifact, loader, rescue = stages
    facts = read_facts(root_stage)
    # The hash tree behind the data is not published: devices compute it.
    root_stream, root_chunks = _cut(root_stage / "root.img", workshop, facts.hash_offset)
    boot_stream, boot_chunks = _cut(artifact / "boot.img", workshop)
    published = Published(
        product=product,
        boot_kind=firmware_of(product.board).artifact_kind,
        facts=facts,
        root=root_stream,
        boot=boot_stream,
        sbom=sbom,
        built=workshop.built,
    )
    files = {
        "root.img": root_stage / "root.img",
        "device.json": root_stage / "device.json",
        "interface.json": root_stage / "interface.json",
        "boot.img": artifact / "boot.img",
        **{f"loader/{path.name}": path for path in sorted(loader.iterdir())},
        **({"rescue.img": rescue} if rescue else {}),
    }
    workshop.reporter.stage("output")
    chunks = [root_chunks, boot_chunks]
    return write_build(output, product.name, published=published, files=files, chunks=chunks).path


def _cut(path: Path, workshop: Workshop, size: int | None = None) -> tuple[Stream, Path]:
    return cut(path, workshop.cache, workshop.tools, size=size, level=workshop.level)


def read_facts(directory: Path) -> RootFacts:
    """What `build_root` said of the root.img beside root.json."""
    return RootFacts(**json.loads((directory / "root.json").read_text()))


def _boot_modules(product: Product) -> list[str]:
    """Modules of the initramfs: in the image too, for what is unloaded or loaded later."""
    board = product.board
    return [*board.kernel.initramfs_modules, *([board.watchdog.driver] if board.watchdog else [])]


def _check_sizes(product: Product, root_stage: Path, boot_stages: tuple[Path, Path]) -> None:
    """The image must fit its board: now, not when a device refuses it."""
    artifact, loader = boot_stages
    beside = sum(path.stat().st_size for path in loader.iterdir())
    contents = Contents(
        name=product.name,
        root=(root_stage / "root.img").stat().st_size,
        boot=(artifact / "boot.img").stat().st_size,
        room=firmware_of(product.board).room_for_artifact(product.board, beside),
    )
    problems = list(size_problems(product.board, contents))
    if problems:
        board_file = product.files[1]
        refuse(str(board_file), read_document(board_file), problems)
