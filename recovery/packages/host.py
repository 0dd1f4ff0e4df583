"""The running system as packages need it: what a change of the package set does to it.

Two implementations: `recovery.packages.system.SystemHost` (systemd, mounts,
the bus) and fakes in tests. Who changes the set (`updater.packages`) or judges
it (`recovery.service`) sees only this.

A change, in order: stop what changes, `activate` the new generation, migrate
state, start, check; then commit, or the same again with the old generation.
"""

from __future__ import annotations

from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Protocol

    from recovery.generations import Generation, PackageEntry
    from recovery.packages.model import Package
else:
    Protocol = object


class Active(Value):
    """One package as activated. units: of its services that may start.

    waiting: services that wait for the package's configure program.
    refused: services that ask for a capability this system does not grant, with the name.
    failure: why nothing of the package could be activated; "" normally.
    """

    name: str
    version: str
    digest: str
    units: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    failure: str = ""


class Activation(Value):
    """A generation's packages as activated in this boot (/run/orbital/packages/active.json)."""

    generation: int
    packages: tuple[Active, ...] = ()

    @property
    def failures(self) -> dict[str, str]:
        """Why packages could not be activated, by name."""
        return {item.name: item.failure for item in self.packages if item.failure}


class PackageHost(Protocol):
    """What a change of the package set does to the running system."""

    def manifest(self, digest: str) -> Package:
        """The manifest of an image in the store, verified first. Raises TrustError, StateError."""

    def activate(self, generation: Generation) -> Activation:
        """Makes /run agree with the generation: images and views mounted, state layers made
        (copied from the parent generation's where they do not exist), configuration rendered,
        units, users and bus policy written, systemd and the bus told to read them.

        Starts and stops nothing; programs that run keep the view they have. Idempotent.
        A package that cannot be activated is in the result's failures and harms no other.
        Raises OSError or ToolError when the system itself fails.
        """

    def stop(self, packages: Collection[str]) -> None:
        """Stops the services of these packages, dependents first; returns when they have ended."""

    def start(self, packages: Collection[str]) -> None:
        """Starts the services of these packages that may start; returns when their start
        jobs are over, failed or not. `check` tells."""

    def check(self, packages: Collection[str]) -> dict[str, str]:
        """Waits until every running service's check has passed once, at most until its
        deadline. Returns why by package, for those that failed."""

    def migrate(self, entry: PackageEntry, source: int, target: int) -> None:
        """Runs the declared migrations from one state schema version to another, one by one,
        on the entry's state layer, with the programs of the entry's image. Services are
        stopped. Raises ToolError or RefusedError."""

    def in_use(self) -> frozenset[str]:
        """Digests of images that the active set or a running program still has mounted."""

    def retire(self) -> None:
        """Unmounts views and images that the active set does not have and no process uses."""
