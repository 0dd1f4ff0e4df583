"""Packages for scenarios: those of qemu/packages and manifests/packages, and changed copies.

A copy differs in what a publisher would have changed by mistake or for a new
version: keys of the manifest. It is then built, signed and published like any other.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from manifests.catalogue import find, load_package
from manifests.package import PackageSource

PACKAGES = Path(__file__).parent / "packages"


def package_folder(name: str) -> Path:
    """The folder of a package: one of qemu/packages, else of the shipped ones."""
    own = PACKAGES / name
    return own if own.is_dir() else find("package", name).parent


def variant(
    name: str,
    output: Path,
    *,
    version: str | None = None,
    folder: Path | None = None,
    changes: Mapping[str, object] | None = None,
) -> PackageSource:
    """A package as another version, with top-level keys of its manifest replaced.

    output: where the copy is made, in a folder of the package's name.
    Raises ManifestError when the outcome is not a valid package.
    """
    source = folder or package_folder(name)
    copy = output / name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    manifest = copy / "package.yaml"
    document = yaml.safe_load(manifest.read_text())
    document.update(changes or {})
    if version is not None:
        document["version"] = version
    manifest.write_text(yaml.safe_dump(document, sort_keys=False))
    return load_package(manifest)


def service(name: str, number: int = 0, **changes: object) -> list[dict[str, object]]:
    """The services of a package, one of them with keys replaced; for `changes` of `variant`."""
    document = yaml.safe_load((package_folder(name) / "package.yaml").read_text())
    services: list[dict[str, object]] = document["services"]
    services[number] = {**services[number], **changes}
    return services
