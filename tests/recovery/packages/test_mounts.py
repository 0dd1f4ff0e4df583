"""Views and the system's /usr, mounted by this host's kernel from real images."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping

import pytest

from recovery.errors import TrustError
from recovery.generations import Generation
from recovery.packages import inuse, mountapi, views
from recovery.packages.activate import Activator
from recovery.packages.active import load_active
from recovery.packages.host import Activation
from recovery.packages.model import Package
from recovery.packages.overlay import Overlay, addition
from recovery.packages.paths import Paths
from recovery.packages.store import Store
from recovery.packages.trust import Publishers
from tests.recovery.packages.builders import POLICY, entry, package, service, with_packages
from tests.recovery.packages.conftest import Put

pytestmark = pytest.mark.build


class KernelWithoutVerity(Store):
    """The store on a host whose kernel has no fs-verity: believes all but listed images.

    What the kernel checks is shown in a boot: qemu/scenarios/test_package_trust.py.
    """

    tampered: frozenset[str] = frozenset()

    def verify(self, digest: str, package: str) -> str:
        """Refuses what is listed as tampered with."""
        if digest in self.tampered:
            raise TrustError(f"cannot trust package {package}: altered")
        return "acme"


def activate(
    paths: Paths, generation: Generation, tampered: frozenset[str] = frozenset()
) -> Activation:
    """Activates as a device does."""
    activator = Activator(paths, generation, None, POLICY, Publishers())
    activator.store = KernelWithoutVerity(paths, Publishers())
    activator.store.tampered = tampered
    return activator.run()[0]


def mount(paths: Paths, digest: str) -> None:
    """Mounts an image of the store."""
    KernelWithoutVerity(paths, Publishers()).mount(digest)


def test_two_packages_see_two_versions_of_a_library(device: Paths, put: Put) -> None:
    first = put(package("a"), {"usr/bin/a": "a"})
    second = put(package("b"), {"usr/bin/b": "b"})
    old = put(package("lib", version="1.0", kind="library"), {"usr/lib/lib": "1.0"})
    new = put(package("lib", version="2.0", kind="library"), {"usr/lib/lib": "2.0"})
    for digest in (first, second, old, new):
        mount(device, digest)
    one = views.ensure_view(device, "root", (first, old))
    two = views.ensure_view(device, "root", (second, new))
    assert ((one / "lib/lib").read_text(), (two / "lib/lib").read_text()) == ("1.0", "2.0")
    assert (one / "bin/sh").read_text() == "shell of the image"
    assert not (one / "bin/b").exists()
    assert views.ensure_view(device, "root", (first, old)) == one


def test_a_program_keeps_its_view_and_its_images_until_it_ends(device: Paths, put: Put) -> None:
    digest = put(package("a"), {"usr/bin/a": "a"})
    mount(device, digest)
    view = views.ensure_view(device, "root", (digest,))
    (name,) = inuse.views(device)
    # A program in a mount namespace of its own, with the view elsewhere, as a service has it.
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    place = device.root / "elsewhere"
    place.mkdir()
    command = [
        "unshare", "--mount", "--propagation", "private", "sh", "-c",
        f'mount --bind "{view}" "{place}" && exec "$0" -c "$1"', sys.executable, script,
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"up\n"
        assert list(inuse.users_of_views(device)) == [name]
        assert views.retire(device, ()) == ()
        assert os.path.ismount(view)
        program.communicate()
    assert inuse.users_of_views(device) == {}
    assert views.retire(device, ()) == (digest,)
    assert inuse.views(device) == ()
    assert inuse.images(device) == ()


def contents(paths: Paths) -> dict[str, str]:
    """The commands in the system's own /usr."""
    return {path.name: path.read_text() for path in sorted((paths.root / "usr/bin").iterdir())}


def add(paths: Paths, put: Put, item: Package, files: Mapping[str, str]) -> tuple[Package, str]:
    """A mounted package."""
    digest = put(item, files)
    mount(paths, digest)
    return item, digest


def test_only_declared_paths_appear_in_the_system(device: Paths, put: Put) -> None:
    item = add(
        device,
        put,
        package("vpn", overlay=("usr/bin/wg", "usr/share/wg")),
        {"usr/bin/wg": "wg", "usr/bin/evil": "evil", "usr/share/wg/a/b": "data"},
    )
    assert Overlay(device).apply("root", [addition(*item)]) == {}
    assert contents(device) == {"sh": "shell of the image", "wg": "wg"}
    assert (device.root / "usr/share/wg/a/b").read_text() == "data"
    # The image's file says set-user-ID.
    assert (device.root / "usr/bin/wg").stat().st_mode & 0o7777 == 0o755
    assert Overlay(device).apply("root", []) == {}
    assert contents(device) == {"sh": "shell of the image"}


def test_a_feature_cannot_replace_a_file_of_the_image_but_a_system_package_can(
    device: Paths, put: Put
) -> None:
    files = {"usr/bin/sh": "another shell"}
    feature = add(device, put, package("vpn", overlay=("usr/bin/sh",)), files)
    refused = Overlay(device).apply("root", [addition(*feature)])
    assert "file of the image" in refused["vpn"]
    assert contents(device) == {"sh": "shell of the image"}
    system = add(device, put, package("shell", kind="system", overlay=("usr/bin/sh",)), files)
    assert Overlay(device).apply("root", [addition(*system)]) == {}
    assert contents(device) == {"sh": "another shell"}


def test_what_one_package_hides_is_not_shown_for_another(device: Paths, put: Put) -> None:
    first = add(
        device,
        put,
        package("a", overlay=("usr/bin/a",)),
        {"usr/bin/a": "a", "usr/bin/wg": "undeclared"},
    )
    second = add(device, put, package("b", overlay=("usr/bin/wg",)), {"usr/bin/wg": "wg"})
    refused = Overlay(device).apply("root", [addition(*first), addition(*second)])
    assert "is in package a, too" in refused["b"]
    assert contents(device) == {"sh": "shell of the image", "a": "a"}


def test_there_is_no_moment_without_usr(device: Paths, put: Put) -> None:
    items = [
        addition(
            *add(device, put, package(name, overlay=(f"usr/bin/{name}",)), {f"usr/bin/{name}": "x"})
        )
        for name in ("one", "two")
    ]
    missing, samples, over = [0], [0], threading.Event()

    def look() -> None:
        while not over.is_set():
            samples[0] += 1
            missing[0] += not (device.root / "usr/bin/sh").exists()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for turn in range(40):
            Overlay(device).apply("root", [items[turn % 2]] if turn % 5 else [])
    except OSError as error:
        if "beneath" in str(error) or error.errno == 22:
            pytest.skip(f"this host's kernel cannot mount beneath: {error}")
        raise
    finally:
        over.set()
        thread.join()
    assert samples[0] > 1000
    assert missing[0] == 0


def test_one_bad_package_leaves_the_others(device: Paths, put: Put) -> None:
    good = put(package("good", service(state=True)), {"usr/bin/tool": "x"})
    altered = put(package("altered", service()), {"usr/bin/tool": "y"})
    alias = put(package("real", service()), {"usr/bin/tool": "z"})
    activation = activate(
        device,
        with_packages(
            2,
            entry("altered", altered, uid=50016),
            entry("gone", "ef" * 32, uid=50032),
            entry("good", good),
            entry("liar", alias, uid=50048),
            entry("real", alias, uid=50064),
        ),
        frozenset({altered}),
    )
    assert sorted(activation.failures) == ["altered", "gone", "liar"]
    units = sorted(path.name for path in device.units.glob("orbital.*"))
    assert units == ["orbital.good.main.service", "orbital.real.main.service"]
    assert load_active(device) == activation


def test_activation_is_idempotent_and_removes_what_is_gone(device: Paths, put: Put) -> None:
    digest = put(package("vpn", service()), {"usr/bin/tool": "x"})
    first = activate(device, with_packages(2, entry("vpn", digest)))
    before = {path: path.stat().st_mtime_ns for path in device.units.rglob("*")}
    assert activate(device, with_packages(2, entry("vpn", digest))) == first
    assert {path: path.stat().st_mtime_ns for path in device.units.rglob("*")} == before
    (device.units / "foreign.service").write_text("[Service]\n")
    activate(device, with_packages(3))
    left = [path.name for path in device.units.rglob("*") if not path.is_dir()]
    assert left == ["foreign.service"]
    assert list(device.users.iterdir()) == []
    assert list(device.config.iterdir()) == []


def test_what_the_kernel_says_is_in_the_error(device: Paths) -> None:
    device.store.mkdir(parents=True)
    device.stored("ab" * 32).write_bytes(bytes(8192))
    with pytest.raises(OSError, match="erofs"):
        mountapi.erofs(device.stored("ab" * 32))
