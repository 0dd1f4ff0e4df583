"""What a base system has and a device does not need."""

from __future__ import annotations

from collections.abc import Iterable

from imager.lock import DebianPackage
from imager.tree import Tree
from manifests.catalogue import Product

_INFO = "var/lib/dpkg/info"
# Needed only to install, configure and remove Debian packages, which never happens on a
# device. Left in when the product asks for one by name.
_INSTALLERS = (
    "debconf",
    "dpkg",
    "init-system-helpers",
    "libdebconfclient0",
    "perl-base",
    "tar",
)
_UNWANTED = (
    # Made new for each image, or belonging to the machine that built the base.
    "boot/*",
    "dev/*",
    "etc/apt",
    "etc/fstab",
    "etc/hostname",
    "etc/hosts",
    "etc/machine-id",
    "etc/mtab-",
    "etc/resolv.conf",
    "packages.lock",
    "proc/*",
    "run/*",
    "sys/*",
    "tmp/*",
    "usr/lib/modules/*",
    # Left over by package installation.
    "etc/*-",
    "etc/.pwd.lock",
    "etc/cron.d",
    "etc/cron.daily",
    "etc/debconf.conf",
    "etc/dpkg",
    "etc/init.d",
    "etc/logrotate.d",
    "etc/rc?.d",
    "usr/lib/dpkg",
    "usr/share/debconf",
    "usr/share/dpkg",
    "usr/share/perl5",
    # Documentation, translations, completion of shells nobody types into.
    "etc/bash_completion.d",
    "usr/share/applications",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/initramfs-tools",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/menu",
    "usr/share/metainfo",
    "usr/share/pixmaps",
    "usr/share/zsh",
    # Texts for journalctl -x; the device database names hardware for people.
    "usr/lib/systemd/catalog",
    "usr/lib/udev/hwdb.bin",
    "usr/lib/udev/hwdb.d",
    # Character sets beside those built into glibc (UTF-8, ASCII, UCS, UTF-16).
    "usr/lib/*/gconv",
    # Boot programs: the imager takes them from the tools tree.
    "usr/lib/systemd/boot",
    # Python: tests, editors, installers, and the compiled files of the build machine.
    "usr/lib/python3*/**/__pycache__",
    "usr/lib/python3*/**/test",
    "usr/lib/python3*/**/tests",
    "usr/lib/python3*/**/test_data",
    "usr/lib/python3*/config-*",
    "usr/lib/python3*/ensurepip",
    "usr/lib/python3*/idlelib",
    "usr/lib/python3*/pydoc_data",
    "usr/lib/python3*/test",
    "usr/lib/python3*/tkinter",
    "usr/lib/python3*/turtledemo",
    # Generators whose kernel arguments, files or hardware our images never have. Each
    # costs a process at every boot; systemd-bless-boot would commit in our place.
    "usr/lib/systemd/system-generators/systemd-bless-boot-generator",
    "usr/lib/systemd/system-generators/systemd-cryptsetup-generator",
    "usr/lib/systemd/system-generators/systemd-getty-generator",
    "usr/lib/systemd/system-generators/systemd-gpt-auto-generator",
    "usr/lib/systemd/system-generators/systemd-hibernate-resume-generator",
    "usr/lib/systemd/system-generators/systemd-integritysetup-generator",
    "usr/lib/systemd/system-generators/systemd-rc-local-generator",
    "usr/lib/systemd/system-generators/systemd-run-generator",
    "usr/lib/systemd/system-generators/systemd-ssh-generator",
    "usr/lib/systemd/system-generators/systemd-system-update-generator",
    "usr/lib/systemd/system-generators/systemd-sysv-generator",
    "usr/lib/systemd/system-generators/systemd-tpm2-generator",
    "usr/lib/systemd/system-generators/systemd-veritysetup-generator",
)


def strip_base(tree: Tree, product: Product) -> None:
    """Removes from the base what a device does not need, except /var (see `imager.var`)."""
    for name in dropped_packages(product):
        _remove_package(tree, name)
    tree.remove(*_UNWANTED)


def dropped_packages(product: Product) -> tuple[str, ...]:
    """Debian packages that are installed in the base and left out of the image."""
    return tuple(name for name in _INSTALLERS if name not in product.debian_packages)


def kept_packages(packages: Iterable[DebianPackage], product: Product) -> list[DebianPackage]:
    """Those of the base's packages that are in the image."""
    dropped = dropped_packages(product)
    return [package for package in packages if package.name not in dropped]


def _remove_package(tree: Tree, name: str) -> None:
    """Removes a Debian package's files, and the folders that only they were in."""
    lists = [*tree.glob(f"{_INFO}/{name}.list"), *tree.glob(f"{_INFO}/{name}:*.list")]
    folders: list[str] = []
    for path in lists:
        for line in tree.read(path).decode().splitlines():
            # Old packages list /bin/tar although /bin is a link to usr/bin.
            parent, _, base = line.strip("/").rpartition("/")
            file = f"{tree.resolve(parent)}/{base}".strip("/") if parent else base
            entry = tree.get(file)
            if entry is None:
                continue
            if entry.kind == "directory":
                folders.append(file)
            elif entry.kind == "symlink" and _leads_to_directory(tree, file):
                # Such as /bin itself, which many packages list as a folder.
                continue
            else:
                tree.remove(file)
    for folder in sorted(folders, reverse=True):
        if folder.count("/") >= 2 and not tree.has_content(folder):
            tree.remove(folder)


def _leads_to_directory(tree: Tree, path: str) -> bool:
    entry = tree.get(tree.resolve(path))
    return entry is not None and entry.kind == "directory"
