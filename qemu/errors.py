"""What can go wrong between a test and its machine."""

from __future__ import annotations

from recovery.errors import ToolError


class MachineError(ToolError):
    """A virtual machine, or a program that serves it, did not do what was asked."""

    kind = "machine"


class DeadlineExpired(MachineError):
    """Something did not happen in time; the machine still runs."""


class MachineExited(MachineError):
    """QEMU is gone: it failed, was killed, or the guest powered off."""


class GuestRestarted(MachineError):
    """The guest (or its test shell) restarted before a command was answered."""


class CommandFailed(MachineError):
    """A command in the guest ended with another code than 0."""
