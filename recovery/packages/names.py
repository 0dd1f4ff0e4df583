"""Names in a manifest and in a generation become paths, units and users: none may surprise. Pure.

A manifest is signed, but a publisher is trusted with its own package only; a
generation lies on a disk that anybody may have written.
"""

from __future__ import annotations

from recovery.errors import StateError, TrustError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from recovery.generations import PackageEntry
    from recovery.packages.model import Package

FIRST_UID, LAST_UID = 50000, 59999
"""User ids of packages, in blocks of `model.SERVICES_AT_MOST`."""
_BLOCK = 16
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
_VERSION = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+~:-_")
_BUS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_HEX = frozenset("0123456789abcdef")
_LONGEST = 63
# Names that the image's own services have or may have.
_FOREIGN = ("org.freedesktop.", "com.orbital.")


def check_entry(entry: PackageEntry) -> None:
    """Raises StateError when the entry would touch what is not its own."""
    for digest in (entry.digest, *entry.uses):
        if len(digest) != 64 or not _HEX.issuperset(digest):
            raise StateError(f"cannot use package {entry.name!r}: {digest!r} is no digest")
    if not is_name(entry.name):
        raise StateError(f"cannot use package {entry.name!r}: not a name")
    # 0: none. What is no feature runs nothing, see `check_manifest`.
    if entry.uid == 0 and entry.kind != "feature":
        return
    if not FIRST_UID <= entry.uid <= LAST_UID - _BLOCK + 1 or (entry.uid - FIRST_UID) % _BLOCK:
        raise StateError(
            f"cannot use package {entry.name}: its user id {entry.uid} is no package's"
        )


def check_manifest(package: Package) -> None:
    """Raises TrustError when a name in the manifest is not what such a name may be."""
    for problem in _problems(package):
        raise TrustError(
            f"cannot use package {package.name!r}: {problem}",
            resolution="its publisher has to build it again",
        )


def is_name(text: str) -> bool:
    """A name of a package, service, program or slice: one path component, no dot."""
    return 0 < len(text) <= _LONGEST and _NAME.issuperset(text) and text[0] not in "-_"


def is_bus_name(text: str) -> bool:
    """A D-Bus name (D-Bus specification, "Valid Names"); not exact, but without surprises."""
    parts = text.split(".")
    return len(text) <= 255 and len(parts) > 1 and all(parts) and _BUS.issuperset(text)


def _problems(package: Package) -> Iterator[str]:
    names = [package.name, *(item.name for item in package.services)]
    names += [item.name for item in package.programs] + [item.name for item in package.slices]
    for name in names:
        if not is_name(name):
            yield f"{name!r} is not a name"
    if package.kind != "feature" and (package.services or package.programs):
        yield f"a {package.kind} package has neither services nor programs"
    for kind, several in (("service", package.services), ("program", package.programs)):
        if len({item.name for item in several}) != len(several):
            yield f"two with the same name of a {kind}"
    if not _VERSION.issuperset(package.version) or not package.version:
        yield f"{package.version!r} is not a version"
    if len(package.services) > _BLOCK:
        yield f"more than {_BLOCK} services"
    services = {item.name for item in package.services}
    for service in package.services:
        if not services.issuperset(service.after):
            yield f"service {service.name} comes after one that is not in the package"
    commands = [(item.name, item.command) for item in package.services]
    commands += [(item.name, item.command) for item in package.programs]
    for name, command in commands:
        if not command or not command[0].startswith("/usr/"):
            yield f"the command of {name} is not below /usr"
    for program in package.programs:
        if program.state_of and program.state_of not in services:
            yield f"program {program.name} shares the state of no service"
    for provided in package.provides:
        if provided.service not in services:
            yield f"{provided.interface} is offered by no service"
        if not is_bus_name(provided.bus_name) or not is_bus_name(provided.interface):
            yield f"{provided.bus_name!r} or {provided.interface!r} is not a bus name"
        if provided.bus_name.startswith(_FOREIGN):
            yield f"the bus name {provided.bus_name} is the system's"
    for required in package.requires:
        if not is_bus_name(required.interface):
            yield f"{required.interface!r} is not an interface"
    for path in package.overlay:
        if not is_below_usr(path):
            yield f"{path!r} is not a path below usr/"


def is_below_usr(path: str) -> bool:
    """A relative path such as "usr/bin/wg", with no way out."""
    first, *rest = path.split("/")
    return first == "usr" and bool(rest) and all(part not in ("", ".", "..") for part in rest)
