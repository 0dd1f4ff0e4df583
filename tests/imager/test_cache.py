"""Stages are built once for the same inputs, whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imager.cache import KEEP, Cache, Input
from recovery.errors import SpaceError

REPOSITORY = Path(__file__).parents[2]


class Recipe:
    """A stage's work that counts how often it is done."""

    def __init__(self, text: str = "result") -> None:
        self.done = 0
        self.text = text

    def __call__(self, directory: Path) -> None:
        self.done += 1
        (directory / "file").write_text(self.text)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_same_inputs_are_built_once_and_other_inputs_again(cache: Cache) -> None:
    recipe = Recipe()
    first = cache.stage("s", {"a": 1, "b": ["x"]}, recipe)
    assert cache.stage("s", {"b": ["x"], "a": 1}, recipe) == first
    assert recipe.done == 1
    assert cache.stage("s", {"a": 2, "b": ["x"]}, recipe) != first
    assert recipe.done == 2


def test_values_of_other_kinds_are_other_inputs(cache: Cache) -> None:
    recipe = Recipe()
    values: list[Input] = ["1", 1, b"1", ["1"], {"1": "1"}, None, True]
    for value in values:
        cache.stage("s", {"a": value}, recipe)
    assert recipe.done == 7


@pytest.mark.parametrize(
    "change",
    [
        lambda top: (top / "sub/file").write_text("other"),
        lambda top: (top / "sub/file").chmod(0o755),
        lambda top: (top / "sub/file").rename(top / "sub/moved"),
        lambda top: (top / "new").mkdir(),
        lambda top: (top / "link").unlink() or (top / "link").symlink_to("elsewhere"),
    ],
    ids=["content", "mode", "name", "folder", "link"],
)
def test_a_tree_counts_by_its_content(
    cache: Cache, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "sub/file").write_text("text")
    (top / "sub/file").chmod(0o644)
    (top / "link").symlink_to("sub")
    recipe = Recipe()
    cache.stage("s", {"tree": top}, recipe)
    os.utime(top / "sub/file", (1, 1))
    cache.stage("s", {"tree": top}, recipe)
    assert recipe.done == 1
    change(top)
    cache.stage("s", {"tree": top}, recipe)
    assert recipe.done == 2


def test_a_refresh_that_changes_nothing_keeps_later_stages(cache: Cache) -> None:
    base, later = Recipe("same"), Recipe()
    first = cache.stage("base", {}, base)
    cache.stage("later", {"base": first}, later)
    second = cache.stage("base", {}, base, refresh=True)
    assert (base.done, second != first, first.is_dir()) == (2, True, True)
    cache.stage("later", {"base": second}, later)
    assert later.done == 1
    assert cache.stage("base", {}, base) == second


def test_a_refresh_with_a_new_result_builds_later_stages_again(cache: Cache) -> None:
    later = Recipe()
    cache.stage("later", {"base": cache.stage("base", {}, Recipe("old"))}, later)
    cache.stage("later", {"base": cache.stage("base", {}, Recipe("new"), refresh=True)}, later)
    assert later.done == 2


def test_a_failed_build_leaves_nothing_and_is_tried_again(cache: Cache) -> None:
    def fail(directory: Path) -> None:
        (directory / "half").write_text("half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cache.stage("s", {}, fail)
    assert not [path for path in cache.directory.rglob("*") if path.is_dir() and "-" in path.name]
    recipe = Recipe()
    assert (cache.stage("s", {}, recipe) / "file").read_text() == "result"
    assert recipe.done == 1


def test_a_failed_refresh_keeps_the_result_in_use(cache: Cache) -> None:
    first = cache.stage("s", {}, Recipe())

    def fail(_: Path) -> None:
        raise ValueError("mirror gone")

    with pytest.raises(ValueError, match="mirror gone"):
        cache.stage("s", {}, fail, refresh=True)
    recipe = Recipe()
    assert cache.stage("s", {}, recipe) == first
    assert recipe.done == 0


def test_old_results_go_and_those_in_use_stay(cache: Cache) -> None:
    other = Cache(cache.directory)
    held = cache.stage("s", {"n": -1}, Recipe())
    for number in range(KEEP + 3):
        os.utime(held, (1, 1))
        # A process of its own: its locks go with it.
        if os.fork() == 0:
            other.stage("s", {"n": number}, Recipe())
            os._exit(0)
        assert os.wait()[1] == 0
    results = [path for path in held.parent.iterdir() if path.is_dir()]
    assert held in results
    assert len(results) == KEEP + 1


def run_python(code: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SLOW = """
    import sys, time
    from pathlib import Path
    from imager.cache import Cache
    def build(directory):
        with open(sys.argv[2], "a") as log: log.write("built\\n")
        (directory / "a").write_text("a")
        time.sleep(float(sys.argv[3]))
        (directory / "b").write_text("b")
    print(len(list(Cache(Path(sys.argv[1])).stage("s", {}, build).iterdir())))
"""


def test_two_builds_at_once_build_one_result(tmp_path: Path) -> None:
    log = tmp_path / "log"
    both = [run_python(SLOW, str(tmp_path / "cache"), str(log), "0.3") for _ in range(2)]
    assert [process.communicate(timeout=30)[0] for process in both] == ["2\n", "2\n"]
    assert log.read_text() == "built\n"


def test_a_killed_build_leaves_no_result_and_the_next_one_works(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = run_python(SLOW, str(tmp_path / "cache"), str(log), "60")
    deadline = time.monotonic() + 20
    while not list((tmp_path / "cache").glob("stages/s/*.partial/a")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stage = tmp_path / "cache/stages/s"
    assert [path.name.endswith(".partial") for path in stage.iterdir() if path.is_dir()] == [True]
    again = run_python(SLOW, str(tmp_path / "cache"), str(log), "0")
    assert again.communicate(timeout=30)[0] == "2\n"
    assert not list(stage.glob("*.partial"))


FULL = """
    import subprocess, sys
    from pathlib import Path
    from imager.cache import Cache
    from recovery.errors import OrbitalError
    top = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(top)], check=True)
    def build(directory): (directory / "large").write_bytes(bytes(8 << 20))
    try:
        Cache(top).stage("s", {}, build)
    except OrbitalError as error:
        print(type(error).__name__, error.brief)
    print([path.name for path in top.rglob("*") if path.is_dir()])
"""


def test_a_full_disk_is_a_space_error_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", sys.executable, "-c", textwrap.dedent(FULL),
         str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare failed" in done.stderr:
        pytest.skip("this machine does not allow user namespaces")
    assert done.stdout.splitlines() == [
        f"{SpaceError.__name__} cannot build s: the disk is full",
        "['stages', 's']",
    ], done.stderr


def test_parts_are_kept_while_a_result_links_to_them(cache: Cache) -> None:
    shared = cache.shared("parts")
    (shared / "used").write_text("used")
    (shared / "unused").write_text("unused")
    cache.stage("s", {}, lambda directory: os.link(shared / "used", directory / "used"))
    # This process still uses the result.
    cache.clean()
    assert sorted(path.name for path in shared.iterdir()) == ["used"]
