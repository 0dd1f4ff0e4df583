"""From a base system to the tree of a product's root image. Pure: a tree in, a tree out."""

from __future__ import annotations

from collections.abc import Mapping

from imager import identity
from imager.agent import LIBRARY, install_agent
from imager.strip import strip_base
from imager.tree import Entry, Tree
from imager.units import DIRECTORY, enable_units, lean_masks, mask_units
from imager.var import move_var
from manifests.capabilities import device_policy, known_capabilities
from manifests.catalogue import Product
from manifests.convert import device_config
from manifests.package import PackageSource
from recovery.device import DEVICE_FILE, encode
from recovery.errors import ManifestError
from recovery.packages import bus, capabilities, provisions

_MOUNT_POINTS = {"dev": 0o755, "proc": 0o555, "run": 0o755, "state": 0o755,
                 "sys": 0o555, "sysroot": 0o755, "tmp": 0o1777}  # fmt: skip
PYTHON_OF_BASE = ("usr/lib/python3*/**/*.py",)
PYTHON_OF_ORBITAL = (f"{LIBRARY}/**/*.py",)


def assemble(
    product: Product, base: Tree, modules: Tree, trust: Mapping[str, bytes], built: int
) -> Tree:
    """The tree of the root image, without compiled Python files.

    modules: /usr/lib/modules. trust: whom devices trust (`imager.anchors`), by
    path. built: seconds since the epoch.

    Raises ManifestError when parts of the product do not fit together.
    """
    tree = base.copy()
    strip_base(tree, product)
    _identify(tree, product, built)
    tree.merge(modules)
    units = install_agent(tree)
    for path, data in trust.items():
        tree.file(path, data)
    _prepare_packages(tree, product)
    for package in product.packages:
        _merge_package(tree, package)
    _configure_units(tree, product, units)
    move_var(tree)
    for path, mode in _MOUNT_POINTS.items():
        tree.directory(path, mode)
    return tree


def _prepare_packages(tree: Tree, product: Product) -> None:
    """What feature packages find: named capabilities, and a bus that reads their policies."""
    policy = device_policy(known_capabilities(), product.manifest.packages.refuse)
    tree.file(str(capabilities.FILE), capabilities.encode(policy))
    tree.file(bus.INCLUDE, bus.INCLUDE_TEXT)
    groups = tree.read("etc/group").decode() if "etc/group" in tree else ""
    for path, text in provisions.files(groups).items():
        tree.file(path, text)


def _identify(tree: Tree, product: Product, built: int) -> None:
    hostname = product.manifest.hostname
    tree.file("usr/lib/os-release", identity.os_release(tree, product))
    tree.symlink("etc/os-release", "../usr/lib/os-release")
    tree.file("etc/hostname", f"{hostname}\n")
    tree.file("etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n")
    # Empty: systemd makes an identifier and keeps it in the device's /etc layer.
    tree.file("etc/machine-id", "", 0o444)
    # systemd never lets the clock be earlier than this (systemd(1)).
    tree.file("usr/lib/clock-epoch", f"{built}\n")
    config = device_config(product, built)
    tree.file(str(DEVICE_FILE.relative_to("/")), encode(config))


def _configure_units(tree: Tree, product: Product, own: list[str]) -> None:
    tree.file("usr/lib/systemd/system.conf.d/10-orbital.conf", identity.system_conf(product))
    tree.file("usr/lib/systemd/journald.conf.d/10-orbital.conf", identity.JOURNAL_CONF)
    tree.symlink(f"{DIRECTORY}/default.target", "multi-user.target")
    wanted = product.manifest.units
    enabled = {*product.enabled_units}
    # Users of system packages are made at boot; the base's exist already.
    lean = [*lean_masks(tree), *([] if _has_new_users(product) else ["systemd-sysusers.service"])]
    mask_units(tree, [unit for unit in lean if unit not in enabled])
    mask_units(tree, wanted.mask)
    enable_units(tree, _startable(tree, own), "Orbital")
    for package in product.packages:
        enable_units(tree, package.manifest.enable, f"package {package.manifest.package}")
    enable_units(tree, wanted.enable, f"system {product.manifest.system}")


def _startable(tree: Tree, units: list[str]) -> list[str]:
    """Those of Orbital's own units that say when to start; others are started by them."""
    return [unit for unit in units if b"[Install]" in tree.read(f"{DIRECTORY}/{unit}")]


def _has_new_users(product: Product) -> bool:
    return any(
        package.tree and (package.tree / "usr/lib/sysusers.d").is_dir()
        for package in product.packages
    )


def _merge_package(tree: Tree, package: PackageSource) -> None:
    """Adds a system package's files; no file of another owner may be there."""
    if package.tree is None:
        return
    name = package.manifest.package
    for path, entry in Tree.from_directory(package.tree).items():
        entry = _plain(entry)  # noqa: PLW2901
        present = tree.get(path)
        if present is None:
            tree.put(path, entry)
        elif present.kind == "directory" and entry.kind == "directory":
            continue
        elif not _same(present, entry):
            raise ManifestError(
                f"cannot merge package {name} into the image: /{path} is already there",
                details=f"it comes from {_owner(tree, path)}",
                resolution=f"rename it in {package.tree}, or use a drop-in beside the other file",
            )


def _plain(entry: Entry) -> Entry:
    """The entry with a mode that does not depend on the umask of the checkout."""
    if entry.kind == "symlink":
        return entry
    executable = entry.kind == "directory" or entry.mode & 0o100
    return Entry(entry.kind, 0o755 if executable else 0o644, content=entry.content)


def _same(one: Entry, other: Entry) -> bool:
    return (
        one.kind == other.kind
        and one.target == other.target
        and one.mode == other.mode
        and one.size == other.size
        and one.read() == other.read()
    )


def _owner(tree: Tree, path: str) -> str:
    """Which Debian package a file of the base belongs to, for errors."""
    for listing in tree.glob("var/lib/dpkg/info/*.list"):
        if f"/{path}" in tree.read(listing).decode().splitlines():
            name = listing.rpartition("/")[2].removesuffix(".list").partition(":")[0]
            return f"the Debian package {name}"
    return "the base, the imager, or a package merged before"
