"""Commands and migrations of a package: transient units in its sandbox. Pure."""

from __future__ import annotations

from recovery.errors import RefusedError
from recovery.packages import plans
from recovery.packages.sandbox import Sandbox, properties
from recovery.packages.units import SLICE, runtime_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recovery.packages.capabilities import Policy
    from recovery.packages.model import Migration, Program
    from recovery.packages.paths import Paths
    from recovery.packages.plans import Ready


def program_properties(item: Ready, program: Program, paths: Paths, policy: Policy) -> list[str]:
    """systemd properties ("Name=value") of the sandbox that a program runs in.

    Raises RefusedError when it asks for a capability that is not granted.
    """
    capabilities, refused = plans.granted(policy, program.capabilities)
    if refused:
        raise RefusedError(
            f"cannot run {program.name} of package {item.package.name}: this system does not "
            f"grant {', '.join(refused)}"
        )
    names = [service.name for service in item.package.services]
    on_bus = bool(item.package.requires) or any(capability.bus for capability in capabilities)
    shared = program.state_of
    uid = item.entry.uid + names.index(shared) if shared else 0
    box = Sandbox(
        package=item.package.name,
        uid=uid,
        view=item.view,
        config=str(paths.config / item.package.name),
        state=_state_of(item, shared),
        shared=runtime_directory(item.package.name, shared) if shared else "",
        capabilities=capabilities,
        # The bus's policy is by user, and only services have users that it knows.
        bus=bool(shared) and on_bus,
    )
    return [*_limits(item), *properties(box)]


def migration_properties(item: Ready, migration: Migration, paths: Paths) -> list[str]:
    """The same for a migration of one service's state: no capability, no network, no bus."""
    names = [service.name for service in item.package.services]
    box = Sandbox(
        package=item.package.name,
        uid=item.entry.uid + names.index(migration.service),
        view=item.view,
        config=str(paths.config / item.package.name),
        state=_state_of(item, migration.service),
    )
    return [*_limits(item), *properties(box)]


def command(lines: Sequence[str], words: Sequence[str], *, terminal: bool) -> list[str]:
    """The command that runs words with these properties and ends as they end.

    terminal: connected to ours; otherwise output is piped through.
    """
    return [
        "systemd-run",
        "--quiet",
        "--collect",
        "--wait",
        "--pty" if terminal else "--pipe",
        # "$" and "%" in what the package or the caller says mean nothing.
        "--expand-environment=no",
        # The bus has another name for this one (systemd 257).
        *(f"--property={line.replace('PrivateTmp=', 'PrivateTmpEx=')}" for line in lines),
        "--",
        *words,
    ]


def steps(migrations: Sequence[Migration], source: int, target: int) -> list[Migration]:
    """The migrations from one schema version to another, in order.

    Raises RefusedError when a step is not declared.
    """
    direction = 1 if target > source else -1
    found: list[Migration] = []
    for version in range(source, target, direction):
        step = [m for m in migrations if (m.source, m.target) == (version, version + direction)]
        if not step:
            raise RefusedError(
                f"cannot migrate state from schema version {source} to {target}: "
                f"the package has no step from {version} to {version + direction}"
            )
        found += step
    return found


def _state_of(item: Ready, service: str) -> str:
    keeps = any(found.name == service and found.state for found in item.package.services)
    return str(item.layer / "state" / service) if keeps and item.layer is not None else ""


def _limits(item: Ready) -> list[str]:
    name = item.package.name
    return [
        f"Slice={SLICE}",
        f"SyslogIdentifier={name}",
        f"LogExtraFields=ORBITAL_PACKAGE={name}",
        f"LogExtraFields=ORBITAL_VERSION={item.package.version}",
        "MemoryMax=256M",
        "TasksMax=64",
        "OOMPolicy=kill",
    ]
