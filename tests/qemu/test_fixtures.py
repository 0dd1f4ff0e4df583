"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

_CONFTEST = 'pytest_plugins = ["qemu.fixtures"]\n'
_TESTS = """
import urllib.request

def test_passes(artifacts):
    (artifacts / "note").write_text("x")

def test_fails(artifacts, serve):
    machine = artifacts / "machine-1"
    machine.mkdir()
    (machine / "console.log").write_text("[    0.100] last words")
    (machine / "disk.qcow2").write_bytes(b"large")
    root = artifacts / "root"
    root.mkdir()
    (root / "file").write_text("served")
    server = serve(root)
    assert urllib.request.urlopen(server.local_url + "/file").read() == b"served"
    print("PORT", server.port)
    assert False
"""


def run(tmp_path: Path, *options: str) -> str:
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    (tmp_path / "test_it.py").write_text(_TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "/dev/null", f"--rootdir={tmp_path}",
         "-p", "no:cacheprovider", "--artifacts", tmp_path / "kept", *options, tmp_path],
        capture_output=True, text=True, check=False, timeout=120,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )  # fmt: skip
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    return done.stdout


def test_a_failed_test_keeps_its_logs_and_a_passed_one_nothing(tmp_path: Path) -> None:
    report = run(tmp_path)
    (directory,) = (tmp_path / "kept").iterdir()
    assert "test_fails" in directory.name
    assert str(directory) in report
    assert "last words" in report
    assert (directory / "server-1" / "access.log").read_text().count("/file") == 1
    assert not (directory / "machine-1" / "disk.qcow2").exists()


def test_everything_is_kept_on_request(tmp_path: Path) -> None:
    run(tmp_path, "--keep-artifacts")
    names = sorted(path.name for path in (tmp_path / "kept").glob("*/*"))
    assert "note" in names
    assert len(list((tmp_path / "kept").iterdir())) == 2
