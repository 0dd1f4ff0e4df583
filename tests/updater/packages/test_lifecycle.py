"""Verbs from a signed repository to a running set, and every way in which trust can be missing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from imager.repository import listing
from recovery.audit import verify
from recovery.errors import FetchError, OrbitalError, PackageError, RefusedError, TrustError
from recovery.packages import capabilities, trust
from recovery.packages.capabilities import Capability, Policy
from recovery.packages.model import Dependency, Package
from recovery.reporter import SilentReporter
from recovery.value import replace
from tests.updater.packages import repository
from tests.updater.packages.fakehost import Bench, package
from tests.updater.packages.repository import PackagePublisher, TableVerity, make_image
from updater.packages import failed, lifecycle
from updater.packages.lifecycle import Download, Terms
from updater.packages.transaction import Outcome


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates that tests read and never change."""
    return repository.make_certificates(tmp_path_factory.mktemp("certificates"))


class Shop(Bench):
    """A device that installs from a repository with real signatures and real chunks."""

    def __init__(self, base: Path, certificates: Path) -> None:
        super().__init__(base / "device")
        self.publisher = PackagePublisher(base / "publisher", certificates)
        make_image(self.base, certificates)
        shutil.copy(self.publisher.anchor, self.base / "usr/lib/orbital/trust/root.json")
        policy = Policy((Capability("net.client", ""),), refused=("net.configure",))
        (self.base / capabilities.FILE).write_bytes(capabilities.encode(policy))
        self.verity = TableVerity(trust.load(self.base))
        self.device = dataclasses.replace(self.device, verity=self.verity)
        self.now = self.publisher.now.timestamp()
        self.source = self.publisher.repository

    def offer(self, *packages: Package, signed_by: str = "") -> None:
        """Publishes packages of acme; the host knows what is in them."""
        for item in packages:
            made = replace(item, publisher="base", architecture="amd64")
            path = self.publisher.opk(made, size=50_000, signed_by=signed_by)
            self.host.known[self.publisher.digest(path)] = made
            self.publisher.offer(path)

    def digest(self, name: str, version: str) -> str:
        """Of a published image."""
        return next(
            digest
            for digest, item in self.host.known.items()
            if (item.name, item.version) == (name, version)
        )

    @property
    def terms(self) -> Terms:
        """Ada asks, now."""
        return Terms("ada", str(self.source), now=lambda: self.now)

    def do(self, verb: Callable[..., Outcome], *words: Any, **options: Any) -> Outcome:
        """Runs a verb."""
        return verb(self.device, *words, self.terms, SilentReporter(), **options)

    def versions(self) -> dict[str, str]:
        """What is committed."""
        return {entry.name: entry.version for entry in self.committed.packages}

    def last(self) -> tuple[str, str, str]:
        """The newest audit entry."""
        entry = self.device.audit.entries()[-1]
        return entry.what, entry.subject, entry.result

    def sets(self) -> dict[str, bytes]:
        """What a refusal must leave as it was; pieces of a download are nobody's image."""
        return {
            str(path): path.read_bytes()
            for path in [
                self.root / "state.json",
                *sorted((self.root / "generations").iterdir()),
                *sorted((self.root / "store").glob("[!.]*")),
            ]
        }


@pytest.fixture
def shop(tmp_path: Path, certificates: Path) -> Shop:
    """hello 1.0 is offered, and app 1.0, which needs it."""
    made = Shop(tmp_path, certificates)
    made.offer(package("hello", "1.0"), package("app", "1.0", depends=("hello",)))
    return made


def test_install_brings_what_is_needed_update_the_newest_and_rollback_the_one_before(
    shop: Shop,
) -> None:
    shop.do(lifecycle.install, ["app"])
    assert shop.versions() == {"app": "1.0", "hello": "1.0"}
    assert set(shop.host.running) == {"app", "hello"}
    entries = {entry.name: entry for entry in shop.committed.packages}
    assert (entries["app"].requested, entries["hello"].requested) == (True, False)
    stored = {path.name for path in (shop.root / "store").iterdir()}
    assert stored == {entry.digest for entry in entries.values()}
    shop.offer(package("hello", "1.1"))
    done = shop.do(lifecycle.update, [])
    assert [str(item) for item in done.differences] == ["update hello 1.0 → 1.1"]
    assert shop.do(lifecycle.update, []).generation is None
    shop.do(lifecycle.rollback, "hello")
    assert shop.versions()["hello"] == "1.0"
    assert "1.1" not in shop.log_of("hello")
    # Left by hand: not taken again by itself, but when asked for.
    assert shop.do(lifecycle.update, []).generation is None
    shop.do(lifecycle.install, ["hello=1.1"])
    assert shop.versions()["hello"] == "1.1"
    assert verify(shop.root).intact


def test_a_bad_update_is_taken_back_and_not_offered_again(shop: Shop) -> None:
    shop.do(lifecycle.install, ["hello"])
    shop.offer(package("hello", "2.0"))
    shop.host.sick.add(shop.digest("hello", "2.0"))
    with pytest.raises(PackageError, match="answers 500"):
        shop.do(lifecycle.update, ["hello"])
    assert shop.versions() == {"hello": "1.0"}
    assert not (shop.root / "store" / shop.digest("hello", "2.0")).exists()
    shop.host.sick.clear()
    assert shop.do(lifecycle.update, []).generation is None
    shop.do(lifecycle.update, ["hello=2.0"])
    assert shop.versions() == {"hello": "2.0"}


def test_removal_of_what_is_needed_is_refused_and_says_by_whom(shop: Shop) -> None:
    shop.do(lifecycle.install, ["app"])
    with pytest.raises(RefusedError) as caught:
        shop.do(lifecycle.remove, ["hello"])
    assert "app" in str(caught.value)
    assert shop.last() == ("package.remove", "hello", "refused")
    shop.do(lifecycle.remove, ["app"])
    assert shop.versions() == {}
    shop.do(lifecycle.rollback, None)
    assert shop.versions() == {"app": "1.0", "hello": "1.0"}
    assert shop.log_of("hello") == ["1.0", "1.0"]


def test_installed_without_start_it_waits_for_enable(shop: Shop) -> None:
    shop.do(lifecycle.install, ["hello"], start=False)
    assert shop.host.running == {}
    shop.do(lifecycle.switch, ["hello"], enabled=True)
    assert set(shop.host.running) == {"hello"}


def test_a_crash_loop_after_an_update_goes_back_by_the_planner(shop: Shop) -> None:
    shop.do(lifecycle.install, ["hello"])
    shop.offer(package("hello", "1.1"))
    shop.do(lifecycle.update, [])
    states = {"orbital.hello.main.service": {"ActiveState": "failed", "Result": "signal"}}
    done = failed.contain(
        shop.device,
        "hello",
        SilentReporter(),
        lifecycle.back_of(shop.device),
        ask=lambda _: states,
    )
    assert done.action == "rolled back"
    assert shop.versions() == {"hello": "1.0"}


def test_a_damaged_image_is_fetched_again_by_install(shop: Shop) -> None:
    shop.do(lifecycle.install, ["hello"])
    path = shop.root / "store" / shop.digest("hello", "1.0")
    whole = path.read_bytes()
    path.unlink()
    done = shop.do(lifecycle.install, ["hello"])
    assert [item.verb for item in done.differences] == ["adjust"]
    assert path.read_bytes() == whole
    assert shop.do(lifecycle.install, ["hello"]).generation is None


def test_who_does_not_confirm_changes_nothing(shop: Shop) -> None:
    before = shop.sets()
    seen: list[tuple[list[str], Download]] = []

    def refuse(found: Any, download: Download) -> None:
        seen.append(([str(item) for item in found], download))
        raise RefusedError("cannot go on: not confirmed")

    terms = dataclasses.replace(shop.terms, confirm=refuse)
    with pytest.raises(RefusedError):
        lifecycle.install(shop.device, ["app"], terms, SilentReporter())
    offered = listing.packages(shop.publisher.repository)
    size = sum(
        item.fetch_bytes
        for item in offered
        if (item.package, item.version) in {("app", "1.0"), ("hello", "1.0")}
    )
    assert seen == [(["install app 1.0", "install hello 1.0"], Download(size, size))]
    assert shop.sets() == before


# ---------------------------------------------------------------- trust


def tampered_chunk(shop: Shop) -> None:
    for chunk in (shop.source / "chunks").rglob("*"):
        if chunk.is_file():
            data = bytearray(chunk.read_bytes())
            data[len(data) // 2] ^= 1
            chunk.write_bytes(data)


def tampered_releases(shop: Shop) -> None:
    for path in (shop.source / "targets" / "packages" / "hello").iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.0", b"9.9"))


def unsigned_metadata(shop: Shop) -> None:
    path = shop.source / "metadata" / "timestamp.json"
    document = json.loads(path.read_bytes())
    document["signatures"] = []
    path.write_text(json.dumps(document))


def wrongly_signed_metadata(shop: Shop) -> None:
    path = shop.source / "metadata" / "timestamp.json"
    document = json.loads(path.read_bytes())
    document["signatures"][0]["sig"] = "00" * 64
    path.write_text(json.dumps(document))


def expired(shop: Shop) -> None:
    shop.now += timedelta(days=400).total_seconds()


def refused_by_kernel(shop: Shop) -> None:
    shop.verity.publishers = replace(shop.verity.publishers, publishers=())


def certificate_unknown_to_the_image(shop: Shop) -> None:
    folder = shop.base / "usr/lib/orbital/trust"
    (folder / "publishers.json").write_text('{"format":1,"publishers":{}}')


@pytest.mark.parametrize(
    "attack",
    [
        tampered_chunk,
        tampered_releases,
        unsigned_metadata,
        wrongly_signed_metadata,
        expired,
        refused_by_kernel,
        certificate_unknown_to_the_image,
    ],
)
def test_without_trust_nothing_changes_and_it_is_audited(
    shop: Shop, attack: Callable[[Shop], None]
) -> None:
    shop.do(lifecycle.install, ["hello"])
    shop.do(lifecycle.remove, ["hello"])
    shop.offer(package("hello", "1.2"))
    before, running = shop.sets(), dict(shop.host.running)
    shop.host.calls.clear()
    attack(shop)
    with pytest.raises(TrustError) as caught:
        shop.do(lifecycle.install, ["hello"])
    assert shop.sets() == before
    assert shop.host.running == running
    assert shop.host.calls == []
    assert shop.last() == ("package.install", "hello", "refused")
    assert shop.device.audit.entries()[-1].detail.startswith(f"trust: {caught.value.brief}")
    assert verify(shop.root).intact


def test_a_replayed_repository_is_refused(shop: Shop, tmp_path: Path) -> None:
    shutil.copytree(shop.source, tmp_path / "old")
    shop.offer(package("hello", "1.2"))
    shop.do(lifecycle.install, ["hello"])
    before = shop.sets()
    shop.source = tmp_path / "old"
    with pytest.raises(TrustError, match="older than what this device has seen"):
        shop.do(lifecycle.install, ["app"])
    assert shop.sets() == before
    assert shop.last() == ("package.install", "app", "refused")


def test_a_source_that_is_gone_is_a_failure_and_not_a_refusal(shop: Shop) -> None:
    shutil.rmtree(shop.source)
    with pytest.raises(FetchError):
        shop.do(lifecycle.install, ["hello"])
    assert shop.last() == ("package.install", "hello", "failed")


def test_a_capability_that_the_system_refuses_is_a_reason_against_the_package(
    shop: Shop,
) -> None:
    wanting = package("wanting", "1.0")
    service = replace(wanting.services[0], capabilities=("net.configure",))
    shop.offer(replace(wanting, services=(service,)))
    before = shop.sets()
    with pytest.raises(OrbitalError) as caught:
        shop.do(lifecycle.install, ["wanting"])
    assert "net.configure" in str(caught.value)
    assert shop.sets() == before
    assert shop.last()[2] == "refused"


def test_a_missing_dependency_is_explained(shop: Shop) -> None:
    lost = replace(package("lost", "1.0"), depends=(Dependency("nowhere", ">=2"),))
    shop.offer(lost)
    with pytest.raises(RefusedError) as caught:
        shop.do(lifecycle.install, ["lost"])
    assert "nowhere" in str(caught.value)
