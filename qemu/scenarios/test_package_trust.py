"""Packages that are not what their publisher signed: refused, nothing changed, and audited."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imager.keyfiles import make_certified
from imager.package.signing import load_package_signer
from imager.repository.anchor import read_anchor
from imager.repository.create import create
from imager.repository.keyring import KeyDirectory
from imager.repository.packages import intake
from imager.repository.publish import publish
from imager.repository.roles import Periods
from qemu import faults
from qemu.device import Device
from qemu.lab import Lab
from qemu.server import Server
from qemu.variants import package_folder
from recovery.reporter import SilentReporter

pytestmark = pytest.mark.boot

BLOCK = 4096


def store_file(device: Device, name: str) -> str:
    """The file of a package's image on the device."""
    digest = device.packages()[name]["digest"]
    return f"/state/orbital/store/{digest}"


@pytest.mark.campaign
def test_an_image_altered_on_disk_between_two_boots_harms_only_its_package(
    stocked: Device,
) -> None:
    machine = stocked.machine
    path = store_file(stocked, "counter")
    # Where the file's first block lies on the partition (filefrag(8): physical offset).
    table = machine.run(f"filefrag -b{BLOCK} -v {path}").output
    extent = re.search(r"^\s*0:\s+0\.\.\s*\d+:\s+(\d+)\.\.", table, re.MULTILINE)
    assert extent, table
    machine.stop()
    faults.corrupt(machine.disk, "state", offset=int(extent[1]) * BLOCK, length=BLOCK)
    machine.start()
    stocked.settle()

    found = stocked.packages()["counter"]
    assert found["state"] == "failed" and found["failure"], "its image is refused"
    assert stocked.unit("counter", "count")["ActiveState"] == "inactive"
    assert stocked.unit("teller", "tell")["ActiveState"] == "active", "the others run"
    assert stocked.status()["committed"] is True
    refused = [entry for entry in stocked.audit() if "counter" in entry["subject"]]
    assert any(entry["result"] in ("refused", "failed") for entry in refused)


@pytest.mark.campaign
def test_a_file_without_verity_in_the_place_of_an_image_is_refused(stocked: Device) -> None:
    path = store_file(stocked, "counter")
    # The same bytes, but nothing that the kernel checks.
    stocked.machine.run(
        f"orbital package disable counter && cp {path} /state/copy && rm -f {path}"
        f" && mv /state/copy {path}"
    )
    assert "verity" in stocked.refused("package", "enable", "counter")
    assert stocked.unit("counter", "count")["ActiveState"] == "inactive"
    assert stocked.unit("teller", "tell")["ActiveState"] == "active"


# The kernel's own answers, with nothing of the agent's in between but the call itself.
ENABLE = """
import errno, pathlib, sys
sys.path.insert(0, "/usr/lib/orbital")
from recovery.errors import TrustError
from recovery.packages import fsverity
path, signature = pathlib.Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
try:
    fsverity.enable(path, signature)
    print("enabled", fsverity.measure(path))
except TrustError as error:
    print(errno.errorcode[error.__cause__.errno])
"""
SIGNATURES = "/proc/sys/fs/verity/require_signatures"


def test_the_kernel_itself_refuses_images_that_nobody_it_knows_has_signed(
    stocked: Device, stock: Lab, tmp_path: Path
) -> None:
    run = stocked.machine.run
    path, digest = store_file(stocked, "counter"), stocked.packages()["counter"]["digest"]
    foreign = load_package_signer(foreign_keys(stock, tmp_path), "publisher", "counter")
    known = load_package_signer(stock.keys, "publisher", "counter")
    signatures = {
        "foreign": foreign.sign(digest),
        "of another file": known.sign("00" * 32),
        "garbage": b"no signature at all",
        "none": b"",
        "right": known.sign(digest),
    }
    stocked.machine.shell.push("/run/enable.py", ENABLE.encode())
    answers = {
        name: run(
            f"cp {path} /state/copy && python3 /run/enable.py /state/copy '{signature.hex()}'"
            "; rm -f /state/copy"
        ).output.strip()
        for name, signature in signatures.items()
    }
    assert answers == {
        "foreign": "ENOKEY",
        "of another file": "EKEYREJECTED",
        "garbage": "EBADMSG",
        "none": "EPERM",
        "right": f"enabled {digest}",
    }

    # Somebody with root's rights lets it through once, and puts it in the place of the image:
    # the very bytes and the very digest, only not signed.
    run(
        f"orbital package disable counter && echo 0 > {SIGNATURES} && cp {path} /state/copy"
        f" && python3 /run/enable.py /state/copy '' && mv /state/copy {path}"
    )
    assert "no signature" in stocked.refused("package", "enable", "counter")
    run(f"echo 1 > {SIGNATURES} && sync && echo 3 > /proc/sys/vm/drop_caches")
    shown = run(f"cat {path} > /dev/null", check=False)
    assert shown.returncode != 0 and "not permitted" in shown.output, shown
    assert "the kernel refuses its signature" in stocked.refused("package", "enable", "counter")
    assert stocked.unit("counter", "count")["ActiveState"] == "inactive"
    assert stocked.unit("teller", "tell")["ActiveState"] == "active"
    last = stocked.audit()[-1]
    assert last["result"] in ("refused", "failed") and "signature" in last["detail"], last


def foreign_keys(lab: Lab, directory: Path) -> Path:
    """The lab's keys, with another pair in the place of the publisher's."""
    keys = directory / "keys"
    shutil.copytree(lab.prepare_keys(), keys)
    for name in ("publisher.key", "publisher.pem"):
        (keys / "packages" / name).unlink()
    make_certified(keys / "packages", "publisher", "Somebody else")
    return keys


def continued(lab: Lab, directory: Path, keys: Path | None = None) -> Lab:
    """A lab whose repository goes on from the one that the device knows.

    A new one would be refused for its version numbers, whatever else is wrong with it.
    """
    own = Lab(directory, keys=keys)
    own.builds = lab.builds
    shutil.copytree(lab.repository, own.repository)
    return own


def offer_rogue(lab: Lab, version: str = "1.0") -> None:
    """Offers a package that the device has never heard of."""
    lab.offer_package("rogue", version=version, folder=package_folder("hungry"), package="rogue")


@pytest.mark.campaign
def test_an_image_signed_with_a_key_that_the_device_does_not_know_is_refused(
    stocked: Device, stock: Lab, serve: Callable[[Path], Server], tmp_path: Path
) -> None:
    """The repository is right in every respect, so that only the image's signature is wrong."""
    hostile = continued(stock, tmp_path, foreign_keys(stock, tmp_path))
    offer_rogue(hostile)
    assert_refused(
        stocked, serve(hostile.repository), "rogue", "this system does not know who signed it"
    )


@pytest.mark.campaign
def test_an_image_altered_on_the_server_is_refused(
    stocked: Device, stock: Lab, serve: Callable[[Path], Server], tmp_path: Path
) -> None:
    own = continued(stock, tmp_path)
    before = {path.name for path in (own.repository / "chunks").rglob("*")}
    offer_rogue(own)
    added = [path for path in (own.repository / "chunks").rglob("*") if path.name not in before]
    chunks = [path for path in added if path.is_file()]
    assert chunks
    for chunk in chunks:
        data = bytearray(chunk.read_bytes())
        data[len(data) // 2] ^= 1
        chunk.write_bytes(data)
    assert_refused(stocked, serve(own.repository), "rogue", "its digest is not the signed one")


@pytest.mark.campaign
def test_an_older_state_of_the_repository_is_refused(
    stocked: Device, stock: Lab, serve: Callable[[Path], Server], tmp_path: Path
) -> None:
    own = continued(stock, tmp_path)
    offer_rogue(own, "1.0")
    shutil.copytree(own.repository, tmp_path / "old")
    offer_rogue(own, "1.1")
    stocked.install(serve(own.repository).url, "rogue")
    stocked.package("remove", "rogue")
    assert_refused(stocked, serve(tmp_path / "old"), "rogue", "older than what this device")


@pytest.mark.campaign
def test_the_same_package_from_an_honest_repository_is_installed(
    stocked: Device, stock: Lab, serve: Callable[[Path], Server], tmp_path: Path
) -> None:
    """What the refusals above are measured against."""
    own = continued(stock, tmp_path)
    offer_rogue(own)
    stocked.install(serve(own.repository).url, "rogue")
    assert stocked.packages()["rogue"]["state"] == "running"


def assert_refused(device: Device, server: Server, name: str, because: str) -> None:
    """The package is not installed from there, for that reason; the device is as before."""
    before = device.packages()
    running = device.status()["running"]
    text = device.refused("package", "install", name, "--source", server.url)
    assert because in text, text
    assert device.packages() == before
    assert device.status()["running"] == running
    last = device.audit()[-1]
    assert last["result"] in ("refused", "failed"), last
    assert name in f"{last['subject']} {last['detail']}"


@pytest.mark.campaign
def test_metadata_that_has_expired_is_refused(
    device: Device, lab: Lab, tmp_path: Path, serve: Callable[[Path], Server]
) -> None:
    directory = tmp_path / "repository"
    keys = KeyDirectory(lab.prepare_keys())
    then = datetime.now(UTC) - timedelta(days=60)
    create(directory, keys, periods=Periods(), root=read_anchor(lab.keys), now=then)
    publish(
        directory,
        [lab.build(lab.version), lab.build_package("counter")],
        keys,
        intake=intake(lab.keys, lab.cache, lab.tools),
        reporter=SilentReporter(),
        now=then,
    )
    server = serve(directory)
    text = device.refused("package", "install", "counter", "--source", server.url)
    assert "expired" in text, text
    assert device.packages() == {}
    refused = [entry for entry in device.audit() if entry["result"] == "refused"]
    assert any("counter" in entry["subject"] for entry in refused)
