"""orbital package and orbital audit as a person or a program runs them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orbital.main import main
from recovery.errors import RefusedError
from recovery.generations import PackageEntry
from recovery.packages import layers, plans, programs
from recovery.packages.capabilities import Policy
from recovery.packages.model import Package, Program, Slice
from recovery.packages.paths import Paths
from recovery.process import Completed
from recovery.value import replace
from tests.updater.packages.fakehost import Bench, FakeHost, digest_of, package
from updater.packages import status
from updater.packages.logs import command
from updater.packages.run import choose
from updater.packages.run import run as run_program

Run = Callable[..., tuple[int, Any]]

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "peers": {"type": "array", "items": {"type": "string"}},
        "deep": {"type": "object", "properties": {"on": {"type": "boolean"}}},
    },
}


def hello(version: str = "1.0") -> Package:
    """A package with configuration and programs."""
    return replace(
        package("hello", version),
        summary="Says hello",
        slices=(Slice("main", json.dumps(SCHEMA), json.dumps({"name": "world", "port": 80})),),
        programs=(Program("setup", ("/usr/bin/setup",)), Program("talk", ("/usr/bin/talk",))),
        configure="setup",
    )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """hello runs, and app, which needs it."""
    made = Bench(tmp_path)
    made.publish(hello(), package("app", "1.0", depends=("hello",)))
    made.install("hello", "1.0")
    made.install("app", "1.0")
    return made


@pytest.fixture
def run(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `orbital ...` on the test device; returns exit code and JSON."""
    monkeypatch.setattr("updater.packages.device.open_packages", lambda **_: bench.device)
    monkeypatch.setattr("recovery.state.STATE_ROOT", bench.root)
    monkeypatch.setenv("SUDO_USER", "ada")
    units = {
        f"orbital.{name}.main.service": "active" if name in bench.host.running else "inactive"
        for name in ("hello", "app")
    }

    def show(command: list[str], **_: object) -> Completed:
        text = "\n\n".join(
            f"Id={unit}\nActiveState={units[unit]}\nNRestarts=1"
            for unit in command
            if unit in units
        )
        return Completed(tuple(command), 0, text, "")

    monkeypatch.setattr("recovery.process.run", show)

    def orbital(*words: str) -> tuple[int, Any]:
        code = main([*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return orbital


def test_list_and_info_show_versions_states_and_who_needs_whom(run: Run) -> None:
    code, found = run("package", "list")
    assert code == 0
    assert [(item["name"], item["version"], item["state"]) for item in found["packages"]] == [
        ("app", "1.0", "running"),
        ("hello", "1.0", "running"),
    ]
    code, found = run("package", "info", "hello")
    assert (code, found["summary"], found["needed_by"]) == (0, "Says hello", ["app"])
    assert found["services"][0]["restarts"] == 1
    assert found["installed"] == 1_800_000_000
    code, found = run("package", "info", "nothing")
    assert (code, found["error"]["kind"]) == (6, "refused")


def test_why_names_the_chain_from_what_was_asked_for(run: Run) -> None:
    _, found = run("package", "why", "hello")
    assert found["chains"] == [["hello"], ["app", "hello"]]


def test_disable_and_enable_tell_what_they_did(bench: Bench, run: Run) -> None:
    code, found = run("package", "disable", "app")
    assert code == 0
    assert found["changes"] == [{"verb": "disable", "package": "app", "from": "1.0", "to": "1.0"}]
    assert set(bench.host.running) == {"hello"}
    _, found = run("package", "disable", "app")
    assert found["generation"] is None
    code, found = run("package", "enable", "nothing")
    assert (code, found["error"]["kind"]) == (6, "refused")
    last = bench.device.audit.entries()[-1]
    assert (last.what, last.subject, last.result) == ("package.enable", "nothing", "refused")
    assert last.who == "ada"


def test_rollback_without_a_name_brings_the_set_before(bench: Bench, run: Run) -> None:
    bench.remove("app")
    code, found = run("package", "rollback")
    assert (code, [item["verb"] for item in found["changes"]]) == (0, ["install"])
    assert set(bench.host.running) == {"hello", "app"}


def test_history_and_audit_tell_the_same_story(run: Run) -> None:
    _, found = run("package", "history", "hello")
    assert [(event["what"], event["result"]) for event in found["events"]] == [
        ("package.install", "done")
    ]
    _, found = run("audit")
    assert [entry["seq"] for entry in found["entries"]] == list(range(1, 7))
    _, found = run("audit", "--package", "app", "-n", "1")
    assert [entry["subject"] for entry in found["entries"]] == ["app"]
    code, found = run("audit", "--verify")
    assert (code, found["intact"], found["last"]) == (0, True, 6)


def test_a_changed_audit_trail_is_an_error(bench: Bench, run: Run) -> None:
    path = bench.device.audit.path
    path.write_bytes(path.read_bytes().replace(b'"app"', b'"zzz"', 1))
    code, found = run("audit", "--verify")
    assert code == 9
    assert found["error"]["brief"] == (
        "cannot trust the audit trail: audit.jsonl:5: the line was changed"
    )


def test_gc_says_what_goes(bench: Bench, run: Run) -> None:
    stray = bench.root / "store" / digest_of("stray", "1")
    stray.write_bytes(b"x")
    _, found = run("package", "gc", "--dry-run")
    assert (found["removed"], found["images"]) == ([], [stray.name])
    _, found = run("package", "gc")
    assert found["removed"] == [stray.name]
    assert not stray.exists()


def value(bench: Bench) -> dict[str, Any]:
    """The configuration that the services have."""
    entry = bench.committed.package("hello")
    assert entry is not None
    layer = Paths(bench.base).layer(entry.name, entry.state)
    return layers.merged(hello(), "main", layers.read_config(layer).get("main", {}))


def test_configuration_is_set_in_a_transaction_and_shown(bench: Bench, run: Run) -> None:
    code, found = run(
        "package", "configure", "hello", "main.name=you", "main.port=81", 'main.peers=["a"]',
        "main.deep.on=true",
    )  # fmt: skip
    assert code == 0
    assert found["changes"][0]["verb"] == "adjust"
    wanted = {"name": "you", "port": 81, "peers": ["a"], "deep": {"on": True}}
    assert value(bench) == wanted
    _, found = run("package", "configure", "hello")
    assert found["values"]["main"] == wanted
    run("package", "configure", "hello", "main", "port=82", "name=me")
    assert (value(bench)["port"], value(bench)["name"]) == (82, "me")
    run("package", "configure", "hello", "--unset", "main.port")
    assert value(bench)["port"] == 80


@pytest.mark.parametrize(
    "word",
    ["main.port=0", "main.port=x", "main.other=1", "other.name=x", "main=1", "main.deep=1"],
)
def test_a_value_that_the_schema_does_not_allow_changes_nothing(
    bench: Bench, run: Run, word: str
) -> None:
    number = bench.committed.number
    code, found = run("package", "configure", "hello", word)
    assert (code, found["error"]["kind"]) == (6, "refused")
    assert bench.committed.number == number
    assert bench.device.audit.entries()[-1].what == "package.configure"


def test_a_configuration_that_breaks_the_service_is_taken_back(bench: Bench, run: Run) -> None:
    bench.host.sick.add(digest_of("hello", "1.0"))
    code, found = run("package", "configure", "hello", "main.port=81")
    assert (code, found["error"]["kind"]) == (11, "package")
    assert value(bench)["port"] == 80
    # The version is not to blame for what somebody set.
    assert bench.store.load().quarantined == ()


def test_the_failed_verb_puts_a_package_out_of_action(
    bench: Bench, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {"orbital.hello.main.service": {"ActiveState": "failed", "Result": "signal"}}
    monkeypatch.setattr("updater.packages.failed.ask_units", lambda _: states)
    code, found = run("package", "failed", "hello")
    assert (code, found["action"]) == (0, "disabled")
    assert set(bench.host.running) == {"app"}
    _, found = run("package", "info", "hello")
    assert (found["state"], found["enabled"]) == ("disabled", False)
    assert found["quarantined"] == [["1.0", "service main failed: signal"]]


def test_logs_ask_the_journal_for_the_units_of_the_package(bench: Bench) -> None:
    entry = bench.committed.package("hello")
    assert entry is not None
    assert command(entry, hello(), None, 20, follow=True)[3:] == [
        "--lines=20",
        "--unit=orbital.hello.*.service",
        "--follow",
    ]
    assert command(entry, hello(), "main", 5, follow=False)[4:] == [
        "--unit=orbital.hello.main.service",
        "--unit=orbital.hello.main.*.service",
    ]
    with pytest.raises(RefusedError, match="no service other"):
        command(entry, hello(), "other", 5, follow=False)


def test_a_program_is_named_unless_there_is_only_one() -> None:
    assert choose(hello(), "talk") == "talk"
    only = replace(hello(), programs=hello().programs[:1])
    assert choose(only, None) == "setup"
    with pytest.raises(RefusedError, match="cannot run a program"):
        choose(hello(), None)
    with pytest.raises(RefusedError, match="none of that name"):
        choose(hello(), "other")


def test_chains_end_at_what_was_asked_for_and_a_loop_does_not_hang(bench: Bench) -> None:
    depends = {"app": {"hello"}, "hello": {"lib"}, "lib": {"hello"}}
    found = status.chains("lib", bench.committed, depends)
    assert found == (("hello", "lib"), ("app", "hello", "lib"))


class RunningHost(FakeHost):
    """A host that starts programs as the device's does: what is not granted is refused."""

    def program(
        self, entry: PackageEntry, name: str, arguments: Sequence[str], **_: object
    ) -> list[str]:
        """The command of the package's program, or RefusedError."""
        ready = plans.Ready(entry, self.manifest(entry.digest))
        (program,) = [item for item in ready.package.programs if item.name == name]
        programs.program_properties(ready, program, Paths(self.root), Policy())
        return ["/usr/bin/true", *arguments]


def test_a_program_that_asks_for_what_is_not_granted_is_refused_and_audited(bench: Bench) -> None:
    plain, eager = hello().programs
    bench.publish(
        replace(hello("2.0"), programs=(plain, replace(eager, capabilities=("time.set",))))
    )
    bench.install("hello", "2.0")
    device = dataclasses.replace(bench.device, host=RunningHost(**vars(bench.host)))
    assert run_program(device, "hello", "setup", [], terminal=False, who="ada") == 0
    with pytest.raises(RefusedError, match=r"this system does not grant time\.set"):
        run_program(device, "hello", "talk", [], terminal=False, who="ada")
    *_, last = device.audit.entries()
    assert (last.what, last.subject, last.result, last.who) == (
        "package.run", "hello talk", "refused", "ada",
    )  # fmt: skip
    assert "time.set" in last.detail
