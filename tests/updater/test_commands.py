"""orbital system and orbital repository as a person or a program runs them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from imager.keys import make_development_keys
from imager.repository.anchor import make_anchor
from orbital.main import main
from recovery.boot import BootReport, write_report
from recovery.device import UpdatePolicy, encode
from recovery.errors import StateError
from recovery.state import StateStore
from tests.updater.devices import FileDevice
from tests.updater.images import build_image
from tests.updater.publisher import Publisher
from updater.device import open_device
from updater.update import Outcome, Request

Run = Callable[..., tuple[int, Any]]

REBOOT = "systemctl start reboot.target --job-mode=replace-irreversibly --no-block"


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """A repository that is valid now: commands take the time from the clock."""
    made = Publisher(tmp_path / "publisher")
    made.now = datetime.now(UTC)
    made.refresh()
    return made


@pytest.fixture
def run(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs `orbital system ...` on the test device; returns exit code and JSON."""
    monkeypatch.setattr("updater.device.open_device", lambda: device.device)

    def command(*words: str) -> tuple[int, Any]:
        code = main(["system", *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return command


@pytest.fixture
def device_run(device: FileDevice, run: Run) -> tuple[FileDevice, Run]:
    """The test device, and what runs commands on it."""
    return device, run


def set_policy(device: FileDevice, **policy: object) -> None:
    """Gives the device an update policy."""
    update = dataclasses.replace(UpdatePolicy(source=device.source), **policy)  # type: ignore[arg-type]
    config = dataclasses.replace(device.device.config, update=update)
    device.device = dataclasses.replace(device.device, config=config)


def rebooted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Catches reboots instead of doing them."""
    commands: list[str] = []
    monkeypatch.setattr(
        "recovery.process.run", lambda command, **_: commands.append(" ".join(command))
    )
    return commands


def test_check_update_status_and_history_tell_one_story(
    publisher: Publisher, device: FileDevice, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "ada")
    publisher.publish(publisher.build("2.0"), summary="new radio")
    source = ("--source", device.source)
    code, found = run("update", "--check", *source)
    assert (code, found["running"], found["offer"], found["summary"]) == (
        0,
        "1.0",
        "2.0",
        "new radio",
    )
    code, found = run("update", *source)
    assert code == 0
    assert (found["installed"]["version"], found["installed"]["slot"]) == ("2.0", "b")
    assert found["rebooting"] is False
    code, found = run("status")
    assert (code, found["version"], found["slot"], found["next_slot"]) == (0, "1.0", "a", "b")
    assert (found["running"]["number"], found["committed"]) == (1, True)
    assert (found["trial"]["version"], found["trial_waiting"]) == ("2.0", True)
    monkeypatch.setattr("recovery.state.StateStore", lambda: device.store)
    code, found = run("history")
    assert [(event["event"], event["requested_by"]) for event in found["events"]] == [
        ("installed", "ada")
    ]
    code, found = run("update", *source)
    assert (code, found["error"]["kind"]) == (6, "refused")


def test_human_output_names_the_next_step(
    publisher: Publisher,
    device: FileDevice,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("updater.device.open_device", lambda: device.device)
    publisher.release("2.0")
    assert main(["system", "update", "--source", device.source]) == 0
    text = capsys.readouterr().out
    assert "installed 2.0 into slot b as generation 2" in text
    assert "systemctl reboot" in text
    assert main(["system", "status"]) == 0
    assert "waiting for a reboot: 2.0 (generation 2, slot b)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({}, "automatic updates are off"),
        ({"automatic": True, "source": ""}, "no update source"),
        ({"automatic": True, "window_start": "02:00", "window_end": "02:01"}, "maintenance window"),
    ],
)
def test_unattended_update_obeys_the_policy(
    publisher: Publisher, device: FileDevice, run: Run, policy: Mapping[str, object], reason: str
) -> None:
    publisher.release("2.0")
    set_policy(device, **policy)
    before = device.snapshot()
    if datetime.now().strftime("%H:%M") == "02:00":
        pytest.skip("the clock is inside the test's window")
    code, found = run("update", "--unattended", "--reboot")
    assert code == 0
    assert reason in found["reason"]
    assert device.snapshot() == before


@pytest.mark.parametrize(
    ("policy", "words", "expected"),
    [
        ("bytes", (), "bytes"),
        ("time", (), "time"),
        ("time", ("--prefer", "bytes"), "bytes"),
        ("bytes", ("--prefer", "time"), "time"),
    ],
)
def test_what_an_update_spares_is_the_policy_s_unless_a_person_says_otherwise(
    device_run: tuple[FileDevice, Run],
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    words: tuple[str, ...],
    expected: str,
) -> None:
    device, run = device_run
    set_policy(device, prefer=policy)
    asked: list[Request] = []

    def update(_: object, request: Request, *_more: object) -> Outcome:
        asked.append(request)
        return Outcome(None, "")

    monkeypatch.setattr("updater.update.update", update)
    code, _found = run("update", *words)
    assert code == 0
    assert [request.prefer for request in asked] == [expected]


@pytest.mark.parametrize("reboot", [True, False])
def test_unattended_update_installs_and_reboots_as_the_policy_says(
    publisher: Publisher,
    device: FileDevice,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    reboot: bool,
) -> None:
    image = publisher.release("2.0")
    set_policy(device, automatic=True, reboot=reboot)
    commands = rebooted(monkeypatch)
    code, found = run("update", "--unattended", "--reboot")
    assert (code, found["rebooting"]) == (0, reboot)
    assert commands == ([REBOOT] if reboot else [])
    record = device.store.load()
    assert record.trial is not None
    generation = device.store.generations.load(record.trial.generation)
    assert generation is not None
    assert generation.requested_by == "timer"
    assert device.slot_bytes("b", len(image.root)) == image.root
    code, found = run("update", "--unattended", "--reboot")
    assert code == 0, "an open trial is an ordinary day for the timer"
    assert "still on trial" in found["reason"]


def test_unattended_update_reports_a_tampered_repository_as_a_failure(
    publisher: Publisher, device: FileDevice, run: Run
) -> None:
    publisher.release("2.0")
    set_policy(device, automatic=True)
    (publisher.repository / "metadata" / "timestamp.json").write_bytes(b"{}")
    code, found = run("update", "--unattended")
    assert (code, found["error"]["kind"]) == (4, "trust")


def test_rollback_without_an_earlier_generation_is_refused(run: Run) -> None:
    code, found = run("rollback")
    assert code == 6
    assert "no earlier generation is kept" in found["error"]["brief"]


def fake_root(root: Path, device: FileDevice, *, volatile: bool = False) -> None:
    """The files that a booted device has below /."""
    (root / "usr/lib/orbital").mkdir(parents=True)
    config = dataclasses.replace(device.device.config, boot_control="systemd-boot")
    (root / "usr/lib/orbital/device.json").write_bytes(encode(config))
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("1 0 253:0 / / ro - erofs /dev/dm-0 ro\n")
    (root / "proc/cmdline").write_text("orbital.roothash=aa\n")
    for number, label in enumerate(("root-a", "root-b")):
        block = root / "sys/class/block" / f"vda{number}"
        block.mkdir(parents=True)
        (block / "uevent").write_text(f"DEVNAME=vda{number}\nPARTNAME={label}\n")
    report = BootReport("boot-7", "b", 5, trial=False, volatile=volatile, notes=("disk is bad",))
    write_report(report, root)
    (root / "run/orbital/slot").write_text("b\n")


def test_opening_a_booted_device(device: FileDevice, tmp_path: Path) -> None:
    root = tmp_path / "root"
    fake_root(root, device)
    opened = open_device(root)
    assert opened.slots == {"a": root / "dev/vda0", "b": root / "dev/vda1"}
    assert (opened.boot_id, opened.generation, opened.inactive) == ("boot-7", 5, "a")
    assert opened.anchor == root / "usr/lib/orbital/trust/root.json"
    assert opened.store.root == root / "state/orbital"
    assert isinstance(opened.store, StateStore)


def test_device_whose_state_would_not_last_is_not_changed(
    device: FileDevice, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    fake_root(root, device, volatile=True)
    with pytest.raises(StateError, match="disk is bad"):
        open_device(root)


def test_repository_commands_from_keys_to_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, repository = str(tmp_path / "keys"), str(tmp_path / "repository")
    make_development_keys(Path(keys))
    make_anchor(Path(keys))
    image = build_image(tmp_path / "build", "1.0")

    def command(*words: str) -> Any:
        assert main(["repository", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    command("init", repository, "--keys", keys, "--timestamp-days", "3")
    done = command(
        "publish", repository, str(image.directory), "--keys", keys, "--summary", "first",
        "--allow-downgrade-from", "2.0",
    )  # fmt: skip
    assert done["published"][0]["version"] == "1.0"
    listed = command("list", repository)
    (offer,) = listed["offers"]
    assert (offer["summary"], offer["downgrade_from"]) == ("first", ["2.0"])
    timestamp = listed["roles"][-1]
    days = (datetime.fromisoformat(timestamp["expires"]) - datetime.now(UTC)).days
    assert (timestamp["role"], days) == ("timestamp", 2)
    assert command("refresh", repository, "--keys", keys)["signed"]["timestamp"] == 3
    assert main(["repository", "init", repository, "--keys", keys]) == 6
    assert "there is one" in capsys.readouterr().err
