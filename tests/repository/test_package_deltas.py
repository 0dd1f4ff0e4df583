"""Deltas of packages, published: which are made, what they save, who may sign them, which stay."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from tuf.api.metadata import DelegatedRole

from imager.cache import Cache
from imager.repository import metadata
from imager.repository.deltas import DeltaMaker
from imager.repository.package_deltas import LARGE, bases
from imager.repository.publish import Publication, withdraw
from manifests.delta import Frame, Part
from manifests.index import Segment, Stream
from manifests.package_delta import PackageDelta, fetch_bytes, useful
from manifests.package_index import PackageRelease
from recovery.errors import RefusedError
from tests.updater.images import content
from tests.updater.packages.repository import PackagePublisher, make_certificates, manifest
from tests.updater.packages.universe import release

SIZE = 1_280 << 10
NAME = "acme-vpn"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates that tests read and never change."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """What was made once is not made again by the next test."""
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def publisher(tmp_path: Path, certificates: Path) -> PackagePublisher:
    """An empty repository with the publishers acme and base."""
    return PackagePublisher(tmp_path / "publisher", certificates)


def version(number: int) -> bytes:
    """The image of a version; each has other bytes in a few places."""
    image, dice = bytearray(content("package", SIZE)), random.Random(number)
    for _ in range(10 * (number > 0)):
        at = dice.randrange(4096, SIZE - 64)
        image[at : at + 24] = dice.randbytes(24)
    return bytes(image)


def publish(publisher: PackagePublisher, *numbers: int, deltas: DeltaMaker | None) -> Publication:
    """Publishes versions N.0 of the package."""
    files = [
        publisher.opk(manifest(NAME, f"{number}.0"), data=version(number)) for number in numbers
    ]
    return publisher.offer(*files, deltas=deltas)


def offered(publisher: PackagePublisher) -> list[str]:
    """The bases of the deltas that the publisher's role names."""
    targets = metadata.load(publisher.repository).delegated["publisher-acme"].signed.targets
    found = []
    for path in targets:
        folder, _, file = path.rpartition("/")
        if file.startswith("delta-"):
            (document,) = (publisher.repository / "targets" / folder).glob(f"*.{file}")
            delta = msgspec.json.decode(document.read_bytes(), type=PackageDelta)
            found.append(delta.from_version)
    return sorted(found)


def made(done: Publication) -> list[tuple[str, str]]:
    """From which version to which."""
    return [(item.from_version, item.version) for item in done.package_deltas]


def test_deltas_from_the_versions_before_save_what_is_said(
    publisher: PackagePublisher, cache: Cache
) -> None:
    maker = DeltaMaker(cache, last=2, workers=1)
    publish(publisher, 1, 2, 3, deltas=None)
    done = publish(publisher, 4, deltas=maker)
    assert made(done) == [("3.0", "4.0"), ("2.0", "4.0")]
    for item in done.package_deltas:
        assert (item.package, item.architecture) == (NAME, "amd64")
        assert item.full_bytes >= LARGE
        assert item.fetch_bytes < item.full_bytes / 50
        for part in parts(publisher):
            assert part.stat().st_size <= item.full_bytes * 0.02
    assert done.warnings == ()


def parts(publisher: PackagePublisher) -> list[Path]:
    """The files with payloads."""
    found = []
    for path in publisher.repository.glob("targets/packages/*/*.delta-*.json"):
        delta = msgspec.json.decode(path.read_bytes(), type=PackageDelta)
        found += [publisher.repository / f"chunks/{p.sha256[:2]}/{p.sha256}" for p in delta.parts]
    return found


def test_the_same_package_files_give_the_same_deltas(tmp_path: Path, certificates: Path) -> None:
    found = []
    for name, workers in (("one", 1), ("two", 2)):
        publisher = PackagePublisher(tmp_path / name, certificates)
        publish(publisher, 1, deltas=None)
        publish(publisher, 2, deltas=DeltaMaker(Cache(tmp_path / f"cache-{name}"), workers=workers))
        (document,) = publisher.repository.glob("targets/packages/*/*.delta-*.json")
        found.append((document.name, [part.name for part in parts(publisher)]))
        assert all(part.is_file() for part in parts(publisher))
    assert found[0] == found[1]


def test_named_bases_are_taken_too_and_unknown_ones_refused(
    publisher: PackagePublisher, cache: Cache
) -> None:
    publish(publisher, 1, 2, 3, deltas=None)
    named = DeltaMaker(cache, last=1, named=("1.0",), workers=1)
    assert made(publish(publisher, 4, deltas=named)) == [("3.0", "4.0"), ("1.0", "4.0")]
    with pytest.raises(RefusedError, match=r"cannot make a delta from 9\.0: it is not published"):
        publish(publisher, 5, deltas=DeltaMaker(cache, named=("9.0",), workers=1))
    assert publish(publisher, 5, deltas=None).package_deltas == ()


def test_a_delta_that_saves_too_little_is_not_offered(
    publisher: PackagePublisher, cache: Cache
) -> None:
    publish(publisher, 1, deltas=None)
    other = publisher.opk(manifest(NAME, "2.0"), data=content("something else", SIZE))
    done = publisher.offer(other, deltas=DeltaMaker(cache, workers=1))
    assert (done.package_deltas, offered(publisher)) == ((), [])


def test_a_role_of_before_there_were_deltas_of_packages(
    publisher: PackagePublisher, cache: Cache
) -> None:
    current = metadata.load(publisher.repository)
    roles = current.targets.signed.delegations
    assert roles is not None
    assert roles.roles is not None
    for name in ("publisher-acme", "publisher-base"):
        role = roles.roles[name]
        old = [path for path in role.paths or () if path.endswith("releases.json")]
        assert len(old) == len(role.paths or ()) / 2
        roles.roles[name] = DelegatedRole(name, role.keyids, 1, terminating=True, paths=old)
    publisher.sign_again(current, "targets")
    maker = DeltaMaker(cache, workers=1)
    publish(publisher, 1, deltas=maker)
    done = publish(publisher, 2, deltas=maker)
    assert (done.package_deltas, offered(publisher)) == ((), [])
    (warning,) = done.warnings
    assert warning.startswith(
        "no deltas are made to acme-vpn: the repository does not let the role"
    )
    assert "orbital repository refresh" in warning
    publisher.refresh()
    assert made(publish(publisher, 2, deltas=maker)) == [("1.0", "2.0")]
    assert offered(publisher) == ["1.0"]


def test_keys_without_a_list_of_publishers_permit_deltas_of_their_packages(
    publisher: PackagePublisher,
) -> None:
    before = metadata.load(publisher.repository).targets.signed.delegations
    publisher.keys.listed = None
    publisher.refresh()
    after = metadata.load(publisher.repository).targets.signed.delegations
    assert before == after


def test_only_deltas_to_the_newest_versions_stay(publisher: PackagePublisher, cache: Cache) -> None:
    maker = DeltaMaker(cache, last=1, workers=1)
    publish(publisher, 1, deltas=maker)
    for number in (2, 3, 4, 5):
        publish(publisher, number, deltas=maker)
    assert offered(publisher) == ["2.0", "3.0", "4.0"]
    withdraw(publisher.repository, NAME, "5.0", publisher.keys, now=publisher.now)
    assert offered(publisher) == ["2.0", "3.0"]


def of(version: str, size: int = LARGE, architecture: str = "amd64") -> PackageRelease:
    """A release of a package that has that size."""
    segment = Segment(size, "ab" * 32, size, "cd" * 32)
    return msgspec.structs.replace(
        release(NAME, version),
        architecture=architecture,
        digest=f"{architecture} {version}",
        stream=Stream(size, "ef" * 32, size, (segment,)),
    )


@pytest.mark.parametrize(
    ("new", "last", "named", "expected"),
    [
        (of("5"), 3, (), ["4", "3", "2"]),
        (of("5"), 1, ("1", "7"), ["7", "4", "1"]),
        (of("5"), 0, (), []),
        (of("5", LARGE - 1), 3, ("1",), []),
        (of("5", architecture="arm64"), 3, (), []),
        (of("1"), 3, (), []),
        # Four versions are newer: nobody takes it any more.
        (of("3"), 3, (), []),
        (of("3"), 0, ("1",), ["1"]),
    ],
)
def test_which_bases(
    new: PackageRelease, last: int, named: Sequence[str], expected: list[str]
) -> None:
    releases = [of(str(number)) for number in range(1, 8)] + [of("4", architecture="riscv64")]
    others = [item for item in releases if item.version not in ("6",)]
    known = releases if new.version != "5" else others
    assert [item.version for item in bases(new, known, last, named)] == expected


def test_parts_that_no_device_would_try_are_left_out() -> None:
    segments = tuple(Segment(4096, f"{n:064x}", 10_000, f"{n:064x}") for n in range(4))
    stream = Stream(4 * 4096, "00" * 32, 4096, segments)
    frames = (Frame(1, 0, 0, 900), Frame(1, 1, 0, 500), Frame(2, 2, 0, 15_000))
    parts = (Part(900, "aa" * 32), Part(500, "bb" * 32), Part(15_000, "cc" * 32))
    # 800 bytes may be lost: the part of 500 first, which gains 10,000; then 900, then all.
    assert useful(frames, parts, stream) == (frames, parts)
    assert fetch_bytes(frames, parts, stream) == 16_400
    # Nothing small enough to begin with.
    alone = (frames[0], Frame(1), Frame(2, 1, 0, 15_000))
    nothing = (Frame(1), Frame(1), Frame(2))
    assert useful(alone, (parts[0], parts[2]), stream) == (nothing, ())
    # The last is more than what the others have gained.
    huge = (Part(900, "aa" * 32), Part(500, "bb" * 32), Part(25_000, "cc" * 32))
    kept = useful((*frames[:2], Frame(2, 2, 0, 25_000)), huge, stream)
    assert kept == ((*frames[:2], Frame(2)), huge[:2])
