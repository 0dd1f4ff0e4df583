"""Health checks as systems and packages declare them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from manifests.fields import Name, Unit, matching
from manifests.problem import Problem
from recovery import device

Deadline = Annotated[int, Meta(ge=1, le=3600, extra={"expected": "seconds from 1 to 3600"})]
Port = Annotated[int, Meta(ge=1, le=65535, extra={"expected": "a port from 1 to 65535"})]
Status = Annotated[int, Meta(ge=100, le=599, extra={"expected": "an HTTP status from 100 to 599"})]
Program = Annotated[
    str, Meta(min_length=1, extra={"expected": "a program or an argument, not empty"})
]
HttpUrl = Annotated[
    str,
    matching(r"^http://\S+$", "an address that starts with http://"),
]
Host = Annotated[str, matching(r"^[A-Za-z0-9.:-]+$", "a host name or IP address")]


class _Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every check has.

    name: unique among all checks of the product; history names it when it fails.
    deadline_seconds: time from the start of the health run within which the check
        must have passed once; it is retried until then.
    """

    name: Name
    deadline_seconds: Deadline = 60


class ExecCheck(_Check, frozen=True, tag="exec", kw_only=True):
    """Passes when a program exits with 0.

    command: the program (a full path) and its arguments; no shell.
    """

    command: Annotated[tuple[Program, ...], Meta(min_length=1)]


class HttpCheck(_Check, frozen=True, tag="http", kw_only=True):
    """Passes when GET on an address of the device answers.

    url: what to get; plain http, since the check runs on the device itself.
    status: the answer that counts as healthy.
    """

    url: HttpUrl
    status: Status = 200


class TcpCheck(_Check, frozen=True, tag="tcp", kw_only=True):
    """Passes when a TCP connection is accepted.

    host: name or address to connect to.
    port: TCP port to connect to.
    """

    host: Host
    port: Port


class UnitCheck(_Check, frozen=True, tag="unit", kw_only=True):
    """Passes when a systemd unit is active.

    unit: full name of the unit.
    """

    unit: Unit


HealthCheck = ExecCheck | HttpCheck | TcpCheck | UnitCheck


def check_problems(checks: tuple[HealthCheck, ...]) -> Iterator[Problem]:
    """What is wrong with the checks of one document."""
    seen: set[str] = set()
    for number, check in enumerate(checks):
        if check.name in seen:
            yield Problem(
                ("health", number, "name"),
                "a name that no other check has",
                f'"{check.name}" a second time',
                "history names the check that failed; rename one of them",
            )
        seen.add(check.name)
        if isinstance(check, ExecCheck) and not check.command[0].startswith("/"):
            yield Problem(
                ("health", number, "command", 0),
                "the full path of a program",
                f'"{check.command[0]}"',
                f'write for example "/usr/bin/{check.command[0].rpartition("/")[2]}"',
            )


def device_check(check: HealthCheck) -> device.HealthCheck:
    """The check as device programs read it."""
    match check:
        case ExecCheck():
            return device.HealthCheck(
                check.name, "exec", check.deadline_seconds, command=check.command
            )
        case HttpCheck():
            return device.HealthCheck(
                check.name, "http", check.deadline_seconds, url=check.url, status=check.status
            )
        case TcpCheck():
            return device.HealthCheck(
                check.name, "tcp", check.deadline_seconds, host=check.host, port=check.port
            )
        case UnitCheck():
            return device.HealthCheck(check.name, "unit", check.deadline_seconds, unit=check.unit)
