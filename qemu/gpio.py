"""GPIO lines for a guest whose board has none: a simulated USB adapter."""

from __future__ import annotations

from pathlib import Path

from imager.kernel import prepare_kernel
from qemu.device import Device
from qemu.lab import Lab

_CHIP = Path(__file__).parent / "mcp2221.py"
_MODULES = ("uhid", "hid-mcp2221")


def plug_in(device: Device, lab: Lab) -> None:
    """Plugs a GPIO chip in; it is /dev/gpiochip0 when this returns.

    Its modules are in no image: they are the board's kernel's, loaded from /run.
    """
    run = device.machine.run
    kernel = prepare_kernel(lab.product.board, lab.cache, lab.tools)
    for name, path in kernel.module_files(_MODULES):
        at = f"/run/modules/{name}.ko"
        device.machine.shell.push(at, path.read_bytes())
        run(f"[ -d /sys/module/{name.replace('-', '_')} ] || insmod {at}")
    device.machine.shell.push("/run/mcp2221.py", _CHIP.read_bytes())
    run("systemd-run --quiet --unit=gpio-chip python3 /run/mcp2221.py")
    run("for try in $(seq 60); do [ -c /dev/gpiochip0 ] && exit 0; sleep 1; done; exit 1", 90)
    run("udevadm settle")
