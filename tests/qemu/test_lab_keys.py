"""The keys of the labs: made once, whoever comes first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from imager.keys import make_development_keys
from imager.repository.anchor import read_anchor
from qemu.lab import Lab


def test_two_labs_that_begin_at_once_have_the_same_keys(tmp_path: Path) -> None:
    """Two tests on a fresh machine: the second could not put its keys where the first's were."""
    together = Barrier(2)

    def prepare(name: str) -> bytes:
        lab = Lab(tmp_path / name, keys=tmp_path / "keys")
        together.wait()
        return read_anchor(lab.prepare_keys()).to_bytes()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(prepare, ("first", "second"))
    assert first == second
    assert not list(tmp_path.glob(".keys.*[!k]"))


def test_keys_whose_making_was_cut_short_are_completed(tmp_path: Path) -> None:
    make_development_keys(tmp_path / "keys")
    keys = Lab(tmp_path / "lab", keys=tmp_path / "keys").prepare_keys()
    assert read_anchor(keys).to_bytes()
