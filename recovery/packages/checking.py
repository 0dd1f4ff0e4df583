"""Waits until services work: every check until it passed once or its deadline is over.

A check that fails is repeated until the service's deadline is over; a service
that has failed for good ends its package's wait at once.
"""

from __future__ import annotations

import time

from recovery import process, unitstates
from recovery.packages import model
from recovery.packages.units import check_unit, has_check_unit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recovery.packages.model import Service

_PAUSE_SECONDS = 0.2
_SETTLE_SECONDS = 2.0
_PROPERTIES = "Id,ActiveState,SubState,Result,InvocationID,ConditionResult,NRestarts"


class _Wait:
    """One service on its way."""

    def __init__(self, package: str, service: Service, started: float) -> None:
        self.package = package
        self.service = service
        self.unit = model.unit_name(package, service.name)
        self.check = check_unit(package, service.name)
        self.deadline = started + service.check.deadline_seconds
        self.asked = ""  # invocation of the check before the one that we asked for
        self.active_since: float | None = None
        self.restarts = ""


class Checking:
    """The checks of several services, side by side."""

    def __init__(self, wanted: Sequence[tuple[str, Service]]) -> None:
        """wanted: (package, service) of services that have been started."""
        now = time.monotonic()
        self._waiting = [_Wait(package, service, now) for package, service in wanted]
        self._started: set[str] = set()

    def run(self) -> dict[str, str]:
        """Why by package, of those that failed. Raises ToolError when systemd does not answer."""
        failures: dict[str, str] = {}
        while self._waiting:
            states = self._states()
            again: list[str] = []
            left: list[_Wait] = []
            for wait in self._waiting:
                if wait.package in failures:
                    continue
                passed, problem = self._judge(wait, states, again)
                if problem:
                    failures[wait.package] = problem
                elif not passed:
                    left.append(wait)
            if again:
                process.run(["systemctl", "restart", "--no-block", *again], timeout=60, check=False)
            self._waiting = left
            if left:
                time.sleep(_PAUSE_SECONDS)
        return failures

    def _judge(
        self, wait: _Wait, states: dict[str, dict[str, str]], again: list[str]
    ) -> tuple[bool, str]:
        """Whether the service has passed, and why it has failed."""
        name = wait.service.name
        state = states.get(wait.unit, {})
        active = state.get("ActiveState", "")
        if active == "failed":
            return False, f"service {name} failed: {state.get('Result') or 'unknown'}"
        late = time.monotonic() >= wait.deadline
        if wait.service.check.kind == "active":
            passed = self._steady(wait, state)
        else:
            passed = self._checked(wait, states.get(wait.check, {}), again)
        if passed or not late:
            return passed, ""
        if active != "active":
            return False, f"service {name} is {active or 'unknown'} when its time is over"
        return False, f"the check of service {name} did not pass in time"

    def _steady(self, wait: _Wait, state: dict[str, str]) -> bool:
        """Active for a moment without a restart: a simple service is active before it fails."""
        if state.get("ActiveState") != "active":
            wait.active_since = None
            return False
        if wait.active_since is None or state.get("NRestarts") != wait.restarts:
            wait.active_since, wait.restarts = time.monotonic(), state.get("NRestarts", "")
        needed = 0.0 if wait.service.kind in ("notify", "bus", "oneshot") else _SETTLE_SECONDS
        return time.monotonic() - wait.active_since >= needed

    def _checked(self, wait: _Wait, state: dict[str, str], again: list[str]) -> bool:
        """Whether the run of the check that we asked for has passed; asks again if it failed."""
        invocation, active = state.get("InvocationID", ""), state.get("ActiveState", "")
        if wait.check in self._started:
            if invocation != wait.asked and active == "active":
                return True
            if invocation == wait.asked or active != "failed":
                return False  # queued behind its service, or running
        self._started.add(wait.check)
        wait.asked = invocation
        again.append(wait.check)
        return False

    def _states(self) -> dict[str, dict[str, str]]:
        units = [wait.unit for wait in self._waiting]
        units += [wait.check for wait in self._waiting if has_check_unit(wait.service.check)]
        done = process.run(["systemctl", "show", f"--property={_PROPERTIES}", *units], timeout=30)
        return unitstates.parse(done.stdout)
