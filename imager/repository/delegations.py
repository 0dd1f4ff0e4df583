"""What targets delegates: images to the OS team, each package name to its publisher. Pure.

Every delegation is terminating, so who comes first decides: a package belongs
to the first publisher, in the order of `ordered`, with a pattern that fits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

from tuf.api.metadata import DelegatedRole, Delegations, Key, Targets

from imager.publishers import role_of
from imager.repository.roles import Keyring, required_keys
from manifests.delta import delta_target
from manifests.package_delta import package_delta_target, package_deltas
from manifests.slices import slices_target
from recovery.errors import TrustError

OS_ROLE = "os"

OS_PATHS = (
    "os/*/*/releases.json",
    "os/*/*/*/index.json",
    "os/*/*/*/sbom.cdx.json",
    "os/*/*/*/interface.json",
    "os/*/*/*/delta-*.json",
    "os/*/*/*/slices.msgpack",
)
"""What the role "os" may sign. In TUF patterns `*` stops at `/` (specification, 4.5)."""

_PUBLISHER = role_of("")


def releases_path(package: str) -> str:
    """The target that lists what is offered of a package; also of a pattern of names."""
    return f"packages/{package}/releases.json"


def package_paths(patterns: Iterable[str]) -> list[str]:
    """What a publisher of packages with such names may sign."""
    return [make(pattern) for pattern in patterns for make in (releases_path, package_deltas)]


def ordered(publishers: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The publishers, those with narrow patterns first.

    By the fewest letters that one of its patterns gives, the most first, then
    by name: "acme-*" comes before "*".
    """

    def letters(pattern: str) -> int:
        return sum(letter != "*" for letter in pattern)

    return tuple(sorted(publishers, key=lambda name: (-min(map(letters, publishers[name])), name)))


def wanted(
    keys: Keyring, current: Delegations | None = None, *, rotate: bool = True
) -> Delegations:
    """The delegations that keys asks for.

    current: what the repository delegates now. Then the OS team keeps its keys
    unless rotate; publishers keep their packages when keys has no list of them,
    and keep their keys when it does not know any.

    Raises TrustError when the public key of a role is not known.
    """
    now = copy.deepcopy(current) if current else Delegations({}, {})
    now_roles = now.roles or {}
    paths = {OS_ROLE: list(OS_PATHS)}
    publishers = keys.publishers()
    if publishers is None:
        paths |= {
            name: package_paths(_patterns(role))
            for name, role in now_roles.items()
            if is_publisher(name)
        }
    else:
        paths |= {role_of(name): package_paths(publishers[name]) for name in ordered(publishers)}
    roles: dict[str, DelegatedRole] = {}
    known: dict[str, Key] = {}
    for name, allowed in paths.items():
        before = now_roles.get(name)
        stays = not rotate if name == OS_ROLE else not keys.public_keys(name)
        if before is not None and stays:
            public = {keyid: now.keys[keyid] for keyid in before.keyids}
        else:
            public = required_keys(keys, name)
        known |= public
        roles[name] = DelegatedRole(name, sorted(public), 1, terminating=True, paths=allowed)
    return Delegations(known, roles)


def is_publisher(role: str) -> bool:
    """Whether a delegated role is a package publisher's."""
    return role.startswith(_PUBLISHER)


def delegated_roles(targets: Targets) -> dict[str, DelegatedRole]:
    """The roles to which targets delegates, in order."""
    return (targets.delegations.roles if targets.delegations else None) or {}


def may_sign_deltas(targets: Targets) -> bool:
    """Whether the role "os" may sign deltas and slice maps.

    Repositories before 2026-11-21 did not say so.
    """
    role = delegated_roles(targets).get(OS_ROLE)
    paths = (delta_target("x", "x", "1", "0" * 16), slices_target("x", "x", "1"))
    return role is not None and all(role.is_delegated_path(path) for path in paths)


def may_sign_package_deltas(targets: Targets, package: str, publisher: str) -> bool:
    """Whether who offers the package may sign deltas of it; see `may_sign_deltas`."""
    path = package_delta_target(package, "0" * 16, "0" * 16)
    allowed = (
        name for name, role in delegated_roles(targets).items() if role.is_delegated_path(path)
    )
    return next(allowed, None) == role_of(publisher)


def publisher_of(targets: Targets, package: str) -> str | None:
    """Who may offer the package; None when nobody may."""
    path = releases_path(package)
    for name, role in delegated_roles(targets).items():
        if role.is_delegated_path(path):
            return name.removeprefix(_PUBLISHER)
    return None


def _patterns(role: DelegatedRole) -> list[str]:
    """The names of packages that a publisher's role may sign."""
    before, after = releases_path("*").split("*")
    return [
        path.removeprefix(before).removesuffix(after)
        for path in role.paths or ()
        if path.endswith(after)
    ]


def require_publisher(targets: Targets, package: str, publisher: str) -> None:
    """Raises TrustError unless the package is the publisher's to offer."""
    owner = publisher_of(targets, package)
    if owner == publisher:
        return
    if owner is None:
        raise TrustError(
            f"cannot publish {package}: the repository lets no publisher offer it",
            resolution=f"run 'orbital keys publisher {publisher} --packages ...' and 'orbital "
            "repository refresh' with the keys of targets",
        )
    raise TrustError(
        f"cannot publish {package} of {publisher}: the name belongs to the publisher {owner}",
        resolution="use another name, or let the operator of the repository change who may sign it",
    )
