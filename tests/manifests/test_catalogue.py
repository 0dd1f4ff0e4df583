"""Systems, packages and boards put together into a product."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from manifests.catalogue import (
    REPOSITORY,
    find,
    load_package,
    load_product,
    load_system_package,
    names,
)
from manifests.checking import check_document
from manifests.convert import device_config
from manifests.package import SystemSource
from recovery import device
from recovery.errors import ManifestError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the shipped boards and manifests, to be damaged."""
    shutil.copytree(REPOSITORY / "boards", tmp_path / "boards")
    for folder in ("systems", "packages"):
        shutil.copytree(
            REPOSITORY / "manifests" / folder, tmp_path / "manifests" / folder, symlinks=True
        )
    return tmp_path


def edit(path: Path, old: str, new: str) -> Path:
    """Changes one place of a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def gateway(root: Path) -> Path:
    """The system manifest in the copy."""
    return root / "manifests/systems/gateway.yaml"


def system_packages() -> list[SystemSource]:
    """All shipped packages of type system."""
    sources = [load_package(find("package", name)) for name in names("package")]
    return [source for source in sources if isinstance(source, SystemSource)]


def test_the_reference_product_loads_with_its_packages_in_order() -> None:
    product = load_product("gateway", "qemu-x86_64")
    assert product.name == "gateway_1.0_qemu-x86_64"
    assert [item.manifest.package for item in product.packages] == ["interface-manager", "routing"]
    assert [check.name for check in product.health] == ["interfaces", "routing", "networkd"]
    assert {"nftables", "systemd", "python3-tuf"} <= set(product.debian_packages)
    assert {"nft_masq", "virtio_net"} <= set(product.kernel_modules)
    assert "routing.service" in product.enabled_units
    assert product.board.boot_partition.label == "esp"
    assert product.board.slot_labels == {"a": "root-a", "b": "root-b"}


def test_every_enabled_unit_of_a_package_with_files_exists_in_it_or_in_debian() -> None:
    debian = {"systemd-networkd.service"}
    for package in system_packages():
        own = {path.name for path in package.folder.rglob("systemd/system/*")}
        assert set(package.manifest.enable) <= own | debian


def test_every_program_that_a_check_runs_is_in_the_package() -> None:
    for package in system_packages():
        for check in package.manifest.health:
            command = getattr(check, "command", None)
            if command and package.tree:
                program = package.tree / command[0].removeprefix("/")
                assert program.stat().st_mode & 0o111, program


def test_the_device_reads_back_what_the_product_says() -> None:
    config = device_config(load_product("gateway", "qemu-x86_64", version="2.0"), built=1_700_000)
    assert device.decode(device.encode(config)) == config
    assert (config.system, config.version, config.board) == ("gateway", "2.0", "qemu-x86_64")
    assert (config.boot_control, config.boot_partition) == ("systemd-boot", "esp")
    assert (config.watchdog, config.trial.tries, config.trial.probation_seconds) == (60, 2, 90)
    assert (config.update.automatic, config.update.window_start) == (False, "02:00")
    assert config.health[1] == device.HealthCheck(
        "routing", "exec", 120, command=("/usr/lib/routing/check",)
    )
    assert [package.name for package in config.packages] == ["interface-manager", "routing"]


def test_an_unknown_package_is_named_with_its_place_and_a_suggestion(root: Path) -> None:
    path = edit(gateway(root), "  - routing\n", "  - routin\n")
    with pytest.raises(ManifestError) as caught:
        load_product("gateway", "qemu-x86_64", [root])
    line = path.read_text(encoding="utf-8").splitlines().index("  - routin") + 1
    assert caught.value.brief == (
        f"cannot use {path}:{line}: system_packages[1]: expected the name of a package, "
        'got "routin"'
    )
    assert caught.value.resolution == 'did you mean "routing"? known: interface-manager, routing'


def test_only_system_packages_become_part_of_an_image(root: Path) -> None:
    folder = root / "manifests/packages/extra"
    folder.mkdir()
    text = 'package: extra\nversion: "1"\ntype: feature\nsummary: More\npublisher: one\n'
    (folder / "package.yaml").write_text(text, encoding="utf-8")
    path = edit(gateway(root), "  - routing\n", "  - extra\n")
    with pytest.raises(ManifestError) as caught:
        load_product("gateway", "qemu-x86_64", [root])
    line = path.read_text(encoding="utf-8").splitlines().index("  - extra") + 1
    assert caught.value.brief == (
        f"cannot use {path}:{line}: system_packages[1]: expected a package of type system, "
        'got "extra", which has type feature'
    )
    assert "orbital package install" in caught.value.resolution


def test_modules_for_feature_packages_are_kept_beside_the_boards(root: Path) -> None:
    text = gateway(root).read_text(encoding="utf-8")
    gateway(root).write_text(
        text.split("\nkernel_modules:")[0] + "\nkernel_modules: [mac80211_hwsim]\n",
        encoding="utf-8",
    )
    modules = load_product("gateway", "qemu-x86_64", [root]).kernel_modules
    assert {"mac80211_hwsim", "nft_masq", "virtio_net"} <= set(modules)


@pytest.mark.parametrize(
    ("more", "brief"),
    [
        ("packages: {refuse: [net.tunel]}",
         "packages.refuse[0]: expected a capability of manifests/capabilities.yaml"),
        ("packages: {refuse: [tunnel]}",
         'packages.refuse[0]: expected a capability such as "net.client"'),
        ("interface: {libraries: [libc]}",
         'interface.libraries[0]: expected a library such as "libc.so.6", got "libc"'),
        ("interface: {libraries: [libc.so.6, libc.so.6]}",
         'interface.libraries[1]: expected each name once, got "libc.so.6" again'),
        ("interface: {programs: [/bin/sh]}",
         "interface.programs[0]: expected the full path of a program below /usr"),
    ],
)  # fmt: skip
def test_what_a_system_promises_and_refuses_is_checked(root: Path, more: str, brief: str) -> None:
    manifest = gateway(root)
    key = more.partition(":")[0]
    text = manifest.read_text(encoding="utf-8")
    kept = re.sub(rf"^{key}:.*\n(?:[ \n].*\n?)*", "", text, flags=re.MULTILINE)
    manifest.write_text(f"{kept}\n{more}\n", encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        load_product("gateway", "qemu-x86_64", [root])
    assert brief in caught.value.brief


def test_a_board_that_the_system_is_not_made_for_is_refused(root: Path) -> None:
    path = edit(gateway(root), "hostname: gateway\n", "hostname: gateway\nboards: [other]\n")
    with pytest.raises(ManifestError) as caught:
        load_product("gateway", "qemu-x86_64", [root])
    assert caught.value.brief == (
        f"cannot build gateway for board qemu-x86_64: {path} is made for other"
    )


def test_the_reference_system_is_for_every_board(root: Path) -> None:
    known = names("board", [root])
    assert {"qemu-x86_64", "raspberrypi-4"} <= set(known)
    for name in known:
        assert load_product("gateway", name, [root]).board.board == name


@pytest.mark.parametrize(("kind", "name"), [("board", "qemu-x86"), ("system", "gatewy")])
def test_an_unknown_name_is_answered_with_a_suggestion(kind: str, name: str) -> None:
    with pytest.raises(ManifestError, match=f"cannot find {kind} {name} in") as caught:
        find(kind, name)
    assert caught.value.resolution.startswith("did you mean")


def test_a_system_given_by_path_finds_the_packages_beside_it(root: Path) -> None:
    product = load_product(str(gateway(root)), "qemu-x86_64")
    assert all(package.folder.is_relative_to(root) for package in product.packages)


def test_two_checks_of_one_name_in_different_documents_are_refused(root: Path) -> None:
    path = edit(gateway(root), "name: networkd", "name: routing")
    with pytest.raises(ManifestError) as caught:
        load_product("gateway", "qemu-x86_64", [root])
    assert "health[0].name: expected a name that no other check has" in caught.value.brief
    assert str(path) in caught.value.brief
    assert "routing/package.yaml" in caught.value.brief


def test_a_check_of_a_package_later_than_the_trial_is_refused(root: Path) -> None:
    edit(gateway(root), "deadline_seconds: 240", "deadline_seconds: 130")
    path = edit(
        root / "manifests/packages/routing/package.yaml",
        "deadline_seconds: 120",
        "deadline_seconds: 131",
    )
    with pytest.raises(ManifestError) as caught:
        load_product("gateway", "qemu-x86_64", [root])
    assert str(path) in caught.value.brief
    assert "health[0].deadline_seconds: expected at most 130" in caught.value.brief


def test_a_version_that_is_none_cannot_replace_the_manifests() -> None:
    with pytest.raises(ManifestError, match="cannot use version"):
        load_product("gateway", "qemu-x86_64", version="latest")


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("etc/routing/run", 0o755, "nothing executable outside"),
        ("var/lib/routing/seed", 0o644, "only usr/ or etc/ in"),
    ],
)
def test_files_of_a_package_where_they_must_not_be_are_refused(
    root: Path, name: str, mode: int, message: str
) -> None:
    folder = root / "manifests/packages/routing"
    path = folder / "tree" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(mode)
    with pytest.raises(ManifestError, match=message):
        load_package(folder / "package.yaml")


@pytest.mark.parametrize(
    ("mode", "message"), [(None, "no such file"), (0o644, "not executable"), (0o755, "")]
)
def test_hooks_for_the_initramfs_exist_and_can_run(
    root: Path, mode: int | None, message: str
) -> None:
    folder = root / "manifests/packages/routing"
    path = edit(folder / "package.yaml", "enable:", "initramfs_hooks: [probe]\nenable:")
    if mode is not None:
        (folder / "initramfs").mkdir()
        (folder / "initramfs/probe").write_text("#!/bin/sh\n", encoding="utf-8")
        (folder / "initramfs/probe").chmod(mode)
    if message:
        with pytest.raises(ManifestError, match=rf"initramfs_hooks\[0\]: .*{message}"):
            load_package(path)
    else:
        assert load_system_package(path).hooks == (folder / "initramfs/probe",)


def test_a_name_that_differs_from_the_folder_is_refused(root: Path) -> None:
    path = edit(root / "manifests/packages/routing/package.yaml", "package: r", "package: b")
    with pytest.raises(ManifestError, match=r'package: expected "routing", the name of its'):
        load_package(path)


def test_a_relative_program_in_a_check_is_refused(root: Path) -> None:
    path = edit(root / "manifests/packages/routing/package.yaml", "[/usr/lib/", "[")
    with pytest.raises(ManifestError, match=r"health\[0\].command\[0\]: expected the full path"):
        load_package(path)


def test_checking_a_system_finds_a_mistake_in_its_package(root: Path) -> None:
    assert check_document(gateway(root), [root]).error is None
    edit(root / "manifests/packages/routing/package.yaml", "type: system", "type: systm")
    error = check_document(gateway(root), [root]).error
    assert error is not None
    assert "routing/package.yaml" in error.brief
    assert (
        error.resolution == 'did you mean "system"? allowed values: system, feature, library, suite'
    )


def test_a_document_of_no_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\n", encoding="utf-8")
    error = check_document(path).error
    assert error is not None
    assert error.brief == (
        f"cannot use {path}:1: expected exactly one of the keys board, capabilities, package "
        "or system"
    )


def test_a_tar_base_is_found_beside_the_manifest(root: Path) -> None:
    text = gateway(root).read_text(encoding="utf-8")
    start, end = text.index("  debian:\n"), text.index("system_packages:")
    gateway(root).write_text(text[:start] + "  tar: rootfs.tar\n" + text[end:], encoding="utf-8")
    product = load_product("gateway", "qemu-x86_64", [root])
    assert product.base_path == root / "manifests/systems/rootfs.tar"
