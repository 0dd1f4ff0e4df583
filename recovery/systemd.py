"""What the agent asks of the running system: services, a restart, a line on the console."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from recovery import process, watch
from recovery.errors import OrbitalError

log = logging.getLogger("orbital")


class ServiceManager(Protocol):
    """The running system, as far as the agent needs it."""

    def services(self) -> dict[str, watch.ServiceState]:
        """Every loaded service. Raises ToolError."""

    def pending_jobs(self) -> tuple[str, ...]:
        """Names of units whose start is under way, at most five; empty when unknown."""

    def start_watch(self) -> None:
        """Starts the watch over a fresh commit; if that fails, the next boot starts it."""

    def restart(self) -> None:
        """Restarts the machine without waiting for services. Does not return on a device."""

    def say(self, text: str) -> None:
        """One line on the console."""


class Systemd:
    """systemd, through systemctl."""

    def services(self) -> dict[str, watch.ServiceState]:
        """Every loaded service. Raises ToolError."""
        done = process.run(
            ["systemctl", "show", "--type=service", "--property=Id,NRestarts,ActiveState", "*"],
            timeout=30,
        )
        return watch.parse_services(done.stdout)

    def pending_jobs(self) -> tuple[str, ...]:
        """Names of units whose start is under way, at most five; empty when unknown."""
        try:
            done = process.run(["systemctl", "list-jobs", "--plain", "--no-legend"], timeout=20)
        except OrbitalError:
            return ()
        rows = [line.split() for line in done.stdout.splitlines()]
        return tuple(row[1] for row in rows if len(row) > 3 and row[3] == "running")[:5]

    def start_watch(self) -> None:
        """Starts the watch over a fresh commit; if that fails, the next boot starts it."""
        try:
            process.run(
                ["systemctl", "start", "--no-block", "orbital-probation.service"], timeout=30
            )
        except OrbitalError as error:
            log.error("%s", error)

    def restart(self) -> None:
        """Restarts without asking services: what runs is broken, and ours is durable."""
        try:
            process.run(["systemctl", "reboot", "--force"], timeout=30)
            time.sleep(60)
        except OrbitalError as error:
            log.error("%s", error)
        from recovery import mounts

        mounts.restart()

    def say(self, text: str) -> None:
        """One line on the console."""
        from recovery.early import say

        say(text)
