"""One virtual machine: disk, firmware, console, network, root shell, watchdog, power.

    with Machine(hardware, disk=factory, directory=artifacts) as machine:
        machine.wait_console("systemd", 60)
        print(machine.run("orbital system status").output)
        machine.kill()       # power cut
        machine.start()      # the same disk again

All a machine does is kept in its directory:

    command       QEMU's command line, to paste
    console.log   what the guest printed, with seconds since the start
    shell.log     commands run in the guest and what they printed
    qmp.log       QEMU's control protocol
    qemu.log      QEMU's own messages
    disk.qcow2    the disk: an overlay, the image given is never written
    variables.fd  the firmware's variables
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from qemu import children, storage
from qemu.console import Console
from qemu.credentials import shell_credentials
from qemu.deadline import Deadline
from qemu.errors import DeadlineExpired, GuestRestarted, MachineError, MachineExited
from qemu.hardware import Forward, Hardware, Wiring, command_line
from qemu.qmp import Event, Qmp
from qemu.shell import Result, Shell
from qemu.sockets import Listeners

_CONNECT_SECONDS = 30


@dataclass(frozen=True)
class _Running:
    """What lives as long as one QEMU process."""

    process: subprocess.Popen[bytes]
    listeners: Listeners
    started: float
    qmp: Qmp
    console: Console
    shell: Shell | None


class Machine:
    """A machine with its own copy of the disk, off until `start` or the `with` block.

    disk: raw or qcow2 image; the machine works on an overlay in its directory,
        which keeps its content over `kill`, `stop` and `start`.
    directory: where all files of the machine go; must exist.
    variables: variable store to start from, e.g. with enrolled keys (Secure
        Boot is on when it holds a platform key); the hardware's template otherwise.
    disk_size: bytes, to make the disk larger than the image.
    forwards: ports of the host that lead into the guest.
    credentials: more systemd credentials for the guest, beside the shell's.
    shell: whether the guest gets the root shell.
    extra: more QEMU options.
    """

    def __init__(
        self,
        hardware: Hardware,
        disk: Path,
        directory: Path,
        *,
        variables: Path | None = None,
        disk_size: int | None = None,
        network: bool = True,
        forwards: Sequence[Forward] = (),
        credentials: Mapping[str, bytes] | None = None,
        shell: bool = True,
        extra: Sequence[str] = (),
    ) -> None:
        self.hardware = hardware
        self.directory = directory
        self.disk = directory / "disk.qcow2"
        self.variables = directory / "variables.fd"
        self._base = disk
        self._base_variables = variables or hardware.firmware_variables
        self._disk_size = disk_size
        self.network = network
        self.forwards = tuple(forwards)
        self.credentials = {**(shell_credentials() if shell else {}), **(credentials or {})}
        self.has_shell = shell
        self.extra = tuple(extra)
        self.console_listener: Callable[[bytes], None] | None = None
        self._running: _Running | None = None

    def __enter__(self) -> Machine:
        if self._running is None:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        """Whether QEMU runs."""
        return self._running is not None and self._running.process.poll() is None

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._current.process.pid

    @property
    def qmp(self) -> Qmp:
        """QEMU's control protocol."""
        return self._current.qmp

    @property
    def console(self) -> Console:
        """The serial console of the current (or last) run."""
        return self._current.console

    @property
    def shell(self) -> Shell:
        """The root shell in the guest."""
        shell = self._current.shell
        if shell is None:
            raise MachineError("cannot use the guest's shell: the machine was made without one")
        return shell

    @property
    def uptime(self) -> float:
        """Seconds since QEMU was started."""
        return time.monotonic() - self._current.started

    def prepare(self) -> None:
        """Makes the machine's own disk and variables, if they are not there yet."""
        if not self.disk.exists():
            storage.create_overlay(self.disk, self._base, self._disk_size)
        if self._base_variables and not self.variables.exists():
            shutil.copyfile(self._base_variables, self.variables)

    def start(self, *, restore: bool = False) -> None:
        """Switches the machine on; returns as soon as QEMU runs.

        restore: wait for a saved state instead of booting (see qemu.snapshot).
        Raises MachineExited with QEMU's messages when it refuses to start.
        """
        if self.running:
            raise MachineError("cannot start the machine: it runs already")
        self.prepare()
        listeners = Listeners()
        wiring = Wiring(
            disk=self.disk,
            variables=self.variables if self._base_variables else None,
            qmp=listeners.path("qmp"),
            console=listeners.path("console"),
            shell=listeners.path("shell") if self.has_shell else None,
            network=self.network,
            forwards=self.forwards,
            credentials=self.credentials,
            restore=restore,
            extra=self.extra,
        )
        command = command_line(self.hardware, wiring)
        (self.directory / "command").write_text(shlex.join(command) + "\n")
        started = time.monotonic()
        process = children.start(command, self._log("qemu"))
        try:
            self._running = self._connect(process, listeners, started)
        except MachineExited as error:
            listeners.close()
            raise children.explained(
                error, self.hardware.binary, process, self._log("qemu")
            ) from error
        except BaseException:
            children.end(process)
            listeners.close()
            raise

    def _connect(
        self, process: subprocess.Popen[bytes], listeners: Listeners, started: float
    ) -> _Running:
        deadline = Deadline(_CONNECT_SECONDS)
        log = self._log("qemu")
        name = self.hardware.binary
        console = Console(
            listeners.accept("console", name, process, log, deadline),
            self._log("console"),
            started,
            lambda data: self.console_listener(data) if self.console_listener else None,
        )
        qmp_connection = listeners.accept("qmp", name, process, log, deadline)
        shell: Shell | None = None
        if self.has_shell:
            connection = listeners.accept("shell", name, process, log, deadline)
            shell = Shell(connection, self._log("shell"))

        def on_event(event: Event) -> None:
            closed = event.name == "VSERPORT_CHANGE" and not event.data["open"]
            if shell and (closed or event.name == "RESET"):
                shell.port_closed()

        qmp = Qmp(qmp_connection, self._log("qmp"), on_event)
        return _Running(process, listeners, started, qmp, console, shell)

    def kill(self) -> None:
        """Cuts the power: what the guest has not flushed may be lost. No-op when off.

        The disk, variables and logs stay; `start` switches it on again.
        """
        if self._running is None:
            return
        children.end(self._running.process)
        self._running.console.close()
        self._running.qmp.close()
        if self._running.shell:
            self._running.shell.close()
        self._running.listeners.close()

    def stop(self, timeout: float = 90) -> None:
        """Shuts the guest down in good order.

        Through the root shell when there is one; otherwise by the ACPI power
        button, which the guest may not listen to.
        Raises DeadlineExpired when it does not end; it runs on then.
        """
        deadline = Deadline.of(timeout)
        shell = self._current.shell
        if shell and shell.boot_id:
            # The machine may be off before the answer is out.
            with suppress(MachineExited, GuestRestarted):
                shell.run("systemctl poweroff", deadline.remaining)
        else:
            self.qmp.execute("system_powerdown")
        self.wait(deadline)

    def reset(self) -> None:
        """Presses the reset button."""
        self.qmp.execute("system_reset")

    def reboot(self, timeout: float = 180) -> str:
        """Reboots in good order, waits for the new shell and returns the new boot id."""
        with self._explained():
            before = self.shell.wait(timeout)
            self.shell.run("systemctl reboot", timeout)
            return self.shell.wait(timeout, not_boot=before)

    def wait(self, timeout: Deadline | float) -> int:
        """Waits until QEMU ends by itself (the guest powers off) and returns its exit code."""
        deadline = Deadline.of(timeout)
        try:
            code = self._current.process.wait(deadline.remaining)
        except subprocess.TimeoutExpired:
            raise DeadlineExpired(
                f"cannot see the machine off within {deadline.seconds:g} s",
                details=self.console.tail(),
            ) from None
        self.kill()
        return code

    def wait_console(self, pattern: str, timeout: Deadline | float, since: int = 0) -> str:
        """Waits for a regular expression on the console and returns what matched.

        since: a mark of `console.mark`, to ignore what was printed before.
        """
        with self._explained():
            return self.console.wait(pattern, timeout, since).group(0)

    def wait_shell(self, timeout: Deadline | float) -> str:
        """Waits for the guest's shell and returns the boot id."""
        with self._explained():
            try:
                return self.shell.wait(timeout)
            except DeadlineExpired as error:
                raise DeadlineExpired(
                    error.brief, details=self.console.tail(), resolution=error.resolution
                ) from error

    def run(self, command: str, timeout: float = 60, *, check: bool = True) -> Result:
        """Runs a command in the guest; see `Shell.run`."""
        with self._explained():
            return self.shell.run(command, timeout, check=check)

    def wait_reset(self, timeout: Deadline | float, since: int = 0) -> None:
        """Waits until the machine is reset, by the guest, the watchdog or `reset`.

        since: a mark of `qmp.mark`. Raises DeadlineExpired or MachineExited.
        """
        with self._explained():
            self.qmp.wait_event("RESET", timeout, since=since)

    def written(self) -> int:
        """Bytes that the guest wrote to the disk since the machine was started."""
        stats = self.qmp.execute("query-blockstats")
        return sum(int(device["stats"]["wr_bytes"]) for device in stats if device.get("qdev"))

    @property
    def _current(self) -> _Running:
        if self._running is None:
            raise MachineError("cannot use the machine: it was never started")
        return self._running

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Adds to an error that QEMU is gone why it is gone."""
        try:
            yield
        except MachineExited as error:
            process, log = self._current.process, self._log("qemu")
            raise children.explained(error, self.hardware.binary, process, log) from error
