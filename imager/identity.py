"""What an image says of itself and for whom it is: small documents, from a product. Pure."""

from __future__ import annotations

from imager.tree import Tree
from manifests.catalogue import Product

# Fields that speak of the base's vendor or are the product's own.
_OWN_FIELDS = (
    "BUG_REPORT_URL",
    "BUILD_ID",
    "HOME_URL",
    "ID",
    "ID_LIKE",
    "IMAGE_ID",
    "IMAGE_VERSION",
    "NAME",
    "PRETTY_NAME",
    "SUPPORT_URL",
    "VERSION",
    "VERSION_CODENAME",
    "VERSION_ID",
)


def os_release(base: Tree, product: Product) -> bytes:
    """os-release(5): the product's identity, and what else the base says of itself."""
    path = "usr/lib/os-release"
    present = base.read(path).decode() if path in base else ""
    fields = dict(
        line.split("=", 1)
        for line in present.splitlines()
        if "=" in line and not line.startswith("#")
    )
    manifest = product.manifest
    own = {
        "NAME": f'"{manifest.system}"',
        "PRETTY_NAME": f'"{manifest.system} {manifest.version}"',
        "ID": manifest.system.replace("-", "_"),
        "VERSION_ID": f'"{manifest.version}"',
        "IMAGE_ID": manifest.system,
        "IMAGE_VERSION": f'"{manifest.version}"',
    }
    if "ID" in fields:
        parents = " ".join([fields["ID"].strip('"'), *fields.get("ID_LIKE", "").strip('"').split()])
        own["ID_LIKE"] = f'"{parents}"'
    kept = {name: value for name, value in fields.items() if name not in _OWN_FIELDS}
    return "".join(f"{name}={value}\n" for name, value in {**own, **kept}.items()).encode()


def system_conf(product: Product) -> str:
    """systemd-system.conf(5): the watchdog, and no crash that waits for a person."""
    lines = [
        "[Manager]",
        "# A dead service manager is a failed try, not a console message.",
        "CrashAction=reboot",
        "ShowStatus=no",
    ]
    watchdog = product.board.watchdog
    if watchdog:
        # The driver clamps what the hardware cannot do; a hang while rebooting counts too.
        lines += [
            f"RuntimeWatchdogSec={watchdog.timeout_seconds}s",
            f"RebootWatchdogSec={max(60, watchdog.timeout_seconds)}s",
        ]
    return "\n".join(lines) + "\n"


JOURNAL_CONF = """\
[Journal]
# The state partition is flash; what must outlive a boot is Orbital's history.
Storage=volatile
RuntimeMaxUse=32M
"""
