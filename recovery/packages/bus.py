"""What package services may do on the system bus: policy and activation files. Pure.

The bus is dbus-broker; the format is dbus-daemon's busconfig(5). Rules of a
user come after those of everybody, and the last match wins, so each user's
rules begin with a denial of every call: without it, what some service of the
image allows to everybody would be open to packages, too.
"""

from __future__ import annotations

from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from recovery.packages.capabilities import BusRule

INCLUDE = "usr/share/dbus-1/system.d/orbital-packages.conf"
"""File of the image that makes the bus read ours."""
_HEAD = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
"""
INCLUDE_TEXT = (
    _HEAD
    + """\
 <servicedir>/run/orbital/packages/dbus/system-services</servicedir>
 <includedir>/run/orbital/packages/dbus/system.d</includedir>
</busconfig>
"""
)


class Call(Value):
    """An interface that a user may call; interface, member: "" for any."""

    destination: str
    interface: str = ""
    member: str = ""


class BusUser(Value):
    """A service on the bus. owns: well-known names. calls: what it may call."""

    user: str
    owns: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()


def policy(users: Iterable[BusUser]) -> str:
    """The policy file of one package.

    Nobody but root and who is allowed elsewhere by name may call what the package owns.
    """
    users = tuple(users)
    owned = sorted({name for user in users for name in user.owns})
    lines = [' <policy context="default">']
    lines += [f'  <deny send_destination="{_escape(name)}"/>' for name in owned]
    lines += [" </policy>", ' <policy user="root">']
    lines += [f'  <allow send_destination="{_escape(name)}"/>' for name in owned]
    lines += [" </policy>"]
    for user in users:
        lines += [f' <policy user="{_escape(user.user)}">']
        lines += ['  <deny send_type="method_call"/>']
        # The bus itself: hello, names, owners.
        lines += [
            '  <allow send_destination="org.freedesktop.DBus"'
            f' send_interface="org.freedesktop.DBus{part}"/>'
            for part in ("", ".Introspectable", ".Peer", ".Properties")
        ]
        lines += [
            '  <deny send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"'
            ' send_member="UpdateActivationEnvironment"/>'
        ]
        lines += [f'  <allow own="{_escape(name)}"/>' for name in user.owns]
        lines += [_allow(call) for call in user.calls]
        lines += [" </policy>"]
    return _HEAD + "\n".join(lines) + "\n</busconfig>\n"


def calls_of(rules: Iterable[BusRule]) -> tuple[Call, ...]:
    """What a capability's rules allow."""
    return tuple(Call(rule.destination, rule.interface, rule.member) for rule in rules)


def calls_to(bus_name: str, interface: str) -> tuple[Call, ...]:
    """What a caller of a package's interface needs: the interface, and what describes it."""
    return (
        Call(bus_name, interface),
        Call(bus_name, "org.freedesktop.DBus.Properties"),
        Call(bus_name, "org.freedesktop.DBus.Introspectable"),
        Call(bus_name, "org.freedesktop.DBus.Peer"),
    )


def activation(bus_name: str, unit: str) -> str:
    """The file that lets a call start the unit, through systemd only."""
    return (
        f"[D-BUS Service]\nName={bus_name}\nExec=/usr/bin/false\nUser=root\nSystemdService={unit}\n"
    )


def _allow(call: Call) -> str:
    text = f'  <allow send_destination="{_escape(call.destination)}"'
    if call.interface:
        text += f' send_interface="{_escape(call.interface)}"'
    if call.member:
        text += f' send_member="{_escape(call.member)}"'
    return text + "/>"


def _escape(text: str) -> str:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    return text
