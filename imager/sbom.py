"""The software bill of materials of an image: CycloneDX 1.6, JSON.

https://cyclonedx.org/docs/1.6/json/ ; package URLs: https://github.com/package-url/purl-spec
"""

from __future__ import annotations

import datetime
import json
import tomllib
from collections.abc import Iterable
from urllib.parse import quote

from imager.agent import REPOSITORY
from imager.layout import stable_uuid
from imager.lock import DebianPackage
from imager.mirror import RELEASE
from manifests.catalogue import Product


def make_sbom(
    product: Product,
    *,
    root: Iterable[DebianPackage],
    boot: Iterable[DebianPackage],
    rescue: Iterable[DebianPackage] = (),
    built: int,
) -> bytes:
    """The document; the same product, packages and time give the same bytes.

    root: Debian packages in the root image. boot: those of which parts are on
    the boot partition (kernel, boot loader). rescue: those of which parts are in the rescue
    system, which a factory disk has and updates do not change; none when it was not built.
    built: seconds since the epoch.
    """
    manifest = product.manifest
    components = [
        debian_component(package, part)
        for part, packages in (("root", root), ("boot", boot), ("rescue", rescue))
        for package in sorted(set(packages))
    ]
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
    own = {"type": "application", "name": "orbital", "version": orbital_version()}
    components.append({**own, "bom-ref": "orbital:agent"})
    reference = f"orbital:system/{product.name}"
    document: dict[str, object] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(built, datetime.UTC).isoformat(),
            "tools": {"components": [own]},
            "component": {
                "type": "operating-system",
                "bom-ref": reference,
                "name": manifest.system,
                "version": manifest.version,
                "description": manifest.summary,
                "properties": [{"name": "orbital:board", "value": product.board.board}],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": reference, "dependsOn": sorted(str(item["bom-ref"]) for item in components)}
        ],
    }
    # Another content is another document, so it gets another serial number.
    serial = stable_uuid("sbom", json.dumps(document, sort_keys=True))
    document["serialNumber"] = f"urn:uuid:{serial}"
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def orbital_version() -> str:
    """Orbital's own version."""
    with (REPOSITORY / "pyproject.toml").open("rb") as stream:
        return str(tomllib.load(stream)["project"]["version"])


def debian_component(package: DebianPackage, part: str) -> dict[str, object]:
    """A Debian package as a component. part: of the whole that it is in."""
    purl = (
        f"pkg:deb/debian/{quote(package.name)}@{quote(package.version, safe='')}"
        f"?arch={package.architecture}&distro={RELEASE}"
    )
    return {
        "type": "library",
        "bom-ref": f"{purl}#{part}",
        "name": package.name,
        "version": package.version,
        "purl": purl,
        # Of the .deb file that was unpacked.
        "hashes": [{"alg": "SHA-256", "content": package.sha256}],
        "properties": [
            {"name": "debian:source", "value": package.source},
            {"name": "orbital:part", "value": part},
        ],
    }
