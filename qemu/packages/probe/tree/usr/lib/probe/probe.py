"""Tries each thing that a service must not do unless it was granted, and prints what it could.

    {"packet socket": true, "set the clock": false, ...}

true: it worked. Nothing here harms the device when it works.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from radio import add_interface  # type: ignore[import-not-found]

_libc = ctypes.CDLL(None, use_errno=True)
_MS_BIND = 4096
_PTRACE_ATTACH = 16
_CLONE_NEWUSER = 0x10000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_RFKILL_CHANGE = 2
_GPIO_GET_LINEHANDLE = 0xC16CB403
_GPIOHANDLE_GET_LINE_VALUES = 0xC040B408
_BUS = Path("/run/dbus/system_bus_socket")
_SERVER = ("10.0.2.2", int(os.environ.get("PROBE_PORT", "9")))


def _call(result: int) -> bool:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return True


def _run(*command: str) -> bool:
    done = subprocess.run(command, capture_output=True, check=False, timeout=30)
    if done.returncode:
        raise OSError(done.stderr.decode(errors="replace").strip())
    return True


def _socket(family: int, kind: int, protocol: int = 0) -> bool:
    with socket.socket(family, kind, protocol):
        return True


def _connect() -> bool:
    # Refused by the other end is as good as accepted: the packet came out, and an answer in.
    with socket.socket(socket.AF_INET) as out:
        out.settimeout(10)
        try:
            out.connect(_SERVER)
        except ConnectionRefusedError:
            return True
    return True


def _listen(port: int) -> bool:
    with socket.socket(socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
    return True


def _host_interfaces() -> bool:
    """Whether the host's interfaces can be listed (other than lo)."""
    found = json.loads(
        subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout or b"[]"
    )
    return any(link["ifname"] != "lo" for link in found)


def _configure() -> bool:
    """Sets what it is set to already, on the host's first interface."""
    links = json.loads(
        subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout or b"[]"
    )
    link = next(link for link in links if link["ifname"] != "lo")
    return _run("ip", "link", "set", link["ifname"], "mtu", str(link["mtu"]))


def _write(path: str) -> bool:
    Path(path).write_text("probe")
    return True


def _read(path: str) -> bool:
    with Path(path).open("rb") as source:
        source.read(1)
    return True


def _list(path: str) -> bool:
    return any(Path(path).iterdir())


def _others_state() -> bool:
    """Whether the state of any other package can be listed or read."""
    own = Path(os.environ.get("STATE_DIRECTORY", "/nowhere")).resolve()
    for root in ("/state/orbital/layers", "/var/lib/orbital", "/var/lib/private"):
        for directory, names, files in os.walk(root):
            if files and not Path(directory).resolve().is_relative_to(own):
                return True
            names.sort()
    return False


def _execute_from(directory: str) -> bool:
    script = Path(directory) / "probe-script"
    script.write_text("#!/usr/bin/sh\nexit 0\n")
    script.chmod(0o755)
    try:
        return _run(str(script))
    finally:
        script.unlink()


def _setuid_file(directory: str) -> bool:
    path = Path(directory) / "probe-setuid"
    path.touch()
    try:
        path.chmod(0o4755)
        return bool(path.stat().st_mode & stat.S_ISUID)
    finally:
        path.unlink()


def _become_root() -> bool:
    os.setuid(0)
    return True


def _other_processes() -> bool:
    """Whether processes of other users can be seen."""
    mine = os.getuid()
    return any(
        process.stat().st_uid != mine
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and process.exists()
    )


def _users() -> bool:
    return "messagebus" in Path("/etc/passwd").read_text()


def _set_clock() -> bool:
    time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME))
    return True


def _bus(member: str, *arguments: str) -> bool:
    if not _BUS.exists():
        raise FileNotFoundError("no bus")
    systemd = "org.freedesktop.systemd1"
    call = ("call", systemd, "/org/freedesktop/systemd1", f"{systemd}.Manager", member)
    return _run("busctl", *call, *arguments)


def _make_tunnel() -> bool:
    """A tunnel that is gone when its file is closed. Numbers: linux/if_tun.h."""
    request = struct.pack("16sH22x", b"probe%d", _IFF_TUN | _IFF_NO_PI)
    with Path("/dev/net/tun").open("r+b", buffering=0) as device:
        made = fcntl.ioctl(device, _TUNSETIFF, request)
    return made.startswith(b"probe")


def _switch_radios() -> bool:
    """Tells the switch of a radio that is not there: struct rfkill_event, linux/rfkill.h."""
    with Path("/dev/rfkill").open("r+b", buffering=0) as device:
        return device.write(struct.pack("IBBBB", 2**31, 0, _RFKILL_CHANGE, 0, 0)) == 8


def _read_line() -> bool:
    """Reads input line 2 of the first chip, which is high. Structures: linux/gpio.h, version 1."""
    for chip in sorted(Path("/dev").glob("gpiochip*")):
        request = bytearray(struct.pack("64I I 64s 32s I i", 2, *[0] * 63, 1, b"", b"probe", 1, 0))
        with chip.open("r+b", buffering=0) as device:
            fcntl.ioctl(device, _GPIO_GET_LINEHANDLE, request)
        line = struct.unpack_from("i", request, 360)[0]
        values = fcntl.ioctl(line, _GPIOHANDLE_GET_LINE_VALUES, bytes(64))
        os.close(line)
        return values[0] == 1
    raise FileNotFoundError("no gpiochip")


def attempts(scratch: str) -> dict[str, Callable[[], bool]]:
    """What is tried. scratch: a directory that may be written."""
    return {
        # Each of these is granted by a capability.
        "connect": _connect,
        "listen": lambda: _listen(18080),
        "listen below 1024": lambda: _listen(81),
        "see interfaces": _host_interfaces,
        "configure interfaces": _configure,
        "raw socket": lambda: _socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "packet socket": lambda: _socket(socket.AF_PACKET, socket.SOCK_RAW),
        "read users": _users,
        "set the clock": _set_clock,
        "ask systemd for a unit": lambda: _bus("GetUnit", "s", "dbus-broker.service"),
        "open a serial port": lambda: _read_nothing("/dev/ttyS0"),
        "make a tunnel": _make_tunnel,
        "switch radios": _switch_radios,
        "add an interface to a radio": add_interface,
        "read an input line": _read_line,
        # These are granted by none.
        "start a unit": lambda: _bus("StartUnit", "ss", "orbital-grow.service", "replace"),
        "write the state partition": lambda: _write("/state/probe"),
        "list the state partition": lambda: _list("/state"),
        "read the state of others": _others_state,
        "write /usr": lambda: _write("/usr/lib/probe/probe.py"),
        "write /etc": lambda: _write("/etc/probed"),
        "write /run": lambda: _write("/run/probe"),
        "read the disk": lambda: _read("/dev/vda"),
        "read memory": lambda: _read("/dev/mem"),
        "read the kernel's log": lambda: _read("/dev/kmsg"),
        "see processes of others": _other_processes,
        "trace another process": lambda: _call(_libc.ptrace(_PTRACE_ATTACH, 1, None, None)),
        "kill another process": lambda: _call(_libc.kill(1, 0)),
        "mount": lambda: _call(_libc.mount(b"/usr", b"/tmp", None, _MS_BIND, None)),
        "make a user namespace": lambda: _call(_libc.unshare(_CLONE_NEWUSER)),
        "become root": _become_root,
        "make a setuid file": lambda: _setuid_file(scratch),
        "execute what it wrote": lambda: _execute_from(scratch),
        "change a kernel setting": lambda: _write("/proc/sys/kernel/printk"),
        "load a kernel module": lambda: _call(_libc.syscall(175, b"", 0, b"")),
        "restart the device": lambda: _call(_libc.reboot(0)),
        "ask for a restart": lambda: _write("/run/orbital/power/reboot"),
    }


def _read_nothing(path: str) -> bool:
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY))
    return True


def main() -> None:
    """Prints what could be done; with an argument, writes it to the state directory, too."""
    scratch = os.environ.get("STATE_DIRECTORY", "/tmp")
    results: dict[str, bool] = {}
    reasons: dict[str, str] = {}
    for name, attempt in attempts(scratch).items():
        try:
            results[name] = attempt()
        except Exception as error:
            results[name], reasons[name] = False, f"{type(error).__name__}: {error}"
    text = json.dumps({"could": results, "why not": reasons})
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    if sys.argv[1:] == ["serve"]:
        Path(os.environ["STATE_DIRECTORY"], "results.json").write_text(text)
        while True:
            time.sleep(3600)


main()
