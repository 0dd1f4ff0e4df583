"""A device that runs Orbital, as its operator sees it: `orbital system ...` through the shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qemu.deadline import Deadline
from qemu.errors import DeadlineExpired, GuestRestarted
from qemu.machine import Machine
from qemu.shell import Result

Document = dict[str, Any]
SETTLE_SECONDS = 900
"""Until a boot has settled: on a machine that emulates slowly, and with a margin."""
# Long enough for every granted try to end in the watchdog (60 s each).
_FALLBACK_SECONDS = 1800
_COMMAND_SECONDS = 300
# Waits in the guest until nothing is being started: a loop of ours that asks for it took up to
# half of an emulated processor. Bounded, for a boot that hangs; the health unit's word counts.
_VERDICT = (
    "timeout 60 systemctl is-system-running --wait >/dev/null;"
    " systemctl is-active orbital-health.service"
)
_VERDICT_SECONDS = 180
# Until the device is asked again: each answer starts a Python.
_AGAIN_SECONDS = 5.0
_UPDATE_SECONDS = 900
# A change of packages under emulation: a dozen services start and are checked.
_PACKAGE_SECONDS = 600


class Device:
    """The operator's view of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def orbital(self, *words: str, timeout: float = _COMMAND_SECONDS, check: bool = True) -> Result:
        """Runs `orbital ...` in the guest."""
        return self.machine.run(shlex.join(["orbital", *words]), timeout, check=check)

    def ask(self, *words: str, timeout: float = _COMMAND_SECONDS, check: bool = True) -> Document:
        """Runs `orbital ... --json` and returns the document."""
        # Progress goes to standard error, which must not mix with the document.
        command = f"{shlex.join(['orbital', *words, '--json'])} 2>/run/orbital-stderr"
        result = self.machine.run(command, timeout, check=False)
        if check and result.returncode != 0:
            noise = self.machine.run("tail -c 2000 /run/orbital-stderr", check=False).output
            raise AssertionError(
                f"{command}: exit code {result.returncode}\n{result.output}{noise}"
            )
        document: Document = json.loads(result.output)
        return document

    def status(self) -> Document:
        """What `orbital system status` says."""
        return self.ask("system", "status")

    def history(self) -> list[Document]:
        """The events of `orbital system history`, oldest first."""
        events: list[Document] = self.ask("system", "history")["events"]
        return events

    def update(
        self, source: str, to: str | None = None, timeout: float = _UPDATE_SECONDS
    ) -> Document:
        """Installs an update; the device still runs the old version afterwards."""
        words = ["system", "update", "--source", source, *(["--to", to] if to else [])]
        return self.ask(*words, timeout=timeout)

    def package(
        self, *words: str, source: str | None = None, timeout: float = _PACKAGE_SECONDS
    ) -> Document:
        """Runs `orbital package ...` and returns the document."""
        return self.ask("package", *words, *_from(source), timeout=timeout)

    def install(self, source: str, *names: str, timeout: float = _PACKAGE_SECONDS) -> Document:
        """Installs packages; they are committed afterwards."""
        return self.package("install", *names, source=source, timeout=timeout)

    def packages(self) -> dict[str, Document]:
        """What `orbital package list` says, by name (of a library: of its newest version)."""
        listed: list[Document] = self.package("list")["packages"]
        return {item["name"]: item for item in listed}

    def run_program(
        self, package: str, program: str, *words: str, timeout: float = 300, check: bool = True
    ) -> Result:
        """Runs a program of a package: `orbital package run PACKAGE PROGRAM ...`."""
        return self.orbital(
            "package", "run", package, program, *words, timeout=timeout, check=check
        )

    def configure(self, package: str, name: str, **values: object) -> Document:
        """Sets values of a package's configuration slice; its services start again with them."""
        words = [
            f"{name}.{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in values.items()
        ]
        return self.package("configure", package, *words)

    def unit(self, package: str, service: str) -> dict[str, str]:
        """What systemd says of a service: ActiveState, NRestarts, MainPID, InvocationID."""
        names = "ActiveState,SubState,NRestarts,MainPID,InvocationID,ConditionResult"
        unit = f"orbital.{package}.{service}.service"
        text = self.machine.run(f"systemctl show -p {names} {unit}").output
        return dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)

    def audit(self) -> list[Document]:
        """All entries of `orbital audit`, oldest first, whose chain is whole."""
        assert self.ask("audit", "--verify")["intact"] is True
        entries: list[Document] = self.ask("audit", "--last", "0")["entries"]
        return entries

    def refused(self, *words: str, timeout: float = _UPDATE_SECONDS) -> str:
        """Runs `orbital ...`, which must fail, and returns the error's text."""
        document = self.ask(*words, timeout=timeout, check=False)
        assert "error" in document, f"not refused: {document}"
        error = document["error"]
        return "\n".join(str(error.get(key, "")) for key in ("brief", "details", "resolution"))

    def reboot(self) -> None:
        """Asks for a reboot and returns at once."""
        # Not `systemctl reboot`: it asks logind first, which a small product does not have.
        self.machine.run(
            "systemctl start reboot.target --job-mode=replace-irreversibly --no-block", check=False
        )

    def settle(
        self,
        timeout: float = SETTLE_SECONDS,
        *,
        when: Callable[[Document], bool] | None = None,
    ) -> Document:
        """Waits, over as many reboots as it takes, until no trial is under way.

        when: a further condition on the status. Returns the status.
        """
        deadline = Deadline.of(timeout)
        status: Document = {}
        while not deadline.expired:
            try:
                self.machine.wait_shell(deadline)
                # The verdict of this boot is known when the health unit is through.
                state = self.machine.run(_VERDICT, _VERDICT_SECONDS, check=False).output.strip()
                if state in ("active", "failed"):
                    status = self.status()
                    if status["trial"] is None and (when is None or when(status)):
                        return status
            except (GuestRestarted, AssertionError, json.JSONDecodeError):
                pass
            deadline.pause(_AGAIN_SECONDS)
        raise DeadlineExpired(
            f"cannot see the device settled within {timeout:g} s",
            details=f"last status: {json.dumps(status)}\n{self.machine.console.tail()}",
        )

    def fallen_back(self, version: str | None = None) -> Document:
        """Waits until the device has given a version up and runs what is committed; the status.

        version: that one, or else any.
        """

        def over(status: Document) -> bool:
            given_up = [item["version"] for item in status["quarantined"]]
            return status["committed"] and (version in given_up if version else bool(given_up))

        return self.settle(_FALLBACK_SECONDS, when=over)

    def rest(self, timeout: float = SETTLE_SECONDS) -> None:
        """Waits until nothing is being started any more, well or not."""
        self.machine.run("systemctl is-system-running --wait", timeout, check=False)

    def restart(self, timeout: float = SETTLE_SECONDS) -> Document:
        """Reboots and waits until the device has settled; returns the status."""
        before = self.machine.wait_shell(120)
        self.reboot()
        self.machine.shell.wait(timeout, not_boot=before)
        return self.settle(timeout)


def _from(source: str | None) -> tuple[str, ...]:
    return ("--source", source) if source else ()


def insert_stick(machine: Machine, image: Path) -> None:
    """Plugs a USB stick with that raw image in."""
    machine.qmp.execute(
        "blockdev-add",
        {
            "driver": "raw",
            "node-name": "stick",
            "read-only": True,
            "file": {"driver": "file", "filename": str(image)},
        },
    )
    machine.qmp.execute("device_add", {"driver": "usb-storage", "id": "stick0", "drive": "stick"})


def plug_stick(machine: Machine, image: Path) -> str:
    """Plugs a USB stick with that raw image in and mounts it; returns where."""
    insert_stick(machine, image)
    mount = "/run/stick"
    machine.run(
        f"mkdir -p {mount}; for try in $(seq 60); do"
        f" mount -o ro /dev/sda {mount} && exit 0; sleep 1; done; exit 1",
        90,
    )
    return mount
