"""Who opens a file or an address: the longest suffix, the scheme, and nobody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recovery.errors import RefusedError, StateError
from updater.packages.associations import Handler, file_to_show, handler_of, load

HANDLERS = (
    Handler("file", ".conf", "editor", "edit"),
    Handler("file", ".wg.conf", "wireguard", "import"),
    Handler("protocol", "wg", "wireguard", "add"),
    Handler("protocol", "wg", "other-vpn", "add"),
)


@pytest.mark.parametrize(
    ("target", "package", "program"),
    [
        ("/etc/x.conf", "editor", "edit"),
        ("home.wg.conf", "wireguard", "import"),
        ("wg:KEY@host", "other-vpn", "add"),
    ],
)
def test_the_handler_that_fits_best(target: str, package: str, program: str) -> None:
    found = handler_of(target, HANDLERS)
    assert (found.package, found.program) == (package, program)


def test_what_nobody_registered_is_refused_and_says_what_is() -> None:
    for target in ("ftp://host", "photo.jpg", "conf"):
        with pytest.raises(RefusedError, match="no installed package handles it") as error:
            handler_of(target, HANDLERS)
        assert ".wg.conf" in str(error.value)


def test_the_registry_of_a_device(tmp_path: Path) -> None:
    assert load(tmp_path) == ()
    path = tmp_path / "run/orbital/packages/associations.json"
    path.parent.mkdir(parents=True)
    entry = {"kind": "protocol", "match": "wg", "package": "wireguard", "program": "add"}
    path.write_text(json.dumps({"format": 1, "associations": [entry]}))
    assert load(tmp_path) == (HANDLERS[2],)
    path.write_text(json.dumps({"format": 1, "associations": [{**entry, "run": "as root"}]}))
    with pytest.raises(StateError, match="unknown field"):
        load(tmp_path)


def test_only_files_with_plain_paths_are_shown(tmp_path: Path) -> None:
    plain = tmp_path / "a.conf"
    plain.write_text("x")
    assert file_to_show(str(plain)) == plain
    for name in ("b:c.conf", "d e.conf", 'f".conf'):
        (tmp_path / name).write_text("x")
        with pytest.raises(RefusedError, match="characters"):
            file_to_show(str(tmp_path / name))
    with pytest.raises(RefusedError, match="no such file"):
        file_to_show(str(tmp_path / "absent.conf"))
