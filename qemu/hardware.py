"""What a machine consists of, and QEMU's command line for it (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from manifests.board import Board
from qemu.credentials import PORT, fw_cfg_options, smbios_options
from qemu.errors import MachineError

# Emulation only: KVM is absent or unusable on many build machines, and the
# same image must behave the same everywhere. tb-size (MiB of translated code)
# is above QEMU's default because a boot of systemd does not fit into it.
ACCELERATOR = "tcg,thread=multi,tb-size=512"

Credentials = Literal["smbios", "fw_cfg", "none"]
DISK = "disk0"
NETWORK = "net0"
# The host as the guest sees it in QEMU's user network.
HOST_ADDRESS = "10.0.2.2"


@dataclass(frozen=True)
class Hardware:
    """A kind of machine.

    firmware_code, firmware_variables: firmware images, None for a machine
        that starts with QEMU's own firmware. firmware_variables is a template.
    firmware_option: how QEMU gets the code: pflash, bios or kernel.
    credentials: how the guest gets credentials: smbios, or fw_cfg where there is none; none
        where it has neither (see qemu.planted).
    secure_flash: variables are protected by SMM (needed for Secure Boot;
        the firmware must be built for it, and only then).
    memory: MiB. disk, network, random, watchdog: QEMU's names of the device
        models; watchdog "" for none. arguments: more options, as they are.
    """

    binary: str = "qemu-system-x86_64"
    machine: str = "q35,smm=on"
    cpu: str = "max"
    cpus: int = 2
    memory: int = 1024
    firmware_code: Path | None = None
    firmware_variables: Path | None = None
    firmware_option: str = "pflash"
    credentials: Credentials = "smbios"
    secure_flash: bool = True
    disk: str = "virtio-blk-pci"
    network: str = "virtio-net-pci"
    random: str = "virtio-rng-pci"
    watchdog: str = "i6300esb"
    arguments: tuple[str, ...] = ()


def of_board(board: Board, firmware_root: Path = Path("/")) -> Hardware:
    """The machine that a board's manifest describes.

    firmware_root: the tree in which the board's firmware files lie (the tools
    tree, or a host with the same files). Raises MachineError when the board
    cannot be emulated.
    """
    emulation = board.qemu
    if emulation is None:
        raise MachineError(
            f"cannot emulate board {board.board}: it has no section qemu",
            resolution="describe the emulated machine in the board's manifest",
        )
    code, variables = emulation.firmware_code, emulation.firmware_variables
    return Hardware(
        binary=emulation.binary,
        machine=emulation.machine,
        cpu=emulation.cpu,
        cpus=emulation.cores,
        memory=emulation.memory >> 20,
        firmware_code=firmware_root / code.lstrip("/") if code else None,
        firmware_option=emulation.firmware_option,
        credentials=_credentials(board),
        firmware_variables=firmware_root / variables.lstrip("/") if variables else None,
        # A board says what its flash needs among its arguments.
        secure_flash=False,
        disk=emulation.disk_device,
        network=emulation.network_device,
        random=emulation.random_device,
        watchdog=emulation.watchdog_device or "",
        arguments=emulation.arguments,
    )


def _credentials(board: Board) -> Credentials:
    """How the guest can be told of the root shell."""
    # U-Boot passes no SMBIOS tables on. Debian's kernel for armhf has no driver for fw_cfg;
    # QEMU 7.2 makes RISC-V's too late for -fw_cfg.
    if board.firmware.kind != "u-boot":
        return "smbios"
    return "fw_cfg" if board.architecture == "aarch64" else "none"


@dataclass(frozen=True)
class Forward:
    """A port of the host's loopback that leads to a port of the guest."""

    host_port: int
    guest_port: int


@dataclass(frozen=True)
class Wiring:
    """The files and sockets of one machine.

    disk: qcow2. variables: the machine's own copy of the variable store.
    qmp, console, shell: Unix sockets that QEMU connects to; shell None leaves
        out the test shell's port. restore: wait for a saved state (migration).
    """

    disk: Path
    qmp: Path
    console: Path
    variables: Path | None = None
    shell: Path | None = None
    network: bool = True
    forwards: tuple[Forward, ...] = ()
    credentials: Mapping[str, bytes] = field(default_factory=dict)
    restore: bool = False
    extra: tuple[str, ...] = ()


def command_line(hardware: Hardware, wiring: Wiring) -> list[str]:
    """The whole command. Devices are always in the same order: saved states depend on it."""
    command = [
        hardware.binary,
        *("-machine", hardware.machine),
        *(() if "-accel" in hardware.arguments else ("-accel", ACCELERATOR)),
        *("-cpu", hardware.cpu),
        *("-smp", str(hardware.cpus)),
        *("-m", str(hardware.memory)),
        *("-nodefaults", "-no-user-config"),
        *("-display", "none"),
        *("-rtc", "base=utc,clock=host"),
        *_firmware(hardware, wiring),
        *_disk(hardware, wiring),
        *("-object", "rng-random,id=rng0,filename=/dev/urandom"),
        *("-device", f"{hardware.random},rng=rng0"),
        *_network(hardware, wiring),
        *_socket("console", wiring.console),
        *("-serial", "chardev:console"),
        *_socket("qmp", wiring.qmp),
        *("-mon", "chardev=qmp,mode=control"),
    ]
    if wiring.shell:
        command += [
            *_socket("shell", wiring.shell),
            *("-device", "virtio-serial-pci,id=serial0"),
            *("-device", f"virtserialport,chardev=shell,id=shell0,name={PORT}"),
        ]
    if hardware.watchdog:
        command += ["-device", f"{hardware.watchdog},id=watchdog0", "-action", "watchdog=reset"]
    if hardware.credentials == "smbios":
        command += smbios_options(wiring.credentials)
    elif hardware.credentials == "fw_cfg":
        command += fw_cfg_options(wiring.credentials)
    if wiring.restore:
        command += ["-incoming", "defer"]
    return [*command, *hardware.arguments, *wiring.extra]


def _firmware(hardware: Hardware, wiring: Wiring) -> list[str]:
    if hardware.firmware_code is None:
        return []
    if hardware.firmware_option != "pflash":
        return [f"-{hardware.firmware_option}", str(hardware.firmware_code)]
    options = [
        "-drive",
        f"if=pflash,unit=0,format=raw,readonly=on,file={quote(hardware.firmware_code)}",
    ]
    if wiring.variables:
        options += ["-drive", f"if=pflash,unit=1,format=raw,file={quote(wiring.variables)}"]
    if hardware.secure_flash:
        options += [
            *("-global", "driver=cfi.pflash01,property=secure,value=on"),
            # OVMF with SMM cannot resume from S3.
            *("-global", "ICH9-LPC.disable_s3=1"),
        ]
    return options


def _disk(hardware: Hardware, wiring: Wiring) -> list[str]:
    # A power cut is a killed QEMU on a host that lives on, so the host's page
    # cache counts as the medium and the file needs no fsync. The qcow2 layer
    # does flush: it keeps its tables in memory until the guest flushes, so a
    # write to a fresh cluster that was not flushed is lost with QEMU, as on a
    # disk with a volatile cache. werror/rerror: an injected error reaches the
    # guest instead of stopping the machine.
    device = f"{hardware.disk},id={DISK},drive=image0,bootindex=1"
    if not hardware.disk.startswith("nvme"):
        # QEMU's NVMe controller always reports errors, and has no such property.
        device += ",werror=report,rerror=report"
    return [
        "-blockdev",
        f"driver=file,node-name=file0,cache.no-flush=on,filename={quote(wiring.disk)}",
        *("-blockdev", "driver=qcow2,node-name=image0,file=file0,discard=unmap"),
        *("-device", device),
    ]


def _network(hardware: Hardware, wiring: Wiring) -> list[str]:
    if not wiring.network:
        return ["-nic", "none"]
    user = f"user,id={NETWORK}"
    for forward in wiring.forwards:
        user += f",hostfwd=tcp:127.0.0.1:{forward.host_port}-:{forward.guest_port}"
    # No option ROM: it would offer network boot and cost seconds.
    device = f"{hardware.network},netdev={NETWORK},id=nic0"
    if "-pci" in hardware.network:
        device += ",romfile="
    return ["-netdev", user, "-device", device]


def _socket(name: str, path: Path) -> list[str]:
    return ["-chardev", f"socket,id={name},path={quote(path)}"]


def quote(path: Path) -> str:
    """A path in a QEMU option list: a comma is doubled."""
    return str(path).replace(",", ",,")
