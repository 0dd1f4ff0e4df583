"""Which modules a module needs, and in which order they load."""

from __future__ import annotations

import pytest

from imager.modules import ModuleIndex, parse_index
from recovery.errors import ManifestError

FILES = {
    "modules.dep": (
        "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/fs/mbcache.ko.xz\n"
        "kernel/fs/jbd2/jbd2.ko.xz:\n"
        "kernel/fs/mbcache.ko.xz:\n"
        "kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-bufio.ko.xz"
        " kernel/drivers/md/dm-mod.ko.xz\n"
        "kernel/drivers/md/dm-bufio.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n"
        "kernel/drivers/md/dm-mod.ko.xz:\n"
        "kernel/crypto/crc32c_generic.ko.xz:\n"
        "kernel/arch/x86/crypto/crc32c-intel.ko.xz:\n"
    ),
    "modules.softdep": "softdep ext4 pre: crc32c post: nothing\n",
    "modules.alias": (
        "alias crc32c crc32c_intel\nalias crc32c crc32c_generic\nalias pci:v*d* something\n"
    ),
    "modules.builtin": "kernel/drivers/virtio/virtio_pci.ko\n",
}


@pytest.fixture
def index() -> ModuleIndex:
    return parse_index(FILES)


def test_what_a_module_needs_comes_before_it(index: ModuleIndex) -> None:
    assert index.closure(["dm-verity"]) == ["dm_mod", "dm_bufio", "dm_verity"]


def test_soft_dependencies_by_alias_come_first(index: ModuleIndex) -> None:
    assert index.closure(["ext4"]) == ["crc32c_intel", "crc32c_generic", "mbcache", "jbd2", "ext4"]


def test_modules_of_several_are_listed_once_and_built_in_ones_never(index: ModuleIndex) -> None:
    assert index.closure(["virtio-pci", "jbd2", "jbd2", "dm_mod", "dm-bufio"]) == [
        "jbd2", "dm_mod", "dm_bufio",
    ]  # fmt: skip


def test_an_unknown_module_is_refused_with_similar_names(index: ModuleIndex) -> None:
    with pytest.raises(ManifestError, match="cannot find the kernel module dm_veri") as caught:
        index.closure(["dm_veri"])
    assert "dm_verity" in caught.value.details
