"""The one family of errors of Orbital, with an exit code for each kind.

An error says what could not be done (it starts with "cannot"), why, and what
to do next. An unhealthy boot is a verdict, not an error.
"""

from __future__ import annotations


class OrbitalError(Exception):
    """A thing that cannot be done.

    brief: one line starting with "cannot ...".
    details: why, for the person who has to find out.
    resolution: what to do next.
    """

    exit_code = 1
    kind = "error"

    def __init__(self, brief: str, *, details: str = "", resolution: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution

    def __str__(self) -> str:
        """Brief, details and resolution, each on its own line."""
        return "\n".join(part for part in (self.brief, self.details, self.resolution) if part)


class ManifestError(OrbitalError):
    """A document (manifest, board, index) is not valid."""

    exit_code = 3
    kind = "manifest"


class TrustError(OrbitalError):
    """Data is unsigned, wrongly signed, tampered with, expired or replayed."""

    exit_code = 4
    kind = "trust"


class FetchError(OrbitalError):
    """Data cannot be fetched from its source."""

    exit_code = 5
    kind = "fetch"


class RefusedError(OrbitalError):
    """A request that is understood and refused, with nothing changed."""

    exit_code = 6
    kind = "refused"


class BootControlError(OrbitalError):
    """The boot loader's state cannot be read or written."""

    exit_code = 7
    kind = "boot-control"


class ToolError(OrbitalError):
    """A program failed or is missing."""

    exit_code = 8
    kind = "tool"


class StateError(OrbitalError):
    """The state partition or a record on it cannot be used."""

    exit_code = 9
    kind = "state"


class SpaceError(OrbitalError):
    """Not enough room on a disk or in a slot."""

    exit_code = 10
    kind = "space"


class PackageError(OrbitalError):
    """A change of the package set was tried, failed, and was taken back."""

    exit_code = 11
    kind = "package"
