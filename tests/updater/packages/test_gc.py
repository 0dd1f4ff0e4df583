"""What goes when nothing needs it any more, and what stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.errors import StateError
from tests.updater.packages.fakehost import Bench, digest_of, package
from updater.packages import gc


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """hello in three versions."""
    made = Bench(tmp_path)
    made.publish(*(package("hello", version) for version in ("1.0", "2.0", "3.0")))
    return made


def stored(bench: Bench) -> set[str]:
    """Versions of hello in the store."""
    names = {digest_of("hello", version): version for version in ("1.0", "2.0", "3.0")}
    return {names[path.name] for path in (bench.root / "store").iterdir()}


def layers(bench: Bench) -> set[str]:
    """Numbers of hello's state layers."""
    return {path.name for path in (bench.root / "layers" / "hello").glob("*")}


def test_the_set_before_the_last_change_stays_and_the_one_before_that_goes(bench: Bench) -> None:
    bench.install("hello", "1.0")
    bench.install("hello", "2.0")
    assert (stored(bench), layers(bench)) == ({"1.0", "2.0"}, {"2", "3"})
    bench.install("hello", "3.0")
    assert (stored(bench), layers(bench)) == ({"2.0", "3.0"}, {"3", "4"})
    assert bench.store.generations.numbers() == (3, 4)


def test_a_removed_package_stays_for_one_change_and_then_leaves_nothing(bench: Bench) -> None:
    bench.publish(package("other", "1.0"))
    bench.install("hello", "1.0")
    bench.remove("hello")
    assert stored(bench) == {"1.0"}
    bench.install("other", "1.0")
    assert not (bench.root / "layers" / "hello").exists()
    assert [path.name for path in (bench.root / "store").iterdir()] == [digest_of("other", "1.0")]


def test_an_image_that_a_program_uses_stays_until_it_ends(bench: Bench) -> None:
    bench.install("hello", "1.0")
    bench.host.users.add(digest_of("hello", "1.0"))
    bench.install("hello", "2.0")
    bench.install("hello", "3.0")
    assert stored(bench) == {"1.0", "2.0", "3.0"}
    found = gc.collect(bench.device)
    assert (found.images, found.held_images) == ((), (digest_of("hello", "1.0"),))
    bench.host.users.clear()
    assert gc.collect(bench.device).images == (digest_of("hello", "1.0"),)
    assert stored(bench) == {"2.0", "3.0"}


def test_a_state_layer_that_a_program_has_mounted_stays(bench: Bench) -> None:
    bench.install("hello", "1.0")
    process = bench.base / "proc" / "77"
    process.mkdir(parents=True)
    (process / "mountinfo").write_text(
        "36 35 8:4 /orbital/layers/hello/2/state/main /var/lib/hello rw shared:1 - ext4 /dev/x rw\n"
    )
    bench.install("hello", "2.0")
    bench.install("hello", "3.0")
    assert layers(bench) == {"2", "3", "4"}
    assert gc.collect(bench.device).held_layers == (("hello", 2),)
    (process / "mountinfo").unlink()
    gc.collect(bench.device)
    assert layers(bench) == {"3", "4"}


def test_a_name_with_an_underscore_is_seen_in_use(tmp_path: Path) -> None:
    process = tmp_path / "77"
    process.mkdir()
    (process / "mountinfo").write_text(
        "36 35 8:4 /orbital/layers/my_vpn/2/state/main /var/lib/my_vpn rw - ext4 /dev/x rw\n"
    )
    assert gc.layers_in_use(tmp_path) == {("my_vpn", 2)}


def test_a_dry_run_says_the_same_and_removes_nothing(bench: Bench) -> None:
    bench.install("hello", "1.0")
    stray = bench.root / "store" / digest_of("hello", "2.0")
    stray.write_bytes(b"x" * 5000)
    (bench.root / "layers" / "hello" / "99").mkdir()
    found = gc.collect(bench.device, dry_run=True)
    assert found.images == (stray.name,)
    assert found.layers == (("hello", 99),)
    assert found.bytes >= 5000
    assert stray.exists()
    assert gc.collect(bench.device).images == found.images
    assert not stray.exists()


def test_pieces_of_downloads_and_cut_copies_are_told_apart(bench: Bench) -> None:
    bench.install("hello", "1.0")
    part = bench.root / "store" / f".{digest_of('hello', '2.0')}.part"
    part.write_bytes(b"half")
    cut = bench.root / "layers" / "hello" / "7.new"
    cut.mkdir()
    gc.collect(bench.device)
    # The next fetch continues with it, or removes it (updater.packages.fetch).
    assert part.exists()
    assert not cut.exists()


def test_nothing_is_removed_while_a_kept_record_cannot_be_read(bench: Bench) -> None:
    bench.install("hello", "1.0")
    bench.install("hello", "2.0")
    (bench.root / "generations" / "2.json").write_text("{")
    stray = bench.root / "store" / digest_of("hello", "3.0")
    stray.touch()
    with pytest.raises(StateError, match="record of generation 2"):
        gc.collect(bench.device)
    assert stray.exists()
