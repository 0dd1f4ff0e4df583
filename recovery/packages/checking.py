"""Waits until services work: every check until it passed once or its deadline is over.

A check that fails is repeated until the service's deadline is over; a service
that has failed for good ends its package's wait at once.
"""

from __future__ import annotations

import contextlib
import time

from recovery.packages import model
from recovery.packages.manager import UnitRefusedError
from recovery.packages.units import check_unit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recovery.packages.manager import Manager, UnitState
    from recovery.packages.model import Service

_PAUSE_SECONDS = 0.2
_SETTLE_SECONDS = 2.0


class _Wait:
    """One service on its way."""

    def __init__(self, package: str, service: Service, started: float) -> None:
        self.package = package
        self.service = service
        self.unit = model.unit_name(package, service.name)
        self.check = check_unit(package, service.name)
        self.deadline = started + service.check.deadline_seconds
        self.job = ""  # the run of the check that we asked for
        self.active_since: float | None = None
        self.restarts = ""


class Checking:
    """The checks of several services, side by side."""

    def __init__(self, manager: Manager, wanted: Sequence[tuple[str, Service]]) -> None:
        """wanted: (package, service) of services that have been started."""
        now = time.monotonic()
        self._manager = manager
        self._waiting = [_Wait(package, service, now) for package, service in wanted]

    def run(self) -> dict[str, str]:
        """Why by package, of those that failed. Raises ToolError when systemd does not answer."""
        failures: dict[str, str] = {}
        while self._waiting:
            states = self._manager.states([wait.unit for wait in self._waiting])
            left: list[_Wait] = []
            for wait in self._waiting:
                if wait.package in failures:
                    continue
                passed, problem = self._judge(wait, states.get(wait.unit))
                if problem:
                    failures[wait.package] = problem
                elif not passed:
                    left.append(wait)
            self._waiting = left
            if left:
                self._manager.pause([wait.job for wait in left if wait.job], _PAUSE_SECONDS)
        return failures

    def _judge(self, wait: _Wait, state: UnitState | None) -> tuple[bool, str]:
        """Whether the service has passed, and why it has failed."""
        name = wait.service.name
        active = state.active if state is not None else ""
        if state is not None and active == "failed":
            result = self._manager.property(state, "Result")
            return False, f"service {name} failed: {result or 'unknown'}"
        late = time.monotonic() >= wait.deadline
        if wait.service.check.kind == "active":
            passed = self._steady(wait, state)
        else:
            passed = self._checked(wait)
        if passed or not late:
            return passed, ""
        if active != "active":
            return False, f"service {name} is {active or 'unknown'} when its time is over"
        return False, f"the check of service {name} did not pass in time"

    def _steady(self, wait: _Wait, state: UnitState | None) -> bool:
        """Active for a moment without a restart: a simple service is active before it fails."""
        if state is None or state.active != "active":
            wait.active_since = None
            return False
        restarts = self._manager.property(state, "NRestarts")
        if wait.active_since is None or restarts != wait.restarts:
            wait.active_since, wait.restarts = time.monotonic(), restarts
        needed = 0.0 if wait.service.kind in ("notify", "bus", "oneshot") else _SETTLE_SECONDS
        return time.monotonic() - wait.active_since >= needed

    def _checked(self, wait: _Wait) -> bool:
        """Whether the run of the check that we asked for has passed; asks again if it has not."""
        result = self._manager.result(wait.job) if wait.job else "never asked"
        if result and result != "done":
            wait.job = ""
            # A restart: one that passed for the version before counts for nothing.
            with contextlib.suppress(UnitRefusedError):
                wait.job = self._manager.enqueue("RestartUnit", wait.check)
        return result == "done"
