"""Releases as candidates: read once, ordered by preference, or ruled out with a reason.

All the rules about one release by itself are here: whether it fits the image,
the architecture, the capabilities, the state that it would take over, and the
kinds of package that it may depend on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from manifests.constraints import Constraint, parse_constraint
from manifests.package_index import Interface, PackageRelease
from manifests.versions import VersionKey, version_key
from updater.packages.resolve.model import USER, Installed, Question


@dataclass(frozen=True, eq=False)
class Requirement:
    """A package must be there in one of some versions, offering some interfaces.

    by: the candidate that says so; None for a want, which `who` then names.
    interfaces: (interface, constraint) pairs. only: if not None, the versions
    that will do, instead of the constraint.
    """

    name: str
    versions: str
    interfaces: tuple[tuple[str, str], ...] = ()
    by: Candidate | None = None
    who: str = ""
    only: frozenset[str] | None = None


@dataclass(frozen=True, eq=False)
class Candidate:
    """A version of a package. Compared by identity: made once for each version.

    release: None for what is inside the image. needs: features, suites and
    system packages; libraries: what its view must hold.
    """

    name: str
    version: str
    key: VersionKey
    kind: str
    release: PackageRelease | None
    provides: tuple[Interface, ...] = ()
    installed: Installed | None = None
    needs: list[Requirement] = field(default_factory=list)
    libraries: list[Requirement] = field(default_factory=list)

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Shelf:
    """All of one name. candidates: most preferred first. ruled_out: version → why, newest first."""

    kind: str
    candidates: tuple[Candidate, ...]
    ruled_out: tuple[tuple[str, str], ...]


class Catalogue:
    """Candidates by name, read from the offers when somebody first asks for the name.

    upgrade: names that move to their newest version; None: all. Everything
    else that is installed is preferred as it is.
    """

    def __init__(self, question: Question) -> None:
        """Nothing is read yet."""
        self.environment = question.environment
        self.upgrade = question.upgrade
        self._offers = question.offers
        # What the user asked for by name is layered over the image's own, if newer.
        self._named = frozenset(want.name for want in question.wants if want.by == USER)
        self._installed: dict[str, list[Installed]] = {}
        for item in question.installed:
            self._installed.setdefault(item.name, []).append(item)
        self._shelves: dict[str, Shelf] = {}
        self._kinds: dict[str, str] = {}
        self._releases: dict[str, tuple[PackageRelease, ...]] = {}
        self._keys: dict[str, VersionKey] = {}
        self._constraints: dict[str, Constraint] = {}
        self._accepts: dict[tuple[str, str], bool] = {}
        self._fits: dict[tuple[tuple[str, str], ...], str] = {}
        self._allowed: dict[tuple[str, str, tuple[tuple[str, str], ...]], frozenset[str]] = {}

    def key(self, version: str) -> VersionKey:
        """What orders versions, computed once for each."""
        found = self._keys.get(version)
        if found is None:
            found = self._keys[version] = version_key(version)
        return found

    def accepts(self, constraint: str, version: str) -> bool:
        """Whether the constraint allows the version; the same pairs come up again and again."""
        found = self._accepts.get((constraint, version))
        if found is None:
            parsed = self._constraints.get(constraint)
            if parsed is None:
                parsed = self._constraints[constraint] = parse_constraint(constraint)
            found = self._accepts[(constraint, version)] = parsed.allows(version)
        return found

    def allowed(self, requirement: Requirement) -> frozenset[str]:
        """The versions on the shelf that the requirement accepts."""
        if requirement.only is not None:
            return requirement.only
        cache = (requirement.name, requirement.versions, requirement.interfaces)
        found = self._allowed.get(cache)
        if found is None:
            found = self._allowed[cache] = frozenset(
                item.version
                for item in self.shelf(requirement.name).candidates
                if self.accepts(requirement.versions, item.version)
                and not self.missing(requirement, item)
            )
        return found

    def missing(self, requirement: Requirement, candidate: Candidate) -> str:
        """The first required interface that the candidate does not offer; "" for none."""
        for interface, versions in requirement.interfaces:
            if not any(
                offer.interface == interface and self.accepts(versions, offer.version)
                for offer in candidate.provides
            ):
                return f"{interface} {versions}" if versions not in ("", "*") else interface
        return ""

    def kind(self, name: str) -> str:
        """What kind of package the name is: as installed, in the image, or newest offered."""
        found = self._kinds.get(name)
        if found is not None:
            return found
        if name in self.environment.packages:
            found = "system"
        elif name in self._installed:
            found = self._installed[name][0].release.kind
        else:
            releases = self.releases(name)
            newest = max(releases, key=lambda item: self.key(item.version), default=None)
            found = newest.kind if newest is not None else ""
        self._kinds[name] = found
        return found

    def releases(self, name: str) -> tuple[PackageRelease, ...]:
        """Everything that is offered, fitting or not."""
        if name not in self._releases:
            self._releases[name] = self._offers.releases(name)
        return self._releases[name]

    def shelf(self, name: str) -> Shelf:
        """Everything there is of the name."""
        found = self._shelves.get(name)
        if found is None:
            found = self._shelves[name] = self._stock(name)
        return found

    def _stock(self, name: str) -> Shelf:
        present = {item.release.version: item for item in self._installed.get(name, ())}
        releases = {item.version: item for item in self.releases(name)}
        # What is installed counts as it is, even if the repository now says something else.
        releases.update({version: item.release for version, item in present.items()})
        kind = self.kind(name)
        made: list[Candidate] = []
        out: list[tuple[str, str]] = []
        for version in sorted(releases, key=self.key, reverse=True):
            release = releases[version]
            reason = self._against(name, release, kind, present)
            if reason:
                out.append((version, reason))
                continue
            candidate = Candidate(
                name,
                version,
                self.key(version),
                release.kind,
                release,
                release.provides,
                present.get(version),
            )
            self._link(candidate, release)
            made.append(candidate)
        return Shelf(kind, self._ordered(name, made), tuple(out))

    def _ordered(self, name: str, newest_first: list[Candidate]) -> tuple[Candidate, ...]:
        """By preference: what is there stays, unless somebody named it for an upgrade."""
        inside = self.environment.packages.get(name)
        moves = self.upgrade is not None and name in self.upgrade
        if inside is not None:
            own = Candidate(
                name,
                inside,
                self.key(inside),
                "system",
                None,
                self.environment.interfaces.get(name, ()),
            )
            layered = any(item.installed is not None for item in newest_first)
            if layered or moves or name in self._named:
                newest_first = [*newest_first, own]
            else:
                newest_first = [own, *newest_first]
        if self.upgrade is None or moves:
            return tuple(newest_first)
        return tuple(sorted(newest_first, key=lambda item: item.installed is None))

    def _link(self, candidate: Candidate, release: PackageRelease) -> None:
        """Fills in what the candidate requires: one requirement for each name."""
        versions = {item.package: item.versions for item in release.depends}
        for member in release.members:
            versions.setdefault(member, "*")
        for name, constraint in versions.items():
            interfaces = tuple(
                (item.interface, item.versions) for item in release.requires if item.package == name
            )
            requirement = Requirement(name, constraint, interfaces, candidate)
            into = candidate.libraries if self.kind(name) == "library" else candidate.needs
            into.append(requirement)

    def _against(
        self, name: str, release: PackageRelease, kind: str, present: dict[str, Installed]
    ) -> str:
        """Why the release cannot be used on this device at all; "" when it can."""
        environment = self.environment
        if release.kind != kind:
            return f"is a {release.kind} package, while {name} is a {kind} package"
        if release.architecture not in ("all", environment.architecture):
            return f"is for {release.architecture}, this device is {environment.architecture}"
        if reason := self._unfit(release):
            return reason
        for capability in release.capabilities:
            if capability in environment.refused:
                return f"asks for {capability}, which this system grants to no package"
            if capability not in environment.capabilities:
                return f"asks for {capability}, which this system does not have"
        if (
            (name, release.version) in environment.quarantined
            and name not in environment.retry
            and release.version not in present
        ):
            return "failed on this device before"
        return self._unlike(name, release) or self._stateless(release, present)

    def _unfit(self, release: PackageRelease) -> str:
        """Why the release is not for this image; computed once for each list of systems."""
        if not release.systems:
            return ""
        cache = tuple((fit.system, fit.versions) for fit in release.systems)
        if cache not in self._fits:
            environment = self.environment
            fits = any(
                system == environment.system and self.accepts(versions, environment.version)
                for system, versions in cache
            )
            made_for = " or ".join(
                f"{system} {versions}" if versions not in ("", "*") else system
                for system, versions in cache
            )
            self._fits[cache] = (
                ""
                if fits
                else f"is for {made_for}, this device runs {environment.system} "
                f"{environment.version}"
            )
        return self._fits[cache]

    def _unlike(self, name: str, release: PackageRelease) -> str:
        """Why a release of this kind may not be there, or may not depend on what it names."""
        inside = self.environment.packages.get(name)
        if release.kind == "system":
            if inside is None:
                return f"replaces {name} of the image, and this image has none"
            if self.key(release.version) <= self.key(inside):
                return f"is not newer than {inside}, which the image has"
        named = {item.package for item in release.depends} | set(release.members)
        for item in release.requires:
            if item.package not in named:
                return f"calls {item.interface} of {item.package} without depending on it"
        for dependency in sorted(named):
            kind = self.kind(dependency)
            if release.kind == "library" and kind not in ("library", "system", ""):
                return f"is a library and depends on {dependency}, which is a {kind}"
            if release.kind == "system" and kind == "library":
                return f"is a system package and depends on {dependency}, which is a library"
        return ""

    def _stateless(self, release: PackageRelease, present: dict[str, Installed]) -> str:
        """Why the release cannot take over the state of what is installed."""
        if release.kind != "feature":
            return ""
        for item in present.values():
            schema = item.release.state_version
            if schema == release.state_version or schema in release.migrates_from:
                continue
            if release.state_version not in item.migrates_to:
                return (
                    f"keeps its state in schema {release.state_version} and cannot take over "
                    f"schema {schema} of {item.release.version}"
                )
        return ""
