"""Packages: those that are part of the image, and the kinds that are installed on a device.

A package is a folder:

    NAME/
      package.yaml      the manifest; "type" says which kind
      tree/             type system: merged into the root of the image (only usr/ and etc/);
                        others: its content when the manifest names nothing else
      initramfs/        type system: the scripts that initramfs_hooks names

Type system is here; feature, library and suite in `manifests.feature`.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from manifests.document import OneOf
from manifests.feature import FeaturePackage, LibraryPackage, SuitePackage
from manifests.feature_problems import feature_problems, library_problems, suite_problems
from manifests.fields import DebianPackage, FileName, Module, Name, Summary, Unit, Version
from manifests.health import HealthCheck, check_problems
from manifests.problem import Problem, listed

TREE_FOLDERS = ("usr", "etc")


class SystemPackage(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="system"
):
    """A feature that is merged into the image and updated with it.

    package: name of the package and of its folder.
    version: its own version.
    summary: one line for people.
    publisher: whose key signs a version that is layered over an image until the
        next image contains it; needed only for that.
    debian_packages: what it needs from Debian.
    enable: systemd units that start at boot.
    kernel_modules: kept in the image beside the board's.
    initramfs_hooks: names of scripts in initramfs/ beside the manifest; the
        initramfs runs them in this order, after the watchdog is armed and modules
        are loaded, before the root is opened. A failing hook is a failed try.
    health: checks that a boot must pass.
    """

    package: Name
    version: Version
    summary: Summary
    publisher: Name = ""
    debian_packages: tuple[DebianPackage, ...] = ()
    enable: tuple[Unit, ...] = ()
    kernel_modules: tuple[Module, ...] = ()
    initramfs_hooks: tuple[FileName, ...] = ()
    health: tuple[HealthCheck, ...] = ()


PackageManifest = SystemPackage | FeaturePackage | LibraryPackage | SuitePackage
PACKAGE: OneOf[PackageManifest] = OneOf(
    (SystemPackage, FeaturePackage, LibraryPackage, SuitePackage)
)
"""The model of a package.yaml of any type."""


@dataclass(frozen=True)
class PackageSource:
    """A package on disk: its manifest and the folder it lies in."""

    manifest: PackageManifest
    folder: Path

    @property
    def tree(self) -> Path | None:
        """The folder tree/ beside the manifest, or None when there is none."""
        tree = self.folder / "tree"
        return tree if tree.is_dir() else None


@dataclass(frozen=True)
class SystemSource(PackageSource):
    """A system package on disk."""

    manifest: SystemPackage

    @property
    def hooks(self) -> tuple[Path, ...]:
        """The scripts for the initramfs, in order."""
        return tuple(self.folder / "initramfs" / name for name in self.manifest.initramfs_hooks)


def package_problems(manifest: PackageManifest, folder: Path) -> Iterator[Problem]:
    """What is wrong with a package whose manifest has the right types."""
    if manifest.package != folder.name:
        yield Problem(
            ("package",),
            f'"{folder.name}", the name of its folder',
            f'"{manifest.package}"',
            "rename the folder or the package",
        )
    match manifest:
        case SystemPackage():
            yield from _system_problems(manifest, folder)
        case FeaturePackage():
            yield from feature_problems(manifest, folder)
        case LibraryPackage():
            yield from library_problems(manifest, folder)
        case SuitePackage():
            yield from suite_problems(manifest)


def _system_problems(manifest: SystemPackage, folder: Path) -> Iterator[Problem]:
    yield from check_problems(manifest.health)
    for number, name in enumerate(manifest.initramfs_hooks):
        hook = folder / "initramfs" / name
        if not hook.is_file():
            yield Problem(
                ("initramfs_hooks", number),
                f"a script {hook}",
                "no such file",
                "create it, or remove it from initramfs_hooks",
            )
        elif not hook.stat().st_mode & stat.S_IXUSR:
            yield Problem(
                ("initramfs_hooks", number),
                f"an executable script {hook}",
                "a file that is not executable",
                f"run: chmod +x {hook}",
            )
    yield from _tree_problems(folder / "tree")


def _tree_problems(tree: Path) -> Iterator[Problem]:
    if not tree.is_dir():
        return
    for path in sorted(tree.rglob("*")):
        inside = path.relative_to(tree)
        if inside.parts[0] not in TREE_FOLDERS:
            if len(inside.parts) == 1:
                yield Problem(
                    (),
                    f"only {listed([f'{name}/' for name in TREE_FOLDERS])} in {tree}",
                    f'"{inside}"',
                    "the image's other folders belong to the device; "
                    "create what is needed there with a file in usr/lib/tmpfiles.d",
                )
        elif (
            inside.parts[0] != "usr"
            and path.is_file()
            and not path.is_symlink()
            and path.stat().st_mode & 0o111
        ):
            yield Problem(
                (),
                f"nothing executable outside {tree}/usr",
                f'"{inside}"',
                f"move it below usr/, or run: chmod -x {path}",
            )
