"""Packages whose scripts do more than debhelper's sections: what they do, as read in trixie.

A package with such scripts that is not here is refused: what its scripts do on
other systems would silently be missing on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from imager.configure.certificates import trust_certificates
from imager.configure.links import enable_at_installation
from imager.configure.pam import configure_pam
from imager.configure.scripts import EnabledUnit
from imager.tree import Tree

_LOCAL = ("bin", "etc", "games", "include", "lib", "libexec", "sbin", "share", "share/man", "src")
_NETWORKS = "default\t\t0.0.0.0\nloopback\t127.0.0.0\nlink-local\t169.254.0.0\n\n"
_MODULES = """\
# /etc/modules is obsolete and has been replaced by /etc/modules-load.d/.
# Please see modules-load.d(5) and modprobe.d(5) for details.
#
# Updating this file still works, but it is undocumented and unsupported.
"""
_PYTHON = """\
[DEFAULT]
# how to byte-compile (comma separated: standard, optimize)
byte-compile = standard
"""


def _base_files(tree: Tree) -> None:
    defaults = {"dot.profile": "root/.profile", "dot.bashrc": "root/.bashrc",
                "profile": "etc/profile", "motd": "etc/motd"}  # fmt: skip
    for source, path in defaults.items():
        _copy(tree, f"usr/share/base-files/{source}", path)
    for path in ("mnt", "srv", "opt", "etc/opt", "media", "usr/local"):
        tree.directory(path)
    for name in _LOCAL:
        tree.directory(f"usr/local/{name}")
    tree.symlink("usr/local/man", "share/man")
    tree.directory("var/opt")
    # 8 is the group mail (base-passwd).
    tree.directory("var/mail", 0o2775, gid=8)
    if "var/spool/mail" not in tree:
        tree.symlink("var/spool/mail", "../mail")
    for name, target in (("run", "/run"), ("lock", "/run/lock")):
        tree.remove(f"var/{name}")
        tree.symlink(f"var/{name}", target)


def _base_passwd(tree: Tree) -> None:
    for path in ("etc/subuid", "etc/subgid"):
        tree.file(path, "")


def _ca_certificates(tree: Tree) -> None:
    tree.directory("usr/local/share/ca-certificates")
    trust_certificates(tree)


def _debianutils(tree: Tree) -> None:
    """/etc/shells of the shells that packages name, each at both its paths (update-shells(8))."""
    if "etc/shells" not in tree:
        _copy(tree, "usr/share/debianutils/shells", "etc/shells")
    text = tree.read("etc/shells").decode()
    wanted = [
        line
        for path in tree.glob("usr/share/debianutils/shells.d/*")
        for line in tree.read(path).decode().splitlines()
    ]
    lines = text.splitlines()
    shells = ["/usr/bin/sh"] if "/bin/sh" in lines else []
    for shell in wanted:
        shells += [shell, f"/usr{shell}"] if shell.startswith("/bin/") else [shell]
    text += "".join(f"{shell}\n" for shell in dict.fromkeys(shells) if shell not in lines)
    tree.file("etc/shells", text)


def _kmod(tree: Tree) -> None:
    tree.file("etc/modules", _MODULES)


def _libc_bin(tree: Tree) -> None:
    _copy(tree, "usr/share/libc-bin/nsswitch.conf", "etc/nsswitch.conf")


def _netbase(tree: Tree) -> None:
    tree.file("etc/networks", _NETWORKS)


def _pam_modules(tree: Tree) -> None:
    tree.file("etc/environment", "")
    tree.file("etc/security/opasswd", "", 0o600)


def _python(tree: Tree) -> None:
    tree.file("etc/python3/debian_config", _PYTHON)


def _python_minimal(tree: Tree) -> None:
    tree.directory("usr/local/lib/python3.13/dist-packages")


def _readline(tree: Tree) -> None:
    _copy(tree, "usr/share/readline/inputrc", "etc/inputrc")


def _systemd(tree: Tree) -> None:
    units = ("getty@tty1.service", "remote-fs.target", "systemd-pstore.service")
    enable_at_installation(tree, [EnabledUnit(unit) for unit in units])


def _tzdata(tree: Tree) -> None:
    tree.symlink("etc/localtime", "/usr/share/zoneinfo/Etc/UTC")


def _nothing(_tree: Tree) -> None:
    """For a first installation of an image the scripts do nothing that lasts."""


REVIEWED: Mapping[str, Callable[[Tree], None]] = MappingProxyType(
    {
        "base-files": _base_files,
        "base-passwd": _base_passwd,
        "ca-certificates": _ca_certificates,
        "debianutils": _debianutils,
        "kmod": _kmod,
        "libc-bin": _libc_bin,
        "libpam-modules": _pam_modules,
        "libpam-runtime": configure_pam,
        "netbase": _netbase,
        "python3": _python,
        "python3.13-minimal": _python_minimal,
        "readline-common": _readline,
        "systemd": _systemd,
        "tzdata": _tzdata,
        # Alternatives only, in scripts of their own; see `imager.configure.scripts`.
        "bash": _nothing,
        "mawk": _nothing,
        "tar": _nothing,
        "util-linux": _nothing,
        "wireless-regdb": _nothing,
        # sysusers.d and tmpfiles.d in scripts of their own; all of both are applied.
        "dbus-system-bus-common": _nothing,
        # Upgrades, diversions of files before usr was merged, running services, databases
        # that images do not keep (hwdb.bin, dpkg), compiled Python, the initramfs of Debian.
        "dash": _nothing,
        "dbus-broker": _nothing,
        "dpkg": _nothing,
        "e2fsprogs": _nothing,
        "gzip": _nothing,
        "init-system-helpers": _nothing,
        "iproute2": _nothing,
        "libc6": _nothing,
        "libext2fs2t64": _nothing,
        "libgssapi-krb5-2": _nothing,
        "libpam0g": _nothing,
        "libpython3.13-minimal": _nothing,
        "libreadline8t64": _nothing,
        "libselinux1": _nothing,
        "libtirpc3t64": _nothing,
        "openssl": _nothing,
        "procps": _nothing,
        "python3-minimal": _nothing,
        "python3.13": _nothing,
        "systemd-sysv": _nothing,
        "udev": _nothing,
    }
)


def _copy(tree: Tree, source: str, path: str) -> None:
    entry = tree.get(source)
    if entry is not None and path not in tree:
        tree.put(path, entry)
