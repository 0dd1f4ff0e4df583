"""The software bill of materials of an image: CycloneDX 1.6, JSON.

https://cyclonedx.org/docs/1.6/json/ ; package URLs: https://github.com/package-url/purl-spec
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from urllib.parse import quote

from imager.layout import stable_uuid
from imager.lock import DebianPackage
from manifests.catalogue import Product

_ORBITAL = "0.1.0"


def make_sbom(product: Product, packages: Iterable[DebianPackage], built: int) -> bytes:
    """The document. packages: everything that comes from Debian, the kernel included."""
    manifest = product.manifest
    components = [_debian(package) for package in sorted(set(packages))]
    components += [
        {
            "type": "application",
            "bom-ref": f"orbital:package/{source.manifest.package}",
            "name": source.manifest.package,
            "version": source.manifest.version,
            "description": source.manifest.summary,
        }
        for source in product.packages
    ]
    components.append(
        {
            "type": "application",
            "bom-ref": "orbital:agent",
            "name": "orbital",
            "version": _ORBITAL,
        }
    )
    root = f"orbital:system/{product.name}"
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{stable_uuid('sbom', product.name, str(built))}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(built, datetime.UTC).isoformat(),
            "component": {
                "type": "operating-system",
                "bom-ref": root,
                "name": manifest.system,
                "version": manifest.version,
                "description": manifest.summary,
            },
        },
        "components": components,
        "dependencies": [
            {"ref": root, "dependsOn": sorted(str(item["bom-ref"]) for item in components)}
        ],
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _debian(package: DebianPackage) -> dict[str, object]:
    purl = (
        f"pkg:deb/debian/{quote(package.name)}@{quote(package.version, safe='')}"
        f"?arch={package.architecture}"
    )
    return {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": package.sha256}],
        "properties": [{"name": "debian:source", "value": package.source}],
    }
