"""Trust in a repository: python-tuf's client between a source and what the device keeps.

```
/usr/lib/orbital/trust/root.json     the trust anchor: in the image, held by dm-verity
/state/orbital/tuf/seen.json         highest versions seen (updater.seen)
                  /timestamp.json    cache of verified metadata; may be lost or torn
                  /snapshot.json  targets.json  os.json  publisher-NAME.json
```

Snapshot names the version and digest of every role, so one refresh binds them
all: a role is fetched when one of its targets is asked for, and can then be
neither older than what this device has seen nor of another moment.

The state partition is not trusted: every run starts at the image's root and
follows the chain of published roots from there. Cached metadata counts only
when its signatures verify.

python-tuf writes metadata with rename and without fsync, so a power cut could
leave empty files with the final names. It therefore works in a scratch
directory that is thrown away, and what it verified is made durable here: first
seen.json, then the cache. A power cut between the two leaves a cache that is
older than seen.json, which is harmless: it is only ever compared upwards.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from recovery import durable
from recovery.errors import FetchError, OrbitalError, SpaceError, TrustError
from recovery.reading import read_record
from updater import seen as seen_record
from updater.seen import Seen
from updater.signed import Signed
from updater.source import NotFoundError, Source

_TOP = ("timestamp.json", "snapshot.json", "targets.json")
# Names of delegated roles are data of the repository: only such become files beside seen.json.
_DELEGATED = re.compile(r"(os|publisher-[a-z0-9_-]{1,63})\.json")
_LARGEST = 8 << 20
# The last second that a datetime can have, in the year 9999.
_LAST = 253_402_300_799


class TrustedRepository:
    """Verified targets of one repository. Use as a context manager; one `refresh` first."""

    def __init__(
        self, source: Source, *, anchor: Path, directory: Path, built: int, now: float
    ) -> None:
        """Reads nothing from the source yet.

        anchor: root metadata that is trusted as it is. directory: where
        metadata is kept. built: when the image was built; now: what the clock
        says; both in seconds since the epoch.

        Raises TrustError when the anchor is unusable, StateError when the
        record of highest versions is.
        """
        self._source = source
        self._directory = directory
        self._seen = seen_record.load(directory / "seen.json")
        # The clock may be wrong (no battery, first boot): it is at least the
        # time the image was built and the last time a refresh succeeded. That
        # floor cannot run ahead for good: a refresh only succeeds before the
        # metadata expires, so a clock that is too far ahead never becomes it.
        self._clock = min(max(int(now), built, self._seen.time), _LAST)
        self._late = self._clock > int(now)
        self._targets = Targets()
        self._kept: set[str] = set()
        durable.make_directory(directory)
        durable.remove_leftovers(directory)
        self._scratch = Path(tempfile.mkdtemp(prefix="orbital-tuf."))
        try:
            shutil.copyfile(anchor, self._scratch / "root.json")
            self._take_cache()
            self._client = _Client(self._scratch, _SourceFetcher(source), self._clock)
        except (OSError, exceptions.RepositoryError) as error:
            self.close()
            raise TrustError(
                f"cannot use the trust anchor {anchor}",
                details=str(error),
                resolution="rebuild the image: 'orbital image build' bakes the anchor in",
            ) from error

    def __enter__(self) -> TrustedRepository:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Throws the scratch directory away."""
        self.close()

    def close(self) -> None:
        """Throws the scratch directory away; nothing in it is needed again."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _take_cache(self) -> None:
        """What was verified before; it may be lost, so what cannot be read is left out."""
        for path in self._directory.iterdir():
            if path.name in _TOP or _DELEGATED.fullmatch(path.name):
                try:
                    data = read_record(path, _LARGEST)
                except OSError:
                    continue
                (self._scratch / path.name).write_bytes(data)

    def refresh(self) -> None:
        """Fetches and verifies the current state of the repository, and remembers it durably.

        Raises TrustError when it is wrongly signed, expired, replayed or
        inconsistent; FetchError when it cannot be read. Nothing is remembered then.
        """
        with self._plain_errors():
            self._client.refresh()
            new = self._versions()
            file = str(self._scratch / "targets.json")
            self._targets = Metadata[Targets].from_file(file).signed
        advanced = seen_record.advance(self._seen, new)
        if advanced != self._seen:
            seen_record.save(self._directory / "seen.json", advanced)
            self._seen = advanced
        for name in _TOP:
            self._keep(name)
        for path in self._directory.glob("publisher-*.json"):
            if path.stem not in new.targets:
                durable.remove_file(path)

    def target(self, path: str) -> bytes | None:
        """A verified target's bytes, or None when the repository does not offer it.

        Raises TrustError when the bytes, or the role that names them, are not
        what was signed, FetchError when they cannot be read.
        """
        with self._plain_errors():
            role = self.role_of(path)
            info = self._client.get_targetinfo(path) if role else None
            if role and _DELEGATED.fullmatch(f"{role}.json"):
                self._keep(f"{role}.json")
            if info is None:
                return None
            file = self._client.download_target(info, str(self._scratch / "target"))
            return Path(file).read_bytes()

    def signed(self, path: str) -> Signed | None:
        """What is signed about a target, which is not fetched; None when it is not offered.

        Raises as `target` does.
        """
        with self._plain_errors():
            info = self._client.get_targetinfo(path) if self.role_of(path) else None
        if info is None or "sha256" not in info.hashes:
            return None
        parent, _, name = path.rpartition("/")
        digest = info.hashes["sha256"]
        # Consistent snapshots (TUF specification, 6.2): the name has the digest.
        return Signed(f"targets/{parent}/{digest}.{name}", info.length, digest)

    def role_of(self, path: str) -> str | None:
        """The role that alone decides about a target; None when nobody does.

        It is the first one that fits. A role that snapshot does not name has
        signed nothing yet: it offers nothing.
        """
        targets = self._targets
        if path in targets.targets or targets.delegations is None:
            return "targets"
        for role, terminating in targets.delegations.get_roles_for_target(path):
            if not terminating:
                with self._plain_errors():
                    raise exceptions.RepositoryError(f"the delegation to {role} is not terminating")
            return role if role in self._seen.targets else None
        return None

    def _keep(self, name: str) -> None:
        """Makes a verified file durable in the cache, once."""
        if name in self._kept:
            return
        fresh = (self._scratch / name).read_bytes()
        kept = self._directory / name
        try:
            same = read_record(kept, _LARGEST) == fresh
        except OSError:
            same = False
        if not same:
            durable.replace_file(kept, fresh)
        self._kept.add(name)

    def _plain_errors(self) -> _plain_errors:
        return _plain_errors(self._source.name, self._clock, self._late)

    def _versions(self) -> Seen:
        """The versions of what was verified, read through the public API."""
        root = Metadata[Root].from_file(str(self._scratch / "root.json")).signed
        timestamp = Metadata[Timestamp].from_file(str(self._scratch / "timestamp.json")).signed
        snapshot = Metadata[Snapshot].from_file(str(self._scratch / "snapshot.json")).signed
        online = root.roles["timestamp"].keyids + root.roles["snapshot"].keyids
        return Seen(
            root=root.version,
            timestamp=timestamp.version,
            snapshot=snapshot.version,
            targets={
                name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()
            },
            online_keys=tuple(sorted(set(online))),
            time=self._clock,
        )


class _Client(Updater):
    """python-tuf's client, judging expiry by a clock that is given."""

    def __init__(self, directory: Path, fetcher: FetcherInterface, clock: int) -> None:
        super().__init__(
            metadata_dir=str(directory),
            metadata_base_url="metadata/",
            target_base_url="targets/",
            fetcher=fetcher,
            config=UpdaterConfig(max_root_rotations=1024, targets_max_length=_LARGEST),
        )
        # python-tuf takes the time from the system clock once, here, and has
        # no parameter for it. tests/updater/test_adversary.py fails if that changes.
        self._trusted_set.reference_time = datetime.fromtimestamp(clock, UTC)


class _SourceFetcher(FetcherInterface):
    """Lets python-tuf read from our sources: its URLs are our relative paths."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield from self._source.open(url, _LARGEST)
        except NotFoundError as error:
            raise exceptions.DownloadHTTPError(str(error), 404) from error


class _plain_errors:  # noqa: N801  # reads as a clause: with _plain_errors(...)
    """Turns python-tuf's exceptions into ours, in words for the person at the device."""

    def __init__(self, source: str, clock: int, late: bool) -> None:
        self._source = source
        self._clock = clock
        self._late = late

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, exceptions.DownloadError | exceptions.RepositoryError | OSError):
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> OrbitalError:
        what = f"cannot trust {self._source}"
        match error:
            case exceptions.ExpiredMetadataError():
                time = datetime.fromtimestamp(self._clock, UTC)
                source = "the image's build or the last update check" if self._late else "the clock"
                return TrustError(
                    f"{what}: its metadata has expired",
                    details=f"{error}; the time is at least {time:%Y-%m-%d %H:%M} UTC by {source}",
                    resolution="if the clock is right, the publisher has to run "
                    "'orbital repository refresh' (a stick has to be copied anew)",
                )
            case exceptions.BadVersionNumberError():
                return TrustError(
                    f"{what}: its metadata is older than what this device has seen",
                    details=f"{error}: an old copy of the repository, or an attacker replaying one",
                    resolution="use a current copy of the repository",
                )
            case exceptions.UnsignedMetadataError():
                return TrustError(
                    f"{what}: its metadata is not signed by the right keys",
                    details=str(error),
                    resolution="use the repository this image was built for; if it is, it has "
                    "been tampered with",
                )
            case exceptions.LengthOrHashMismatchError():
                return TrustError(
                    f"{what}: a file is not the one that was signed",
                    details=str(error),
                    resolution="the repository is damaged, incompletely copied or tampered with; "
                    "copy it anew",
                )
            case exceptions.DownloadLengthMismatchError():
                return TrustError(
                    f"{what}: a file is longer than it may be",
                    details=str(error),
                    resolution="the repository is damaged or tampered with; copy it anew",
                )
            case exceptions.DownloadHTTPError():
                return FetchError(
                    f"cannot fetch metadata from {self._source}: a file is missing",
                    details=str(error),
                    resolution="check the source's address; if it is right, the repository there "
                    "is incomplete",
                )
            case exceptions.RepositoryError():
                return TrustError(
                    f"{what}: its metadata is damaged or inconsistent",
                    details=str(error),
                    resolution="copy the repository anew; if that does not help, it has been "
                    "tampered with",
                )
            case OSError():
                return SpaceError(
                    f"cannot keep metadata while it is verified: {error.strerror}",
                    details=str(error.filename or ""),
                    resolution="make room on /tmp",
                )
        return FetchError(f"cannot fetch metadata from {self._source}", details=str(error))
