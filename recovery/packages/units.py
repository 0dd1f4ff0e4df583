"""From a service's declaration to the text of its units. Pure.

For each service of a package that runs:

    orbital.PACKAGE.SERVICE.service         the service
    orbital.PACKAGE.SERVICE.check.service   its check, once, for who waits for it
    orbital.PACKAGE.SERVICE.watch.service   its check while it runs; when it does not pass in
    orbital.PACKAGE.SERVICE.watch.timer     time the package fails (interval_seconds > 0)
    orbital.PACKAGE.state.migrate.service   brings the state to the services' schema version,
                                            where the package set came without that (OS trials)

A check runs in the sandbox of its service and in its network namespace. One
run of a watch tries again and again (`recovery.packages.probe`), as is done
after a start: a device that is slow then may be slow later. Whether a run that
failed counts is for `updater.packages.failed` to say. A
service that asks for what this system does not grant has a unit, too, which
says so when it is started.
"""

from __future__ import annotations

from recovery.packages import model
from recovery.packages.sandbox import Sandbox, properties
from recovery.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from recovery.packages.model import Check, Service

SLICE = "orbital-packages.slice"
TARGET = "orbital-packages.target"
PROBE = "/usr/lib/orbital/probe"
_WATCH_SECONDS = 30
_PROBE_BYTES = 32 << 20
_PROBE_TASKS = 2


class ServicePlan(Value):
    """Everything that decides the units of one service.

    after: units that come before it. bus_names: that it owns. configured:
    marker without which it does not start, "" for none; waiting: it is absent.
    refused: capabilities that it asks for and does not get. migrate: its state
    is of another schema version.
    """

    package: str
    version: str
    service: Service
    sandbox: Sandbox
    after: tuple[str, ...] = ()
    bus_names: tuple[str, ...] = ()
    configured: str = ""
    waiting: bool = False
    refused: tuple[str, ...] = ()
    migrate: bool = False

    @property
    def unit(self) -> str:
        """Name of the service's unit."""
        return model.unit_name(self.package, self.service.name)

    @property
    def may_start(self) -> bool:
        """Whether the service starts with its package."""
        return not self.refused and not self.waiting


def check_unit(package: str, service: str) -> str:
    """Name of the unit that checks a service once."""
    return f"orbital.{package}.{service}.check.service"


def watch_unit(package: str, service: str) -> str:
    """Name of the unit that checks a service again and again."""
    return f"orbital.{package}.{service}.watch.service"


def watch_timer(package: str, service: str) -> str:
    """Name of the timer of `watch_unit`."""
    return f"orbital.{package}.{service}.watch.timer"


def migrate_unit(package: str) -> str:
    """Name of the unit that migrates a package's state before its services start."""
    return f"orbital.{package}.state.migrate.service"


def runtime_directory(package: str, service: str) -> str:
    """A service's own directory below /run."""
    return f"package/{package}/{service}"


def has_check_unit(check: Check) -> bool:
    """Whether a program has to run; "active" only asks systemd."""
    return check.kind != "active"


def texts(plan: ServicePlan) -> dict[str, str]:
    """The units of a service: text by name."""
    names = (plan.package, plan.service.name)
    if plan.refused:
        return {plan.unit: _refused(plan)}
    found = {plan.unit: _service(plan)}
    if plan.migrate:
        found[migrate_unit(plan.package)] = _migrate(plan)
    if has_check_unit(plan.service.check):
        found[check_unit(*names)] = _check(plan, watch=False)
        if plan.service.check.interval_seconds:
            found[watch_unit(*names)] = _check(plan, watch=True)
            found[watch_timer(*names)] = _timer(plan)
    return found


def _service(plan: ServicePlan) -> str:
    service = plan.service
    unit = [
        f"Description={_text(_description(plan))}",
        f"After={' '.join(('dbus.socket', *plan.after))}",
        f"StartLimitIntervalSec={service.restart_window_seconds}",
        f"StartLimitBurst={service.restart_limit}",
        f"OnFailure=orbital-package-failed@{plan.package}.service",
    ]
    if plan.migrate:
        # A service never starts on state that it does not understand.
        unit += [
            f"Requires={migrate_unit(plan.package)}",
            f"After={migrate_unit(plan.package)}",
        ]
    if plan.configured:
        unit.append(f"ConditionPathExists={plan.configured}")
    if has_check_unit(service.check) and service.check.interval_seconds:
        unit.append(f"Wants={watch_timer(plan.package, service.name)}")
    run = [
        f"Type={'dbus' if service.kind == 'bus' else service.kind}",
        *(["NotifyAccess=main"] if service.kind == "notify" else []),
        *([f"BusName={name}" for name in plan.bus_names[:1]] if service.kind == "bus" else []),
        *(["RemainAfterExit=yes"] if service.kind == "oneshot" else []),
        f"ExecStart={command_line(service.command)}",
        *_environment(service),
        f"Restart={service.restart}",
        # Else each restart would count as a failure of the unit and start OnFailure= (257);
        # this way only the last one does, when the limit of starts is reached.
        "RestartMode=direct",
        f"RestartSec={service.restart_seconds}",
        f"TimeoutStartSec={service.start_seconds}",
        f"TimeoutStopSec={service.stop_seconds}",
        *([f"WatchdogSec={service.watchdog_seconds}"] if service.watchdog_seconds else []),
        # The default, SIGABRT, would wait for a core dump of a program that hangs.
        *(["WatchdogSignal=SIGKILL"] if service.watchdog_seconds else []),
    ]
    if service.kind == "oneshot" and service.restart == "always":
        run.remove("Restart=always")
    return _unit(unit, [*run, *_common(plan), *properties(plan.sandbox)])


def _migrate(plan: ServicePlan) -> str:
    """Ends at once when the state has been migrated meanwhile."""
    return (
        f"[Unit]\nDescription={_text(f'migration of the state of {plan.package}')}\n"
        "After=dbus.socket\n\n"
        f"[Service]\nType=oneshot\nRemainAfterExit=yes\nSlice={SLICE}\n"
        f"SyslogIdentifier={plan.package}.migrate\n"
        f"ExecStart=/usr/lib/orbital/recover migrate {plan.package}\n"
    )


def _check(plan: ServicePlan, *, watch: bool) -> str:
    check = plan.service.check
    unit = [
        f"Description={_text('check of ' + _description(plan))}",
        f"JoinsNamespaceOf={plan.unit}",
        f"PartOf={plan.unit}",
        f"After={plan.unit}",
        "StartLimitIntervalSec=0",
    ]
    run = [
        "Type=oneshot",
        f"ExecStart={command_line(watch_command(check) if watch else check_command(check))}",
        # A check judges by what its service was told.
        *_environment(plan.service),
    ]
    if watch:
        contain = f"orbital-package-failed@{plan.package}.service"
        # After: a run that failed is there to be seen, not replaced by the next one,
        # until it has been judged.
        unit += [f"OnFailure={contain}", f"After={contain}"]
        # A check that is stopped with its service has not failed, and does not hold it up.
        run += ["SuccessExitStatus=SIGTERM", "TimeoutStopSec=5"]
    else:
        # Its last result stays to be seen as long as the service runs.
        run += ["RemainAfterExit=yes", f"TimeoutStartSec={check.deadline_seconds + 5}"]
    sandbox = replace(
        plan.sandbox,
        runtime="",
        shared=plan.sandbox.runtime,
        bus=plan.sandbox.bus or check.kind == "bus",
    )
    limits = replace(
        plan.service,
        memory_bytes=plan.service.memory_bytes + _PROBE_BYTES,
        tasks=plan.service.tasks + _PROBE_TASKS,
    )
    return _unit(unit, [*run, *_common(replace(plan, service=limits)), *properties(sandbox)])


def _environment(service: Service) -> list[str]:
    return [f"Environment={_word(f'{name}={value}')}" for name, value in service.environment]


def check_command(check: Check) -> tuple[str, ...]:
    """What tells whether the check passes: exit code 0.

    http and tcp wait until the deadline; exec and bus answer at once.
    """
    return _command(check, check.deadline_seconds)


def watch_command(check: Check) -> tuple[str, ...]:
    """What tells whether the check still passes: exit code 1 when it has not in all its time.

    That is the time it has after a start, and not so short that a busy moment fails it.
    """
    seconds = max(check.deadline_seconds, _WATCH_SECONDS)
    command = _command(check, seconds)
    return command if command[0] == PROBE else (PROBE, "exec", str(seconds), *command)


def _command(check: Check, seconds: int) -> tuple[str, ...]:
    if check.kind == "http":
        return (PROBE, "http", check.url, str(check.status), str(seconds))
    if check.kind == "tcp":
        return (PROBE, "tcp", str(check.port), str(seconds))
    if check.kind == "bus":
        bus = "org.freedesktop.DBus"
        return (
            "/usr/bin/busctl", "--system", "call", bus, "/org/freedesktop/DBus", bus,
            "GetNameOwner", "s", check.bus_name,
        )  # fmt: skip
    return check.command


def _timer(plan: ServicePlan) -> str:
    interval = plan.service.check.interval_seconds
    return (
        f"[Unit]\nDescription={_text('watch over ' + _description(plan))}\n"
        f"BindsTo={plan.unit}\nAfter={plan.unit}\n\n"
        f"[Timer]\nOnActiveSec={interval}\nOnUnitInactiveSec={interval}\nAccuracySec=1\n"
    )


def _refused(plan: ServicePlan) -> str:
    names = ", ".join(plan.refused)
    word = "capability" if len(plan.refused) == 1 else "capabilities"
    why = f"cannot start {plan.package}: this system does not grant the {word} {names}"
    return (
        f"[Unit]\nDescription={_text(f'{_description(plan)} (refused: {names})')}\n"
        "StartLimitIntervalSec=0\n\n"
        "[Service]\nType=oneshot\n"
        f"ExecStart=/usr/bin/echo {_word(why)}\nExecStart=/usr/bin/false\n"
        f"DynamicUser=yes\nSlice={SLICE}\nSyslogIdentifier={plan.package}.{plan.service.name}\n"
    )


def _common(plan: ServicePlan) -> list[str]:
    service = plan.service
    return [
        f"Slice={SLICE}",
        f"SyslogIdentifier={plan.package}.{service.name}",
        f"LogExtraFields=ORBITAL_PACKAGE={plan.package} ORBITAL_VERSION={plan.version}",
        "LogRateLimitIntervalSec=10",
        "LogRateLimitBurst=500",
        f"MemoryMax={service.memory_bytes}",
        f"TasksMax={service.tasks}",
        "CPUAccounting=yes",
        "IOAccounting=yes",
        "OOMPolicy=kill",
    ]


def _description(plan: ServicePlan) -> str:
    summary = f": {plan.service.summary}" if plan.service.summary else ""
    return f"{plan.package} {plan.version}, {plan.service.name}{summary}"


def _unit(unit: Sequence[str], service: Sequence[str]) -> str:
    return "\n".join(["[Unit]", *unit, "", "[Service]", *service, ""])


def command_line(words: Sequence[str]) -> str:
    """The words for ExecStart=, each as it is (systemd.service(5), "COMMAND LINES")."""
    return " ".join(_word(word).replace("$", "$$") for word in words)


def _word(text: str) -> str:
    """One word of a unit file, quoted, with nothing that systemd would expand."""
    text = "".join(_plain(character) for character in text).replace("%", "%%")
    return f'"{text}"'


def _plain(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    # No line of a unit file may end where a publisher wants it to.
    return character if character >= " " and character != "\x7f" else f"\\x{ord(character):02x}"


def _text(text: str) -> str:
    """A line of text for people."""
    printable = "".join(character if character >= " " else " " for character in text)
    return printable.replace("%", "%%").rstrip("\\")
