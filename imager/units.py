"""Enables and masks systemd units in a tree: what `systemctl --root` would do. Pure.

Links of enabled units go to /usr/lib/systemd/system, since they are the image's
choice and not the device's configuration; masks go to /etc, where a device's
administrator can see and undo them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from imager.tree import Tree
from recovery.errors import ManifestError

DIRECTORY = "usr/lib/systemd/system"
_MASKS = "etc/systemd/system"
# Keys of [Install] and the folders with the links that they ask for (systemd.unit(5)).
LINK_FOLDERS = {"WantedBy": "wants", "RequiredBy": "requires", "UpheldBy": "upholds"}

# Never useful on a device with a read-only root, no console login, volatile journal and
# Orbital's own commit of a boot. Measured: each costs 50-500 ms of an emulated boot.
LEAN_MASKS = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "first-boot-complete.target",
    "fstrim.timer",
    "getty@tty1.service",
    "ldconfig.service",
    "proc-sys-fs-binfmt_misc.automount",
    "remote-fs.target",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-bless-boot.service",
    "systemd-boot-random-seed.service",
    "systemd-boot-update.service",
    "systemd-bootctl.socket",
    "systemd-factory-reset.socket",
    "systemd-firstboot.service",
    "systemd-hibernate-clear.service",
    "systemd-hwdb-update.service",
    "systemd-importd.socket",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-machine-id-commit.service",
    "systemd-mute-console.socket",
    "systemd-pcrextend.socket",
    "systemd-pcrlock.socket",
    "systemd-pcrmachine.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pcrphase.service",
    "systemd-remount-fs.service",
    "systemd-sysext.socket",
    "systemd-tpm2-setup-early.service",
    "systemd-tpm2-setup.service",
    "systemd-update-done.service",
    "systemd-update-utmp.service",
)

# Units that only serve a kernel module, and fail slowly on a kernel without it.
MODULE_UNITS = {
    "configfs": ("modprobe@configfs.service", "sys-kernel-config.mount"),
    "drm": ("modprobe@drm.service",),
    "fuse": ("modprobe@fuse.service", "sys-fs-fuse-connections.mount"),
}


def lean_masks(tree: Tree) -> list[str]:
    """Units to mask in this image unless the product enables them."""
    units = list(LEAN_MASKS)
    for module, served in MODULE_UNITS.items():
        if not tree.glob(f"usr/lib/modules/**/{module}.ko"):
            units += served
    return units


def enable_units(tree: Tree, units: Iterable[str], wanted_by: str) -> None:
    """Makes the links that the units' [Install] sections ask for.

    wanted_by: who asks, for errors. Raises ManifestError for a unit that the
    tree does not have or that says nothing about when to start.
    """
    for unit in units:
        _enable(tree, unit, wanted_by, set())


def mask_units(tree: Tree, units: Iterable[str]) -> None:
    """Makes the units impossible to start, in place of links that enabled them in /etc."""
    for unit in units:
        tree.symlink(f"{_MASKS}/{unit}", "/dev/null")


def unit_names(tree: Tree) -> set[str]:
    """All units (and templates) that the tree ships."""
    return {path.rpartition("/")[2] for path in tree.glob(f"{DIRECTORY}/*.*")}


def _enable(tree: Tree, unit: str, wanted_by: str, done: set[str]) -> None:
    if unit in done:
        return
    done.add(unit)
    template = template_of(unit)
    path = next(
        (f"{DIRECTORY}/{name}" for name in (unit, template) if f"{DIRECTORY}/{name}" in tree), None
    )
    if path is None:
        near = get_close_matches(unit, unit_names(tree), 3, 0.6)
        raise ManifestError(
            f"cannot enable {unit} ({wanted_by}): the image has no such unit",
            details=f"similar: {', '.join(near)}" if near else "",
            resolution="correct the name, or add the package that ships the unit",
        )
    install = list(install_section(tree.read(path).decode(errors="replace")))
    if not install:
        raise ManifestError(
            f"cannot enable {unit} ({wanted_by}): it has no [Install] section",
            details=f"file: /{path}",
            resolution="add WantedBy=multi-user.target below [Install], or do not enable it",
        )
    for key, words in install:
        for word in words:
            if key in LINK_FOLDERS:
                tree.symlink(f"{DIRECTORY}/{word}.{LINK_FOLDERS[key]}/{unit}", f"../{_file(path)}")
            elif key == "Alias" and word != unit:
                tree.symlink(f"{DIRECTORY}/{word}", _file(path))
            elif key == "Also":
                _enable(tree, word, f"Also= of {unit}", done)


def install_section(text: str) -> Iterator[tuple[str, list[str]]]:
    """Key and words of each line of a unit's [Install] section."""
    inside = False
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if line.startswith("["):
            inside = line == "[Install]"
        elif inside and "=" in line and line[0] not in "#;":
            key, _, value = line.partition("=")
            yield key.strip(), value.split()


def template_of(unit: str) -> str:
    """For getty@tty1.service: getty@.service."""
    name, at, rest = unit.partition("@")
    return f"{name}@.{rest.rpartition('.')[2]}" if at else unit


def _file(path: str) -> str:
    return path.rpartition("/")[2]
