"""The command line as a user meets it: real processes, their output and exit codes."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from orbital import main as command_line
from orbital.output import Output
from recovery.errors import SpaceError

ROOT = Path(__file__).parent.parent.parent
BOARDS = ", ".join(sorted(path.stem for path in (ROOT / "boards").glob("*.yaml")))
Handler = Callable[[argparse.Namespace, Output], int]


def orbital(*words: str, code: int = 0, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own and expects its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "orbital.main", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handler], None]:
    """Installs a group "try" with one command "run" that calls a handler."""

    def install(handler: Handler) -> None:
        module = types.ModuleType("orbital_try")

        def configure(parser: argparse.ArgumentParser) -> None:
            commands = parser.add_subparsers()
            commands.add_parser("run").set_defaults(handler=handler)

        module.__dict__["configure"] = configure
        monkeypatch.setitem(sys.modules, "orbital_try", module)
        entry = command_line.Group("orbital_try", "host", "try things")
        monkeypatch.setitem(command_line.GROUPS, "try", entry)

    return install


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert orbital("--version").stdout == f"orbital {project['version']}\n"


def loads_none_of(heavy: set[str], code: str) -> str:
    """Runs the code in a Python of its own, which must not load these modules; what it prints."""
    check = f"loaded = {heavy!r} & set(sys.modules)\nassert not loaded, loaded"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{check}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_lists_every_group_and_loads_none() -> None:
    shown = loads_none_of(
        {"msgspec", "yaml", "tuf", "json", "subprocess", "urllib3"},
        "from orbital.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
    )
    for name, entry in command_line.GROUPS.items():
        assert name in shown
        assert entry.help.split(",")[0] in shown


@pytest.mark.parametrize("module", ["updater.status", "updater.device", "updater.rescue_visit"])
def test_what_is_asked_often_does_not_load_what_only_an_update_needs(module: str) -> None:
    loads_none_of(
        {"tuf", "securesystemslib", "cryptography", "requests", "urllib3"}, f"import {module}"
    )


def test_a_group_without_a_command_shows_its_help() -> None:
    done = orbital("board", code=2)
    assert done.stdout == ""
    for command in ("list", "check", "show"):
        assert command in done.stderr


def test_no_group_shows_the_help_of_all() -> None:
    assert "groups:" in orbital(code=2).stderr


def test_an_unknown_group_is_wrong_usage() -> None:
    assert "invalid choice: 'baord'" in orbital("baord", code=2).stderr


def test_a_group_whose_libraries_are_missing_says_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = command_line.Group("orbital.absent_group", "host", "not here")
    monkeypatch.setitem(command_line.GROUPS, "image", entry)
    assert command_line.main(["image", "build"]) == 6
    assert capsys.readouterr().err == (
        "orbital: cannot run 'orbital image' here: Python module orbital.absent_group is not "
        "installed\n"
        "  'orbital image' is made to run on the host\n"
        "  on a build host, install Orbital with its dependencies (see README.md)\n"
    )


def test_an_error_is_text_on_stderr_with_its_exit_code() -> None:
    done = orbital("board", "show", "qemu-x86", code=3)
    assert done.stdout == ""
    assert done.stderr == (
        f"orbital: cannot find board qemu-x86 in {ROOT}/boards\n"
        f'  did you mean "qemu-x86_64"? known: {BOARDS}\n'
    )


@pytest.mark.parametrize(
    "words", [("--json", "board", "show", "x"), ("board", "show", "x", "--json")]
)
def test_an_error_with_json_is_one_document_wherever_the_option_stands(
    words: tuple[str, ...],
) -> None:
    done = orbital(*words, code=3)
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "error": {
            "kind": "manifest",
            "brief": f"cannot find board x in {ROOT}/boards",
            "details": "",
            "resolution": f"known: {BOARDS}",
            "exit_code": 3,
        }
    }


def test_a_full_disk_is_one_clear_error(
    group: Callable[[Handler], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def full(args: argparse.Namespace, output: Output) -> int:  # noqa: ARG001
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")
        return 0

    group(full)
    assert command_line.main(["try", "run"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("orbital: cannot use the system: No space left on device\n")
    assert "Traceback" not in error


def test_verbose_shows_where_an_error_comes_from(
    group: Callable[[Handler], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace, output: Output) -> int:  # noqa: ARG001
        raise SpaceError("cannot write: full")

    group(fail)
    assert command_line.main(["try", "run"]) == SpaceError.exit_code
    assert "Traceback" not in capsys.readouterr().err
    assert command_line.main(["try", "run", "--verbose"]) == SpaceError.exit_code
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "in fail" in shown


def test_ctrl_c_ends_with_130(
    group: Callable[[Handler], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(args: argparse.Namespace, output: Output) -> int:  # noqa: ARG001
        raise KeyboardInterrupt

    group(interrupt)
    assert command_line.main(["try", "run"]) == 130
    assert capsys.readouterr().err == "orbital: cannot finish: interrupted\n"


def test_a_connection_that_breaks_is_not_taken_for_a_reader_that_goes_away(
    group: Callable[[Handler], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def send(args: argparse.Namespace, output: Output) -> int:  # noqa: ARG001
        left, right = socket.socketpair()
        with left, right:
            right.close()
            left.sendall(b"x" * 10_000_000)
        return 0

    group(send)
    assert command_line.main(["try", "run"]) == 1
    assert "Broken pipe" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "orbital.main", "manifest", "schema", "system"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == command_line.BROKEN_PIPE
    assert process.stderr.read() == b""
    process.stderr.close()
