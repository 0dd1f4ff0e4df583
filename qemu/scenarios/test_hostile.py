"""Repositories that lie: refused with a reason, and nothing on the device changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qemu.device import Device
from qemu.lab import Lab
from qemu.server import Server

pytestmark = [pytest.mark.boot, pytest.mark.campaign]


def _fingerprint(device: Device) -> str:
    """Everything an update may write: slot b, boot partition, generations, state."""
    return device.machine.run(
        "sync; sha256sum /dev/disk/by-partlabel/root-b; find /run/orbital/boot"
        " /state/orbital/generations /state/orbital/state.json -type f | sort | xargs sha256sum",
        120,
    ).output


def test_tampered_repositories_are_refused_and_change_nothing(
    device: Device, lab: Lab, serve: Callable[[Path], Server], tmp_path: Path
) -> None:
    """One boot, three lies: metadata, a signed target, a chunk."""
    lab.offer(lab.version)
    lab.offer("2.0")
    before = _fingerprint(device)

    def lying(name: str) -> Path:
        copy = tmp_path / name
        shutil.copytree(lab.repository, copy)
        return copy

    metadata = lying("metadata")
    timestamp = metadata / "metadata" / "timestamp.json"
    document = json.loads(timestamp.read_text())
    document["signed"]["version"] += 1
    timestamp.write_text(json.dumps(document))
    text = device.refused("system", "update", "--source", serve(metadata).url, "--to", "2.0")
    assert text.startswith("cannot")
    assert "signature" in text.lower() or "signed" in text.lower()
    assert _fingerprint(device) == before

    target = lying("target")
    for path in (target / "targets").rglob("*index.json"):
        path.write_bytes(path.read_bytes().replace(b'"version"', b'"Version"', 1))
    text = device.refused("system", "update", "--source", serve(target).url, "--to", "2.0")
    assert text.startswith("cannot")
    assert _fingerprint(device) == before

    chunks = lying("chunks")
    for path in (chunks / "chunks").rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    text = device.refused("system", "update", "--source", serve(chunks).url, "--to", "2.0")
    assert text.startswith("cannot")
    # Writing had begun, so slot b may differ; it must not be startable, and a runs on.
    status = device.status()
    assert (status["version"], status["next_slot"], status["trial"]) == ("1.0", "a", None)
    assert device.machine.run("ls /run/orbital/boot/loader/entries").output.split() == [
        "orbital-a.conf"
    ]
