"""Images on their way into the store: whole or not at all, and cheap to try again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests.package_index import PackageRelease
from recovery.errors import FetchError, SpaceError, TrustError
from recovery.packages import trust
from recovery.reporter import SilentReporter
from tests.updater.packages.repository import (
    PackagePublisher,
    PackageReader,
    TableVerity,
    make_certificates,
    make_image,
    manifest,
)
from tests.updater.power import Power, PowerCut
from updater.packages.fetch import Arrival, clean, fetch, fetch_all
from updater.packages.parcels import in_full
from updater.source import DirectorySource, NotFoundError


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates that tests read and never change."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def publisher(tmp_path: Path, certificates: Path) -> PackagePublisher:
    """An empty repository with two publishers."""
    return PackagePublisher(tmp_path / "publisher", certificates)


@pytest.fixture
def reader(tmp_path: Path, publisher: PackagePublisher) -> PackageReader:
    """A device that trusts both."""
    return PackageReader(tmp_path / "device", publisher)


class Counting(DirectorySource):
    """Remembers which chunks were read; fails from the one with number `fails_at` on."""

    def __init__(self, directory: Path, fails_at: int | None = None) -> None:
        """Nothing was read yet."""
        super().__init__(directory)
        self.chunks: list[str] = []
        self.fails_at = fails_at

    def open(self, path: str, max_size: int) -> Iterator[bytes]:
        """See Source."""
        if self.fails_at is not None and len(self.chunks) >= self.fails_at:
            raise NotFoundError(f"cannot fetch {path}: the stick was pulled out")
        self.chunks.append(path)
        return super().open(path, max_size)


class Progress(SilentReporter):
    """Remembers the last report."""

    last = (0, 0)

    def progress(self, done: int, total: int) -> None:
        """Notes it."""
        self.last = (done, total)


def offered(
    publisher: PackagePublisher, reader: PackageReader, size: int = 500_000
) -> tuple[PackageRelease, bytes]:
    """A published release and its image."""
    path = publisher.opk(manifest("acme-vpn", "1.0"), size=size)
    publisher.offer(path)
    (release,) = reader.releases("acme-vpn")
    return release, publisher.image(path)


def take(
    reader: PackageReader, release: PackageRelease, source: DirectorySource | None = None
) -> Path:
    """Fetches the release."""
    place = source or DirectorySource(reader.publisher.repository)
    parcel = in_full("acme-vpn", release)
    return fetch(parcel, place, reader.store, SilentReporter(), verity=reader.verity).path


def names(store: Path) -> list[str]:
    """What is in the store."""
    return sorted(path.name for path in store.iterdir()) if store.is_dir() else []


def test_an_image_arrives_whole_and_under_verity(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    release, image = offered(publisher, reader)
    reporter = Progress()
    source = DirectorySource(publisher.repository)
    parcel = in_full("acme-vpn", release)
    done = fetch(parcel, source, reader.store, reporter, verity=reader.verity)
    path = reader.store / release.digest
    size = release.stream.stored_size
    assert done == Arrival("acme-vpn", "1.0", path, fetched=size, full=size)
    assert path.read_bytes() == image
    assert reader.verity.measure(path) == release.digest
    assert path.stat().st_mode & 0o777 == 0o644
    assert reporter.last == (len(image), len(image))
    assert names(reader.store) == [release.digest]


def test_an_image_that_is_there_is_not_fetched(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    release, _ = offered(publisher, reader)
    take(reader, release)
    source = Counting(publisher.repository)
    take(reader, release, source)
    assert (source.chunks, reader.verity.enabled) == ([], 1)


def test_a_file_of_that_name_without_verity_is_replaced(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    release, image = offered(publisher, reader)
    reader.store.mkdir(parents=True)
    (reader.store / release.digest).write_bytes(image)
    path = take(reader, release)
    assert reader.verity.measure(path) == release.digest
    assert reader.verity.enabled == 1


def test_a_stored_image_with_an_altered_block_is_replaced(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    """It measures right, and reading it is an I/O error (as reading /proc/self/mem at 0)."""
    release, image = offered(publisher, reader)
    altered = reader.store / release.digest
    reader.store.mkdir(parents=True)
    altered.symlink_to("/proc/self/mem")

    class Trusting(TableVerity):
        """Says of what is there that it is the image."""

        def measure(self, file: Path, /) -> str:
            """The digest."""
            return release.digest if file == altered else super().measure(file)

    verity = Trusting(reader.publishers)
    with pytest.raises(OSError, match="Input/output error"):
        altered.read_bytes()
    source = DirectorySource(publisher.repository)
    parcel = in_full("acme-vpn", release)
    fetch(parcel, source, reader.store, SilentReporter(), verity=verity)
    assert altered.read_bytes() == image


def test_a_cut_download_continues(publisher: PackagePublisher, reader: PackageReader) -> None:
    release, image = offered(publisher, reader, size=3_000_000)
    count = len(release.stream.segments)
    with pytest.raises(FetchError, match="the stick was pulled out"):
        take(reader, release, Counting(publisher.repository, fails_at=count // 2))
    assert names(reader.store) == [f".{release.digest}.part"]
    source = Counting(publisher.repository)
    assert take(reader, release, source).read_bytes() == image
    assert 0 < len(source.chunks) <= count - count // 2 + 1


def test_pieces_that_a_cut_spoiled_are_fetched_again(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    release, image = offered(publisher, reader)
    reader.store.mkdir(parents=True)
    spoiled = bytearray(image)
    spoiled[70_000] ^= 1
    part = reader.store / f".{release.digest}.part"
    part.write_bytes(bytes(spoiled) + b"and more")
    source = Counting(publisher.repository)
    assert take(reader, release, source).read_bytes() == image
    assert len(source.chunks) == 1


def test_a_link_in_place_of_the_temporary_file_is_not_followed(
    publisher: PackagePublisher, reader: PackageReader, tmp_path: Path
) -> None:
    release, image = offered(publisher, reader)
    reader.store.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (reader.store / f".{release.digest}.part").symlink_to(victim)
    assert take(reader, release).read_bytes() == image
    assert victim.read_bytes() == b"precious"


def test_power_cut_before_every_durable_step(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    """The store has the whole image or none; the next run completes it."""
    release, image = offered(publisher, reader)
    reader.store.parent.mkdir(exist_ok=True)
    power = Power(None)
    with pytest.MonkeyPatch.context() as patch:
        power.install(patch)
        take(reader, release)
    assert len(power.steps) > 4
    for number, step in enumerate(power.steps):
        # The names of directories are part of the steps' names.
        reader.store.rename(reader.base / f"after-{number}")
        with pytest.MonkeyPatch.context() as patch:
            Power(step).install(patch)
            with pytest.raises(PowerCut):
                take(reader, release)
        whole = reader.store / release.digest
        assert not whole.exists() or reader.verity.measure(whole) == release.digest, step
        assert take(reader, release).read_bytes() == image
        assert names(reader.store) == [release.digest]


def test_killed_between_verity_and_the_store(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    release, image = offered(publisher, reader)
    done = take(reader, release)
    done.rename(reader.store / f".{release.digest}.part")
    source = Counting(publisher.repository)
    assert take(reader, release, source).read_bytes() == image
    assert (source.chunks, reader.verity.enabled) == ([], 1)


def test_several_images_and_what_is_left_of_others(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    publisher.offer(manifest("acme-vpn", "1.0"), manifest("acme-vpn", "2.0"))
    releases = reader.releases("acme-vpn")
    reader.store.mkdir(parents=True)
    (reader.store / f".{'0' * 64}.part").write_bytes(b"of long ago")
    found = fetch_all(
        [in_full("acme-vpn", release) for release in (*releases, releases[0])],
        DirectorySource(publisher.repository),
        reader.store,
        SilentReporter(),
        verity=reader.verity,
    )
    assert [item.path.name for item in found] == [release.digest for release in releases]
    assert names(reader.store) == sorted(release.digest for release in releases)


def test_clean_keeps_what_it_is_told_to(reader: PackageReader) -> None:
    reader.store.mkdir(parents=True)
    for digest in ("aa", "bb"):
        (reader.store / f".{digest}.part").touch()
    (reader.store / "cc").touch()
    clean(reader.store, keep=["bb"])
    assert names(reader.store) == [".bb.part", "cc"]


def test_no_room(
    publisher: PackagePublisher, reader: PackageReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, _ = offered(publisher, reader)
    monkeypatch.setattr("updater.packages.fetch._SPARE", 1 << 60)
    source = Counting(publisher.repository)
    with pytest.raises(SpaceError, match="cannot store an image of"):
        take(reader, release, source)
    assert (source.chunks, names(reader.store)) == ([], [])


# What must not get in -----------------------------------------------------------------


def chunk(publisher: PackagePublisher, release: PackageRelease, number: int) -> Path:
    """The stored form of a segment."""
    name = release.stream.segments[number].stored_sha256
    return publisher.repository / "chunks" / name[:2] / name


def test_a_tampered_chunk(publisher: PackagePublisher, reader: PackageReader) -> None:
    release, _ = offered(publisher, reader)
    path = chunk(publisher, release, 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrustError, match="damaged or tampered with"):
        take(reader, release)
    assert not (reader.store / release.digest).exists()
    assert reader.verity.enabled == 0


def test_a_chunk_that_never_ends(publisher: PackagePublisher, reader: PackageReader) -> None:
    release, _ = offered(publisher, reader)

    class Endless(DirectorySource):
        """Every chunk goes on for ever."""

        def open(self, path: str, max_size: int) -> Iterator[bytes]:  # noqa: ARG002
            """Zeros; more than anybody can want is an error of the test."""
            for _ in range(100):
                yield bytes(max_size)
            raise AssertionError("nobody stopped reading")

    with pytest.raises((TrustError, FetchError)):
        take(reader, release, Bounded(Endless(publisher.repository)))
    assert not (reader.store / release.digest).exists()


class Bounded(DirectorySource):
    """What every Source does: ends a file that is longer than it may be."""

    def __init__(self, inner: DirectorySource) -> None:
        """Reads from inner."""
        self._inner = inner

    @property
    def name(self) -> str:
        """Of inner."""
        return self._inner.name

    def open(self, path: str, max_size: int) -> Iterator[bytes]:
        """See Source."""
        size = 0
        for block in self._inner.open(path, max_size):
            size += len(block)
            if size > max_size:
                raise FetchError(f"cannot fetch {path}: too long")
            yield block


def test_a_chunk_that_was_swapped_for_another(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    release, _ = offered(publisher, reader)
    chunk(publisher, release, 0).write_bytes(chunk(publisher, release, 1).read_bytes())
    with pytest.raises(TrustError, match="damaged or tampered with"):
        take(reader, release)


def test_an_image_whose_digest_is_another(
    publisher: PackagePublisher, reader: PackageReader
) -> None:
    import msgspec

    release, _ = offered(publisher, reader)
    lie = msgspec.structs.replace(release, digest="0" * 64)
    with pytest.raises(TrustError, match="it is not the one that was signed"):
        take(reader, lie)
    assert names(reader.store) == []


def test_an_image_that_the_kernel_refuses(
    publisher: PackagePublisher, reader: PackageReader, tmp_path: Path
) -> None:
    release, _ = offered(publisher, reader)
    image = make_image(tmp_path / "other-image", publisher.certificates, names=["base"])
    reader.verity.publishers = trust.load(image)
    with pytest.raises(TrustError, match="the kernel refuses its signature"):
        take(reader, release)
    assert names(reader.store) == []
