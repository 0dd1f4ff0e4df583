"""What a declaration opens and what stays shut, in the units that are generated."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.errors import RefusedError
from recovery.packages import bus, plans, programs
from recovery.packages.model import Check, Migration, Program, Required
from recovery.packages.paths import Paths
from recovery.packages.plans import Ready
from recovery.packages.units import texts
from recovery.unitstates import parse
from tests.recovery.packages.builders import POLICY, entry, package, provided, service

PATHS = Paths(Path("/"))


def ready(item: object = None, **changes: object) -> Ready:
    """A package that is mounted."""
    values: dict[str, object] = {
        "entry": entry(),
        "package": item or package("vpn", service()),
        "view": "/run/orbital/packages/views/v/usr",
        "layer": Path("/state/orbital/layers/vpn/2"),
        **changes,
    }
    return Ready(**values)  # type: ignore[arg-type]


def unit(item: Ready, name: str = "orbital.vpn.main.service") -> list[str]:
    """Lines of a unit of the package."""
    found: dict[str, str] = {}
    for plan in plans.service_plans(item, [item], PATHS, POLICY):
        found.update(texts(plan))
    return found[name].splitlines()


def test_a_service_that_declares_nothing_gets_nothing() -> None:
    lines = unit(ready())
    for line in (
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "PrivateUsers=yes",
        "PrivateNetwork=yes",
        "IPAddressDeny=any",
        "RestrictAddressFamilies=AF_UNIX",
        "PrivateDevices=yes",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        "User=50000",
        "Slice=orbital-packages.slice",
        "OnFailure=orbital-package-failed@vpn.service",
        "BindReadOnlyPaths=/run/orbital/packages/views/v/usr:/usr:rbind",
    ):
        assert line in lines
    assert not any(
        "dbus/system_bus_socket" in line or line.startswith("BindPaths") for line in lines
    )


def test_capabilities_open_what_they_say_and_no_more() -> None:
    lines = unit(ready(package("vpn", service(capabilities=("net.configure",)))))
    assert "AmbientCapabilities=CAP_NET_ADMIN" in lines
    assert "RestrictAddressFamilies=AF_NETLINK AF_UNIX" in lines
    assert "PrivateNetwork=yes" not in lines
    assert "PrivateUsers=yes" not in lines
    assert "PrivateDevices=yes" in lines


@pytest.mark.parametrize("name", ["no.such", "net.tunnel"])
def test_a_refused_capability_makes_a_unit_that_says_so(name: str) -> None:
    item = ready(package("vpn", service(capabilities=(name,))))
    (plan,) = plans.service_plans(item, [item], PATHS, POLICY)
    assert not plan.may_start
    lines = unit(item)
    assert "ExecStart=/usr/bin/false" in lines
    assert any(f"does not grant the capability {name}" in line for line in lines)
    assert not any("/usr/bin/tool" in line for line in lines)


def test_state_is_bound_for_its_service_only() -> None:
    item = ready(package("vpn", service(state=True), service("two")))
    assert "BindPaths=/state/orbital/layers/vpn/2/state/main:/var/lib/vpn" in unit(item)
    other = unit(item, "orbital.vpn.two.service")
    assert not any("layers" in line or "STATE_DIRECTORY" in line for line in other)
    assert "User=50001" in other


def test_nothing_that_a_publisher_writes_ends_a_line_or_is_expanded() -> None:
    odd = service(
        command=("/usr/bin/tool", 'a"b\\', "%h $HOME", "x\nUser=root"),
        summary="two\nlines %n",
        environment=(("A", "1\nUser=root"),),
    )
    lines = unit(ready(package("vpn", odd)))
    (command,) = [line for line in lines if line.startswith("ExecStart=")]
    assert command == r'ExecStart="/usr/bin/tool" "a\"b\\" "%%h $$HOME" "x\x0aUser=root"'
    assert [line for line in lines if line.startswith("User=")] == ["User=50000"]
    assert "Description=vpn 1.0, main: two lines %%n" in lines


def test_a_service_waits_for_its_configuration() -> None:
    item = ready(package("vpn", service(configure_first=True)))
    (plan,) = plans.service_plans(item, [item], PATHS, POLICY)
    assert plan.waiting
    assert not plan.may_start
    assert "ConditionPathExists=/state/orbital/layers/vpn/2/configured" in unit(item)


@pytest.mark.parametrize(
    ("check", "command"),
    [
        (Check("tcp", 50, 20, port=80), '"/usr/lib/orbital/probe" "tcp" "80" "50"'),
        # However soon it must have passed after a start, a busy moment does not fail it.
        (
            Check("exec", 5, 20, ("/usr/bin/ask", "100%")),
            '"/usr/lib/orbital/probe" "exec" "30" "/usr/bin/ask" "100%%"',
        ),
    ],
)
def test_a_watch_repeats_the_check_in_one_run_and_fails_the_package(
    check: Check, command: str
) -> None:
    item = ready(package("vpn", service(check=check)))
    lines = unit(item, "orbital.vpn.main.watch.service")
    assert f"ExecStart={command}" in lines
    assert "OnFailure=orbital-package-failed@vpn.service" in lines
    # Else the next run would replace the failed one before that is judged.
    assert "After=orbital-package-failed@vpn.service" in lines
    assert "PartOf=orbital.vpn.main.service" in lines
    # Limits of starts and of a start's time are clocks that a slow device loses against.
    assert "StartLimitIntervalSec=0" in lines
    assert not any(line.startswith(("Restart=", "TimeoutStartSec=")) for line in lines)
    assert "JoinsNamespaceOf=orbital.vpn.main.service" in lines
    assert "OnUnitInactiveSec=20" in unit(item, "orbital.vpn.main.watch.timer")
    assert "Wants=orbital.vpn.main.watch.timer" in unit(item)


def test_the_check_after_a_start_asks_once_and_fails_nothing() -> None:
    item = ready(package("vpn", service(check=Check("exec", 5, 20, ("/usr/bin/ask",)))))
    lines = unit(item, "orbital.vpn.main.check.service")
    assert 'ExecStart="/usr/bin/ask"' in lines
    assert not any("OnFailure" in line for line in lines)


def test_the_loopback_is_open_for_a_check_that_needs_it() -> None:
    item = ready(package("vpn", service(check=Check("tcp", port=80))))
    assert "IPAddressAllow=localhost" in unit(item)


def test_a_watch_has_memory_for_the_program_that_repeats() -> None:
    small = service(memory_bytes=1 << 20, tasks=1, check=Check("exec", 5, 20, ("/usr/bin/ask",)))
    item = ready(package("vpn", small))
    assert "MemoryMax=1048576" in unit(item)
    lines = unit(item, "orbital.vpn.main.watch.service")
    assert f"MemoryMax={33 << 20}" in lines
    assert "TasksMax=3" in lines


def test_a_disabled_package_has_no_units() -> None:
    item = ready(entry=entry(enabled=False))
    assert plans.service_plans(item, [item], PATHS, POLICY) == []


def test_bus_policy_denies_first_and_grants_callers_by_name() -> None:
    server = ready(package("vpn", service(), provides=(provided(),)))
    needs = (Required("org.acme.Vpn1", "*", "vpn"),)
    client = ready(package("panel", service(), requires=needs), entry=entry("panel", uid=50016))
    (owner,) = plans.bus_users(server, [server, client], POLICY)
    (caller,) = plans.bus_users(client, [server, client], POLICY)
    assert owner == bus.BusUser("p50000-vpn-main", ("org.acme.Vpn",), ())
    lines = [line.strip() for line in bus.policy([caller]).splitlines()]
    start = lines.index('<policy user="p50016-panel-main">')
    assert lines[start + 1] == '<deny send_type="method_call"/>'
    assert (
        '<allow send_destination="org.acme.Vpn" send_interface="org.acme.Vpn1"/>' in lines[start:]
    )
    assert '<deny send_destination="org.acme.Vpn"/>' in bus.policy([owner])


def test_a_capability_on_the_bus_is_policy_and_socket() -> None:
    item = ready(package("vpn", service(capabilities=("system.reboot",))))
    (user,) = plans.bus_users(item, [item], POLICY)
    assert user.calls == (bus.Call("org.freedesktop.systemd1", "M", "R"),)
    assert any("system_bus_socket" in line for line in unit(item))


def test_a_program_shares_user_and_state_of_the_service_it_names() -> None:
    item = ready(package("vpn", service("first"), service(state=True)))
    shared = Program("show", ("/usr/bin/show",), state_of="main")
    lines = programs.program_properties(item, shared, PATHS, POLICY)
    assert "User=50001" in lines
    assert "BindPaths=/state/orbital/layers/vpn/2/state/main:/var/lib/vpn" in lines
    alone = programs.program_properties(item, Program("x", ("/usr/bin/x",)), PATHS, POLICY)
    assert "DynamicUser=yes" in alone
    with pytest.raises(RefusedError, match=r"does not grant net\.tunnel"):
        wants = Program("x", ("/usr/bin/x",), capabilities=("net.tunnel",))
        programs.program_properties(item, wants, PATHS, POLICY)


def test_only_a_program_with_a_services_user_sees_the_bus() -> None:
    """For a user that ends with the program there would be nothing but the bus's defaults."""
    item = ready(package("vpn", service(), requires=(Required("org.acme.Vpn1", "*", "net"),)))
    reboots = ("system.reboot",)
    for program in (
        Program("x", ("/usr/bin/x",)),
        Program("x", ("/usr/bin/x",), capabilities=reboots),
    ):
        lines = programs.program_properties(item, program, PATHS, POLICY)
        assert not any("system_bus_socket" in line for line in lines)
    shared = Program("x", ("/usr/bin/x",), state_of="main")
    lines = programs.program_properties(item, shared, PATHS, POLICY)
    assert any("system_bus_socket" in line for line in lines)


def test_migrations_run_step_by_step_or_not_at_all() -> None:
    def step(source: int, target: int) -> Migration:
        return Migration("main", source, target, ("/usr/bin/m",))

    known = [step(2, 3), step(1, 2), step(2, 1)]
    assert programs.steps(known, 1, 3) == [step(1, 2), step(2, 3)]
    assert programs.steps(known, 2, 1) == [step(2, 1)]
    assert programs.steps(known, 2, 2) == []
    with pytest.raises(RefusedError, match="no step from 3 to 2"):
        programs.steps(known, 3, 1)


def test_what_systemctl_shows_is_read_by_unit() -> None:
    shown = "Id=a.service\nActiveState=active\n\nId=b.service\nActiveState=failed\nResult=signal\n"
    assert parse(shown)["b.service"]["Result"] == "signal"
    assert parse("") == {}
