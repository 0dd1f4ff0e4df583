"""What this device knows before a change: the present set, its manifests, the image."""

from __future__ import annotations

from dataclasses import dataclass

from manifests.architectures import DEBIAN
from recovery.errors import OrbitalError
from recovery.generations import Generation
from recovery.packages import capabilities
from recovery.state import StateRecord
from updater.packages.changes import Moment, Present, uids_of
from updater.packages.device import PackageDevice
from updater.packages.resolve.model import Environment, Installed, installed_from


@dataclass(frozen=True)
class Known:
    """present: for the planner. moment: of the change. device, record: where it came from."""

    device: PackageDevice
    record: StateRecord
    present: Present
    moment: Moment

    def environment(self, retry: frozenset[str] = frozenset()) -> Environment:
        """For the resolver. retry: names whose quarantined versions may be used all the same.

        Raises ManifestError when the image's policy is not valid.
        """
        config = self.device.config
        policy = capabilities.load(self.device.root)
        return Environment(
            system=config.system,
            version=config.version,
            architecture=architecture(self.device),
            capabilities=frozenset(item.name for item in policy.capabilities),
            refused=frozenset(policy.refused),
            packages=self.present.image,
            quarantined=frozenset(
                (item.package, item.version) for item in self.record.quarantined if item.package
            ),
            retry=retry,
        )


def look(
    device: PackageDevice, generation: Generation, record: StateRecord, moment: Moment
) -> Known:
    """Reads the manifests of all that is installed or may be gone back to.

    An image that cannot be trusted any more is taken to need nothing.
    """
    facts: dict[str, Installed] = {}
    for digest in sorted(generation.digests()):
        try:
            facts[digest] = installed_from(device.host.manifest(digest), digest)
        except OrbitalError:
            continue
    return Known(
        device=device,
        record=record,
        present=Present(
            entries=generation.packages,
            facts=facts,
            image={item.name: item.version for item in device.config.packages},
            uids=uids_of(device.store.generations.all()),
        ),
        moment=moment,
    )


def architecture(device: PackageDevice) -> str:
    """Debian's name of the device's architecture."""
    return DEBIAN.get(device.config.architecture, device.config.architecture)
