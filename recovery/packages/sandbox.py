"""The sandbox that everything of a package runs in, as systemd properties. Pure.

One list of `Name=value` lines serves the units of services and their checks,
and transient units (`systemd-run --property=`) for programs and migrations.
Properties: systemd.exec(5), systemd.resource-control(5), systemd 257.
"""

from __future__ import annotations

from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.packages.capabilities import Capability

BUS_SOCKET = "/run/dbus/system_bus_socket"
# Hidden: what a device keeps there is no package's business.
_HIDDEN = ("/boot", "/efi", "/media", "/mnt", "/opt", "/srv", "/state")
_EMPTY = ("/etc", "/run", "/var")
_SHOWN = ("/etc/ld.so.cache", "/etc/nsswitch.conf", "/etc/localtime")
_JOURNAL = ("/run/systemd/journal/socket", "/run/systemd/journal/stdout", "/run/systemd/notify")


class Sandbox(Value):
    """What one program of a package may see and do.

    uid: user and group it runs as; 0 for a user of its own that ends with it.
    view: directory that it sees as /usr. state: its state directory on the
    device, "" for none. config: the package's rendered configuration. runtime:
    name of its directory below /run, "" for none; shared: that of a running
    service, seen by its checks. capabilities: granted ones. bus: it may reach
    the system bus. loopback: it may use IP on its own loopback even without
    a network capability (for its checks and metrics).
    """

    package: str
    uid: int
    view: str
    config: str
    state: str = ""
    runtime: str = ""
    shared: str = ""
    capabilities: tuple[Capability, ...] = ()
    bus: bool = False
    loopback: bool = False


def state_path(package: str) -> str:
    """Where a service sees its state directory."""
    return f"/var/lib/{package}"


def config_path(package: str) -> str:
    """Where a service sees its configuration."""
    return f"/etc/{package}"


def properties(box: Sandbox) -> tuple[str, ...]:
    """The sandbox, as lines for a [Service] section or for `systemd-run --property=`."""
    linux = _names(box, "linux")
    devices = _names(box, "devices")
    network = any(item.network == "host" for item in box.capabilities)
    return (
        *_identity(box),
        *_files(box),
        *_network(box, network),
        *_devices(devices),
        *(f"SupplementaryGroups={name}" for name in _names(box, "groups")),
        f"CapabilityBoundingSet={' '.join(linux)}",
        f"AmbientCapabilities={' '.join(linux)}",
        # A user namespace would make the granted capabilities void.
        *(() if linux or devices else ("PrivateUsers=yes",)),
        "PrivateIPC=yes",
        "ProtectProc=invisible",
        f"ProcSubset={'all' if _needs_proc(box) else 'pid'}",
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelLogs=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        *(() if "CAP_SYS_TIME" in linux else ("ProtectClock=yes",)),
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "MemoryDenyWriteExecute=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "RestrictNamespaces=yes",
        "RemoveIPC=yes",
        "KeyringMode=private",
        "UMask=0077",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged @resources @keyring",
        *(f"SystemCallFilter={name}" for name in _names(box, "system_calls")),
        "SystemCallErrorNumber=EPERM",
    )


def _identity(box: Sandbox) -> tuple[str, ...]:
    environment = f"Environment=CONFIGURATION_DIRECTORY={config_path(box.package)}"
    if box.state:
        environment += f" STATE_DIRECTORY={state_path(box.package)}"
    if not box.uid:
        return ("DynamicUser=yes", environment)
    return (f"User={box.uid}", f"Group={box.uid}", environment)


def _files(box: Sandbox) -> tuple[str, ...]:
    shown = [f"-{path}" for path in (*_SHOWN, *_names(box, "read_paths"))]
    shown += [*_JOURNAL, *([BUS_SOCKET] if box.bus else [])]
    shown += [f"{box.config}:{config_path(box.package)}"]
    writable = [f"-{path}" for path in _names(box, "write_paths")]
    no_exec = ["/", "/tmp", "/var/tmp"]
    lines = [
        # Only its own mounts: what is mounted later on the device stays out.
        "MountFlags=private",
        f"BindReadOnlyPaths={box.view}:/usr:rbind",
        f"TemporaryFileSystem={' '.join(f'{path}:ro,mode=0755' for path in _EMPTY)}",
        f"InaccessiblePaths={' '.join(f'-{path}' for path in _HIDDEN)}",
        f"BindReadOnlyPaths={' '.join(shown)}",
        "ProtectSystem=strict",
        "ProtectHome=tmpfs",
        "PrivateTmp=disconnected",
    ]
    if box.state:
        # Writable in spite of ProtectSystem=strict: what is bound explicitly is left as it is.
        lines += [f"BindPaths={box.state}:{state_path(box.package)}"]
        lines += [f"WorkingDirectory={state_path(box.package)}"]
        no_exec.append(state_path(box.package))
    if box.runtime:
        lines += [f"RuntimeDirectory={box.runtime}", "RuntimeDirectoryMode=0700"]
        no_exec.append(f"/run/{box.runtime}")
    if box.shared:
        lines += [f"BindPaths=-/run/{box.shared}"]
        lines += [f"Environment=RUNTIME_DIRECTORY=/run/{box.shared}"]
    if writable:
        lines += [f"BindPaths={' '.join(writable)}"]
    # NoExecPaths= does not reach mounts below: each is named.
    lines += [f"NoExecPaths={' '.join(no_exec)}", "ExecPaths=/usr"]
    return tuple(lines)


def _network(box: Sandbox, network: bool) -> tuple[str, ...]:
    families = {"AF_UNIX", *_names(box, "families")}
    if network:
        return (f"RestrictAddressFamilies={' '.join(sorted(families))}",)
    lines = ["PrivateNetwork=yes", "IPAddressDeny=any"]
    if box.loopback:
        families |= {"AF_INET", "AF_INET6"}
        lines += ["IPAddressAllow=localhost"]
    return (*lines, f"RestrictAddressFamilies={' '.join(sorted(families))}")


def _devices(devices: tuple[str, ...]) -> tuple[str, ...]:
    if not devices:
        return ("PrivateDevices=yes", "DevicePolicy=closed")
    # Nodes are seen, but only these can be opened.
    return ("DevicePolicy=closed", *(f"DeviceAllow={device}" for device in devices))


def _needs_proc(box: Sandbox) -> bool:
    paths = (*_names(box, "read_paths"), *_names(box, "write_paths"))
    return any(path.startswith("/proc/") for path in paths)


def _names(box: Sandbox, field: str) -> tuple[str, ...]:
    """The values of that field of all capabilities, sorted, once each."""
    found = {name for item in box.capabilities for name in getattr(item, field)}
    return tuple(sorted(found))
