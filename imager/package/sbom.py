"""What a package was made of: CycloneDX 1.6 JSON in its image, and the lock beside its file."""

from __future__ import annotations

import json

from imager.lock import DebianPackage, format_lock
from imager.package.content import Component, Gathered
from imager.sbom import debian_component
from recovery.packages import model


def make_package_sbom(manifest: model.Package, gathered: Gathered) -> bytes:
    """The document; the same content gives the same bytes. It has no time and no serial number."""
    reference = f"orbital:package/{manifest.name}@{manifest.version}"
    components = [debian_component(item, "package") for item in sorted(gathered.debian)]
    components += [_component(item) for item in sorted(gathered.components, key=_order)]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": reference,
                "name": manifest.name,
                "version": manifest.version,
                "description": manifest.summary,
            }
        },
        "components": components,
        "dependencies": [
            {"ref": reference, "dependsOn": [str(item["bom-ref"]) for item in components]}
        ],
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def make_lock(gathered: Gathered) -> str:
    """Exact versions and hashes of all that came from elsewhere, one line each, sorted."""
    others = (
        DebianPackage(item.name, item.version or "-", item.kind, "-", item.sha256)
        for item in gathered.components
    )
    return format_lock((*gathered.debian, *others))


def _component(item: Component) -> dict[str, object]:
    named: dict[str, object] = {
        "type": "library" if item.kind == "wheel" else "file",
        "bom-ref": f"{item.kind}:{item.sha256}",
        "name": item.name,
        "hashes": [{"alg": "SHA-256", "content": item.sha256}],
    }
    if item.version:
        named["version"] = item.version
    if item.kind == "wheel":
        named["purl"] = f"pkg:pypi/{item.name.lower().replace('_', '-')}@{item.version}"
    return named


def _order(item: Component) -> tuple[str, str, str]:
    return item.kind, item.name, item.sha256
