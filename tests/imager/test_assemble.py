"""From a base and a product to the tree of the root image; no tools, no network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cryptography import x509

from imager.anchors import FOLDER, ROOT, trust_files
from imager.assemble import assemble
from imager.keys import load_certificate
from imager.tree import Tree
from manifests.capabilities import load_capabilities
from manifests.catalogue import Product, load_product
from recovery.device import decode
from recovery.errors import ManifestError
from recovery.packages import capabilities, trust

REPOSITORY = Path(__file__).parents[2]
BUILT = 1_700_000_000

SYSTEM = """\
system: thing
version: "3.1"
summary: A thing
hostname: thing-host
base: {debian: {suite: trixie, packages: [systemd]}}
system_packages: [feature]
units:
  enable: [base.service]
  mask: [unwanted.service]
"""
PACKAGE = """\
package: feature
version: "1.2"
type: system
summary: A feature
enable: [feature.service, instance@one.service]
health:
  - {name: feature, kind: tcp, host: 127.0.0.1, port: 80, deadline_seconds: 9}
"""
UNIT = "[Service]\nExecStart=/usr/bin/feature\n[Install]\nWantedBy=multi-user.target\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the system thing and its package feature."""
    write(tmp_path / "manifests/systems/thing.yaml", SYSTEM)
    package = tmp_path / "manifests/packages/feature"
    write(package / "package.yaml", PACKAGE)
    units = package / "tree/usr/lib/systemd/system"
    write(units / "feature.service", UNIT + "Alias=other-name.service\nAlso=helper.socket\n")
    write(units / "helper.socket", "[Socket]\n[Install]\nRequiredBy=sockets.target\n")
    write(units / "instance@.service", UNIT)
    write(package / "tree/usr/bin/feature", "#!/bin/sh\n")
    # Modes as a checkout with umask 0002 has them.
    (package / "tree/usr/bin/feature").chmod(0o775)
    write(package / "tree/etc/feature.conf", "x=1\n")
    (package / "tree/etc/feature.conf").chmod(0o664)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def product(folder: Path) -> Product:
    return load_product("thing", "qemu-x86_64", (folder, REPOSITORY))


def base() -> Tree:
    """A tiny Debian base with the traits that matter."""
    tree = Tree()
    tree.symlink("bin", "usr/bin")
    tree.file("usr/bin/perl", "perl", 0o755)
    tree.file("usr/bin/ls", "ls", 0o755)
    tree.file("usr/lib/perl/only.pm", "")
    info = "var/lib/dpkg/info"
    tree.file(
        f"{info}/perl-base.list", "/.\n/bin\n/bin/perl\n/usr/lib/perl\n/usr/lib/perl/only.pm\n"
    )
    tree.file(f"{info}/coreutils.list", "/.\n/usr\n/usr/bin\n/usr/bin/ls\n")
    tree.file(
        "usr/lib/os-release", 'ID=debian\nVERSION_ID="13"\nHOME_URL="https://vendor"\nX="y"\n'
    )
    tree.file("usr/lib/systemd/system/base.service", UNIT)
    tree.file("usr/share/doc/ls/copyright", "text")
    tree.file("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    tree.file("etc/resolv.conf", "nameserver 192.0.2.1\n")
    tree.file("etc/apt/sources.list", "deb http://mirror.example trixie main\n")
    tree.file("boot/vmlinuz", "kernel")
    tree.file("usr/lib/tmpfiles.d/own.conf", "d /var/lib/ruled 0700 root root -\n")
    tree.directory("var/lib/ruled", 0o700)
    tree.directory("var/lib/state dir", 0o750, 5, 6)
    tree.file("var/lib/data/seed", "seed", 0o600)
    tree.symlink("var/spool/mail", "../mail")
    tree.file("var/cache/apt/pkgcache.bin", "cache")
    return tree


def build(folder: Path, start: Tree | None = None, publishers: Path | None = None) -> Tree:
    modules = Tree()
    modules.file("usr/lib/modules/6.12/kernel/fs/fuse/fuse.ko", b"module")
    trust = trust_files(b'{"signed": {}}', publishers)
    return assemble(product(folder), start or base(), modules, trust, BUILT)


def test_the_image_says_what_it_is(folder: Path) -> None:
    tree = build(folder)
    assert tree.read("usr/lib/os-release").decode().splitlines() == [
        'NAME="thing"', 'PRETTY_NAME="thing 3.1"', "ID=thing", 'VERSION_ID="3.1"',
        "IMAGE_ID=thing", 'IMAGE_VERSION="3.1"', 'ID_LIKE="debian"', 'X="y"',
    ]  # fmt: skip
    assert tree.read("etc/hostname") == b"thing-host\n"
    assert tree.read("etc/machine-id") == b""
    assert tree.read(ROOT) == b'{"signed": {}}'
    assert int(tree.read("usr/lib/clock-epoch")) == BUILT
    config = decode(tree.read("usr/lib/orbital/device.json"))
    assert (config.system, config.version, config.board) == ("thing", "3.1", "qemu-x86_64")
    assert (config.built, config.slots) == (BUILT, {"a": "root-a", "b": "root-b"})
    assert [check.name for check in config.health] == ["feature"]
    assert [(item.name, item.version) for item in config.packages] == [("feature", "1.2")]


def test_nothing_of_the_build_machine_or_package_manager_remains(folder: Path) -> None:
    tree = build(folder)
    for path in ("etc/resolv.conf", "etc/apt", "boot/vmlinuz", "usr/share/doc", "var/cache",
                 "var/lib/dpkg", "usr/bin/perl", "usr/lib/perl"):  # fmt: skip
        assert path not in tree, path
    assert tree.read("bin/ls") == b"ls"


def test_a_package_the_product_asks_for_is_not_dropped(folder: Path) -> None:
    manifest = folder / "manifests/systems/thing.yaml"
    manifest.write_text(SYSTEM.replace("[systemd]", "[systemd, perl-base]"))
    assert build(folder).read("usr/bin/perl") == b"perl"


def test_var_is_empty_and_comes_back_by_rules(folder: Path) -> None:
    tree = build(folder)
    assert [path for path, _ in tree.items() if path.startswith("var")] == ["var"]
    rules = tree.read("usr/lib/tmpfiles.d/orbital-var.conf").decode().splitlines()[1:]
    assert "d /var/lib/state\\x20dir 0750 5 6 -" in rules
    assert "C /var/lib/data/seed 0600 0 0 -" in rules
    assert "L /var/spool/mail - - - - ../mail" in rules
    assert not [rule for rule in rules if "ruled" in rule or "dpkg" in rule]
    assert tree.read("usr/share/factory/var/lib/data/seed") == b"seed"


def test_units_are_enabled_as_their_install_sections_say(folder: Path) -> None:
    tree = build(folder)
    units = "usr/lib/systemd/system"
    for link, target in {
        "multi-user.target.wants/feature.service": "../feature.service",
        "multi-user.target.wants/base.service": "../base.service",
        "multi-user.target.wants/instance@one.service": "../instance@.service",
        "sockets.target.requires/helper.socket": "../helper.socket",
        "other-name.service": "feature.service",
        "boot-complete.target.requires/orbital-health.service": "../orbital-health.service",
    }.items():
        entry = tree.get(f"{units}/{link}")
        assert entry is not None, link
        assert entry.target == target
        assert tree.resolve(f"{units}/{link}") in tree


def test_units_are_masked_by_the_product_and_where_they_cannot_work(folder: Path) -> None:
    tree = build(folder)

    def masked(unit: str) -> bool:
        entry = tree.get(f"etc/systemd/system/{unit}")
        return entry is not None and entry.target == "/dev/null"

    assert masked("unwanted.service")
    # It would bless a boot in place of Orbital's health checks.
    assert masked("systemd-bless-boot.service")
    assert masked("sys-kernel-config.mount")
    assert not masked("sys-fs-fuse-connections.mount")
    assert not masked("systemd-networkd.service")
    assert not masked("feature.service")


def test_a_unit_of_the_lean_list_works_when_the_product_enables_it(folder: Path) -> None:
    manifest = folder / "manifests/systems/thing.yaml"
    manifest.write_text(SYSTEM.replace("[base.service]", "[base.service, fstrim.timer]"))
    start = base()
    start.file("usr/lib/systemd/system/fstrim.timer", "[Install]\nWantedBy=timers.target\n")
    tree = build(folder, start)
    assert "etc/systemd/system/fstrim.timer" not in tree
    assert "usr/lib/systemd/system/timers.target.wants/fstrim.timer" in tree


def test_an_unknown_unit_is_refused_with_similar_names(folder: Path) -> None:
    (folder / "manifests/systems/thing.yaml").write_text(SYSTEM.replace("[base.", "[bass."))
    with pytest.raises(ManifestError, match=r"cannot enable bass\.service") as caught:
        build(folder)
    assert "system thing" in str(caught.value)
    assert "base.service" in caught.value.details


def test_a_unit_that_says_nothing_of_its_start_is_refused(folder: Path) -> None:
    unit = folder / "manifests/packages/feature/tree/usr/lib/systemd/system/feature.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    with pytest.raises(ManifestError, match=r"cannot enable feature\.service \(package feature\)"):
        build(folder)


def test_a_file_of_another_package_is_refused_with_both_names(folder: Path) -> None:
    write(folder / "manifests/packages/feature/tree/usr/bin/ls", "mine")
    with pytest.raises(ManifestError, match="cannot merge package feature") as caught:
        build(folder)
    assert "/usr/bin/ls" in caught.value.brief
    assert "the Debian package coreutils" in caught.value.details


def test_modes_do_not_depend_on_the_umask_of_the_checkout(folder: Path) -> None:
    tree = build(folder)
    modes = {path: entry.mode for path, entry in tree.items()}
    assert (modes["usr/bin/feature"], modes["etc/feature.conf"]) == (0o755, 0o644)


def test_mount_points_are_there(folder: Path) -> None:
    tree = build(folder)
    for path in ("state", "proc", "sys", "dev", "run", "tmp", "var", "etc"):
        entry = tree.get(path)
        assert entry is not None, path
        assert entry.kind == "directory"


def test_the_agent_is_whole_and_nothing_of_the_host(folder: Path) -> None:
    tree = build(folder)
    files = tree.glob("usr/lib/orbital/**/*.py")
    for needed in ("recovery/early.py", "updater/update.py", "manifests/index.py",
                   "orbital/main.py", "orbital/system.py", "orbital/__init__.py"):  # fmt: skip
        assert f"usr/lib/orbital/{needed}" in files
    assert not [path for path in files if "imager" in path or "qemu" in path]
    # YAML never reaches the device.
    assert not [path for path in files if b"import yaml" in tree.read(path)]
    for launcher in ("usr/lib/orbital/early", "usr/lib/orbital/recover", "usr/bin/orbital"):
        entry = tree.get(launcher)
        assert entry is not None, launcher
        assert entry.mode == 0o755
        assert tree.read(launcher).startswith(b"#!/")


def test_device_json_is_json_with_sorted_keys(folder: Path) -> None:
    document = json.loads(build(folder).read("usr/lib/orbital/device.json"))
    assert list(document) == sorted(document)


def test_the_image_says_which_capabilities_packages_may_have(folder: Path) -> None:
    manifest = folder / "manifests/systems/thing.yaml"
    manifest.write_text(SYSTEM + "packages: {refuse: [time.set]}\n")
    policy = capabilities.decode(build(folder).read(str(capabilities.FILE)))
    assert [item.name for item in policy.capabilities] == list(load_capabilities().names)
    assert policy.refused == ("time.set",)
    assert policy.find("time.set") is None
    assert policy.find("net.client") is not None


def test_the_bus_reads_the_policies_of_packages(folder: Path) -> None:
    text = build(folder).read("usr/share/dbus-1/system.d/orbital-packages.conf").decode()
    places = {node.tag: node.text for node in ElementTree.fromstring(text)}
    assert places == {
        "includedir": "/run/orbital/packages/dbus/system.d",
        "servicedir": "/run/orbital/packages/dbus/system-services",
    }


def test_publishers_of_the_key_directory_are_trusted_without_their_private_keys(
    folder: Path, keys: Path
) -> None:
    tree = build(folder, publishers=keys / "packages")
    found = [path for path, entry in tree.items() if path.startswith(f"{FOLDER}/")]
    names = ("publishers", "publishers.json", "publishers/publisher.der", "root.json")
    assert sorted(found) == [f"{FOLDER}/{name}" for name in names]
    image = folder / "image"
    for path in found:
        if path != f"{FOLDER}/publishers":
            (image / path).parent.mkdir(parents=True, exist_ok=True)
            (image / path).write_bytes(tree.read(path))
    (publisher,) = trust.load(image).publishers
    assert (publisher.name, publisher.patterns) == ("publisher", ("*",))
    certificate = x509.load_der_x509_certificate(tree.read(f"{FOLDER}/publishers/publisher.der"))
    assert certificate == load_certificate(keys / "packages/publisher.pem")


def test_an_image_without_publishers_trusts_none(folder: Path) -> None:
    tree = build(folder)
    assert not tree.glob(f"{FOLDER}/publishers*")


def test_a_publisher_without_certificate_is_refused(folder: Path, keys: Path) -> None:
    copy = folder / "keys"
    shutil.copytree(keys, copy)
    (copy / "packages/publisher.pem").unlink()
    with pytest.raises(ManifestError, match="cannot read the certificate"):
        build(folder, publishers=copy / "packages")
