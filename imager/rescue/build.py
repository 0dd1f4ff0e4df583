"""Builds the rescue system of a board: stages "rescue-root" (erofs) and "rescue" (its partition).

A system of its own, on a Debian base of its own whatever the product's is, from the same kernel
and with the same agent; one boot artifact that holds everything. Only the factory writes it.
"""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imager import agent, archive, pyc, tree
from imager import elf as elf_module
from imager import initramfs as initramfs_module
from imager.anchors import trust_files
from imager.archive import write_tar
from imager.assemble import PYTHON_OF_BASE, PYTHON_OF_ORBITAL
from imager.cache import Input
from imager.command_line import rescue_command_line
from imager.debian import BaseSystem, debian_base
from imager.firmware import kind
from imager.firmware.choose import firmware_of
from imager.firmware.kind import Ingredients
from imager.initramfs import initramfs_tree, write_initramfs
from imager.kernel import Kernel
from imager.lock import DebianPackage
from imager.rescue import root
from imager.tools import Tools
from manifests.architectures import DEBIAN
from manifests.catalogue import Product
from manifests.convert import device_config
from recovery.device import encode
from recovery.errors import ToolError

if TYPE_CHECKING:
    from imager.image import Workshop

# What the initramfs needs to mount its own root.
_OWN_MODULES = ("loop", "erofs")
# Small, and quick to make: level 15 takes five times as long for 2 % less. Not "fragments":
# mkfs.erofs 1.8.6 then writes zeros for some small files of a tar.
_COMPRESSION = ("-zzstd,level=9", "-C131072")


@dataclass(frozen=True)
class RescueSystem:
    """image: of the partition rescue. packages: Debian packages of which it has a part."""

    image: Path
    packages: tuple[DebianPackage, ...]


def rescue_base(product: Product, workshop: Workshop) -> BaseSystem:
    """The Debian base that the rescue system is taken from. Raises as `imager.debian`."""
    policy = product.manifest.rescue
    wanted = {*root.PACKAGES, *policy.packages, *(root.LOGIN_PACKAGES if policy.login else ())}
    return debian_base(
        tuple(sorted(wanted)),
        DEBIAN[product.board.architecture],
        workshop.cache,
        mirror=workshop.mirror,
        refresh=workshop.refresh,
    )


def build_rescue(
    product: Product,
    base: BaseSystem,
    kernel: Kernel,
    loader: Path,
    workshop: Workshop,
    *,
    firmware_files: Mapping[str, Path],
) -> RescueSystem:
    """The board's rescue system, from the cache or made now.

    loader: what `Firmware.build_loader` made. firmware_files: by name, as a slot's boot partition
    has them. Raises ManifestError when the partition is too small, ToolError.
    """
    board = product.board
    firmware = firmware_of(board)
    root_stage = _root(product, base, kernel, loader, workshop)
    erofs = root_stage / "root.erofs"
    watchdog = kernel.module_files([board.watchdog.driver]) if board.watchdog else []
    modules = kernel.module_files(_OWN_MODULES)
    line = rescue_command_line(board, product.manifest.kernel_command_line)
    release = _os_release(product)

    def build(directory: Path) -> None:
        content = initramfs_tree(base.tree(), watchdog, modules, rescue=erofs)
        with tempfile.TemporaryDirectory(prefix="orbital-rescue.") as scratch:
            initramfs, artifact = Path(scratch, "initramfs"), Path(scratch, "artifact")
            write_initramfs(content, initramfs, mtime=workshop.built)
            ingredients = Ingredients(
                board=board,
                linux=kernel.image,
                initramfs=initramfs,
                command_line=line,
                os_release=release.encode(),
                uname=kernel.version,
                built=workshop.built,
                device_tree=kernel.device_tree(board.kernel.device_tree),
                firmware_files=firmware_files,
                packed=True,
            )
            firmware.build_artifact(ingredients, artifact, workshop.signer, workshop.tools)
            firmware.write_rescue(
                board, artifact, directory / "rescue.img", workshop.tools, built=workshop.built
            )

    inputs: dict[str, Input] = {
        "board": repr(board),
        "root": erofs,
        "base": base.archive,
        "kernel": kernel.image,
        "modules": dict((*watchdog, *modules)),
        "order": " ".join(name for name, _ in (*watchdog, *modules)),
        "line": line,
        "os-release": release,
        "device-tree": kernel.device_tree(board.kernel.device_tree) or "",
        "firmware-files": dict(firmware_files),
        "built": workshop.built,
        "tools": workshop.tools.lock,
        "code": [
            Path(__file__),
            *(Path(str(module.__file__)) for module in (archive, elf_module, kind)),
            Path(str(initramfs_module.__file__)),
            Path(str(initramfs_module.__file__)).with_suffix(""),
        ],
        **{f"artifact-{key}": value for key, value in _artifact_inputs(product, workshop).items()},
    }
    image = workshop.cache.stage("rescue", inputs, build) / "rescue.img"
    names = set((root_stage / "packages").read_text().split())
    taken = [item for item in base.packages if item.name in names]
    return RescueSystem(image, (*taken, *kernel.packages))


def _artifact_inputs(product: Product, workshop: Workshop) -> dict[str, Input]:
    firmware = firmware_of(product.board)
    return {
        **firmware.artifact_inputs(workshop.signer),
        "loader": dict(firmware.loader_inputs(product.board, workshop.signer)),
    }


def _root(
    product: Product, base: BaseSystem, kernel: Kernel, loader: Path, workshop: Workshop
) -> Path:
    """Stage "rescue-root": root.erofs; packages, names of the Debian packages it is made of."""
    board, policy = product.board, product.manifest.rescue
    device = encode(device_config(product, workshop.built))
    trust = trust_files(workshop.trust_root, workshop.publishers)
    watchdog = [board.watchdog.driver] if board.watchdog else []
    # All that the board has, loaded at once: nothing here loads a module when a device appears.
    modules = kernel.module_files(
        [*watchdog, *board.kernel.initramfs_modules, *board.kernel.modules]
    )

    def build(directory: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="orbital-rescue.") as scratch:
            copies = firmware_of(board).loader_copies(
                board, loader, Path(scratch), workshop.tools, built=workshop.built
            )
            content = root.rescue_tree(
                base.tree(),
                device=device,
                os_release=_os_release(product),
                trust=trust,
                modules=modules,
                loader=copies,
                login=policy.login,
                extra=policy.packages,
            )
            names = root.packages_in(content, base.tree())
            (directory / "packages").write_text("".join(f"{name}\n" for name in names))
            for patterns in (PYTHON_OF_BASE, PYTHON_OF_ORBITAL):
                pyc.compile_python(
                    content, patterns, workshop.cache, workshop.tools, workshop.reporter
                )
            root.without_sources(content)
            _write(content, directory / "root.erofs", product.name, workshop)

    inputs: dict[str, Input] = {
        "device": device,
        "os-release": _os_release(product),
        "packages": " ".join(policy.packages),
        "base": base.archive,
        "modules": dict(modules),
        "order": " ".join(name for name, _ in modules),
        "trust": {**trust},
        "loader": loader,
        "built": workshop.built,
        "tools": workshop.tools.lock,
        "agent": {str(path.relative_to(agent.REPOSITORY)): path for path in agent.agent_sources()},
        "code": [Path(__file__), *root.code(), *_code()],
    }
    return workshop.cache.stage("rescue-root", inputs, build)


def _code() -> Sequence[Path]:
    modules = (agent, archive, elf_module, pyc, tree)
    return [Path(str(module.__file__)) for module in modules]


def _os_release(product: Product) -> str:
    """os-release(5) of the rescue system: which product's, which version's factory made it."""
    manifest = product.manifest
    return (
        f'NAME="Orbital rescue"\nID=orbital-rescue\nVERSION_ID="{manifest.version}"\n'
        f'PRETTY_NAME="Orbital rescue for {manifest.system} {manifest.version}"\n'
        f"IMAGE_ID={manifest.system}-rescue\nIMAGE_VERSION={manifest.version}\n"
    )


def _write(content: tree.Tree, output: Path, name: str, workshop: Workshop) -> None:
    """The erofs; the same tree, name and time give the same bytes."""
    packed = output.with_suffix(".tar")
    write_tar(content, packed, workshop.built)
    digest = hashlib.sha256(f"orbital rescue {name}".encode()).digest()
    workshop.tools.run(
        "mkfs.erofs", "--quiet", f"-T{workshop.built}", f"-U{uuid.UUID(bytes=digest[:16])}",
        "-x-1", "--workers=1", *_COMPRESSION, "--tar=f", output, packed,
    )  # fmt: skip
    packed.unlink()
    check_written(content, output, workshop.tools)


def check_written(content: tree.Tree, image: Path, tools: Tools) -> None:
    """Reads every file back: nothing verifies this image again before it is needed most.

    Raises ToolError for a file that is not as in the tree.
    """
    with tempfile.TemporaryDirectory(prefix="orbital-rescue.", dir=image.parent) as scratch:
        tools.run("fsck.erofs", f"--extract={scratch}", "--no-preserve", "--overwrite", image)
        for path, entry in content.items():
            if entry.kind == "file" and Path(scratch, path).read_bytes() != entry.read():
                raise ToolError(
                    f"cannot use the root of the rescue system: mkfs.erofs wrote /{path} wrongly",
                    resolution="use another version of erofs-utils, or other options",
                )
