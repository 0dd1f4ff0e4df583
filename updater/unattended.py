"""Unattended updates: what the timer's service may do now. Pure."""

from __future__ import annotations

from datetime import datetime

from recovery.device import UpdatePolicy
from updater import window


def reason_to_wait(policy: UpdatePolicy, moment: datetime) -> str:
    """Why nothing may be installed unattended at the local moment; empty when it may.

    Raises ManifestError when the window is not valid.
    """
    if not policy.automatic:
        return "automatic updates are off"
    if not policy.source:
        return "no update source is configured"
    allowed = window.parse(policy.window_start, policy.window_end)
    if allowed is not None and not allowed.contains(moment):
        return f"outside the maintenance window {allowed}"
    return ""
