"""Judges from what systemd says of its services whether one crashes in a loop. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from recovery import unitstates
from recovery.value import Value

# Restarts of one service within one observation that make a crash loop.
RESTARTS = 3


class ServiceState(Value):
    """restarts: by systemd itself, since boot. failed: given up."""

    restarts: int
    failed: bool


def parse_services(text: str) -> dict[str, ServiceState]:
    """The image's services in the output of systemctl show."""
    services = {}
    for name, values in unitstates.parse(text).items():
        restarts = values.get("NRestarts", "")
        # Packages have a handler of their own: their crash loops are not the image's.
        if restarts.isdigit() and not name.startswith("orbital."):
            failed = values.get("ActiveState") == "failed"
            services[name] = ServiceState(int(restarts), failed)
    return services


def crash_loop(before: Mapping[str, ServiceState], now: Mapping[str, ServiceState]) -> str:
    """Names the service that crashes again and again, or "".

    before: at the start of the observation. A service that systemd gave up
    after restarts counts even if all of them were before the observation.
    """
    for name in sorted(now):
        state = now[name]
        earlier = before[name].restarts if name in before else 0
        if state.restarts - earlier >= RESTARTS:
            return f"{name} crashes again and again ({state.restarts} restarts)"
        if state.failed and state.restarts >= RESTARTS:
            return f"{name} crashed until systemd gave it up ({state.restarts} restarts)"
    return ""
