"""The pure parts of `benchmarks.install`: medians, ratios, verdicts, what a run counts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.delta.images import Image
from benchmarks.install import inside, offer
from benchmarks.install.figures import (
    OURS,
    OURS_FULL,
    OURS_QUICK,
    RAUC_ADAPTIVE,
    RAUC_FULL,
    Run,
    ratio,
    summaries,
    verdicts,
)
from manifests.index import RootImage, Stream
from updater import verity


def run(method: str, seconds: float, *, speed: float = 20.0, number: int = 0) -> Run:
    return Run(method, speed, number, seconds, 1.0, 1.0, 50, 1000, 10, 4096, 3)


def test_the_ratio_compares_runs_of_the_same_round() -> None:
    # The machine is ten times slower in the second round; medians of each would say 5.5 to 8.25.
    runs = [
        run(OURS, 1, number=0),
        run(RAUC_FULL, 2, number=0),
        run(OURS, 10, number=1),
        run(RAUC_FULL, 20, number=1),
        run(OURS, 1, number=2),
        run(RAUC_FULL, 1, number=2),
    ]
    assert ratio(runs, RAUC_FULL) == 0.5


def test_a_round_without_its_counterpart_gives_no_ratio() -> None:
    assert ratio([run(OURS, 1, number=0), run(RAUC_FULL, 2, number=1)], RAUC_FULL) is None


def test_the_table_is_ordered_by_speed_and_method_whatever_ran_first() -> None:
    runs = [
        run(RAUC_FULL, 6, speed=2.0),
        run(OURS_FULL, 5, speed=2.0),
        run(OURS, 3, speed=2.0),
        run(OURS, 1, speed=2.0, number=1),
        run(OURS, 2, speed=2.0, number=2),
        run(OURS, 2, speed=200.0),
    ]
    table = list(summaries(runs))
    assert [(row.speed, row.method) for row in table] == [
        (2.0, OURS), (2.0, OURS_FULL), (2.0, RAUC_FULL), (200.0, OURS),
    ]  # fmt: skip
    assert table[0].seconds == 2
    assert table[0].ratio is None
    assert table[2].ratio == 0.5


def test_at_two_megabits_pair_a_has_to_be_five_times_faster() -> None:
    runs = [run(OURS, 21, speed=2.0), run(RAUC_FULL, 100, speed=2.0)]
    (strict,) = verdicts(runs, "a")
    (other,) = verdicts(runs, "b")
    assert not strict.met
    assert "MISSED" in strict.row()
    assert other.met


def test_each_peer_is_judged_at_each_speed() -> None:
    runs = [
        run(method, seconds, speed=speed)
        for speed in (20.0, 200.0)
        for method, seconds in (
            (OURS, 10), (OURS_QUICK, 8), (OURS_FULL, 99), (RAUC_FULL, 9), (RAUC_ADAPTIVE, 11),
        )
    ]  # fmt: skip
    found = {(item.speed, item.method, item.peer): item.met for item in verdicts(runs, "a")}
    assert found == {
        (20.0, OURS, RAUC_FULL): False,
        (20.0, OURS, RAUC_ADAPTIVE): True,
        (20.0, OURS_QUICK, RAUC_FULL): True,
        (20.0, OURS_QUICK, RAUC_ADAPTIVE): True,
        (200.0, OURS, RAUC_FULL): False,
        (200.0, OURS, RAUC_ADAPTIVE): True,
        (200.0, OURS_QUICK, RAUC_FULL): True,
        (200.0, OURS_QUICK, RAUC_ADAPTIVE): True,
    }


def test_the_verity_superblock_of_an_image_says_what_the_index_needs(tmp_path: Path) -> None:
    salt = bytes(range(32))
    data = os.urandom(3 * verity.BLOCK)
    levels = verity.build_levels(verity.hash_blocks(data, salt), salt)
    root = RootImage(verity.root_hash(levels, salt).hex(), len(data), salt.hex(), EMPTY)
    image = tmp_path / "root.img"
    head = verity.superblock(root).ljust(verity.BLOCK, b"\0")
    image.write_bytes(data + head + b"".join(reversed(levels)))
    found = offer.root_image(Image(image, len(data)), tmp_path / "copy", EMPTY)
    assert found == root
    assert (tmp_path / "copy").read_bytes() == image.read_bytes()


EMPTY = Stream(0, "", 0, ())


def test_the_guest_counts_a_child_of_a_child() -> None:
    script = "import subprocess, sys; subprocess.run(['sleep', '30'])"
    with subprocess.Popen([sys.executable, "-c", script]) as child:
        try:
            deadline = time.monotonic() + 10
            below: list[int] = []
            while not below and time.monotonic() < deadline:
                below = list(inside.processes(child.pid))
                time.sleep(0.05)
            assert len(below) == 1
            alone = inside.resident([child.pid])
            assert alone > 2 << 20
            assert inside.resident([child.pid, *below]) > alone
        finally:
            for pid in (*below, child.pid):
                os.kill(pid, 9)


def test_busy_time_is_that_of_the_processor() -> None:
    before, start = inside.busy(), time.monotonic()
    while time.monotonic() - start < 0.5:
        pass
    # Others may use the machine's other processors: no upper limit.
    assert inside.busy() - before > 0.2
