"""Wrong or missing chunks: found out, reported, and the running system stays what boots."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard

from recovery.errors import FetchError, OrbitalError, TrustError
from tests.updater.devices import FileDevice
from tests.updater.images import BuiltImage
from tests.updater.publisher import Publisher


def chunk(publisher: Publisher, image: BuiltImage, number: int, part: str = "root") -> Path:
    """The file of one segment in the repository."""
    stream = image.index.root.stream if part == "root" else image.index.boot.stream
    name = stream.segments[number].stored_sha256
    return publisher.repository / "chunks" / name[:2] / name


def fails(device: FileDevice, error: type[OrbitalError], words: str) -> None:
    """Runs an update that fails while it writes; then a good copy must complete it."""
    with pytest.raises(error, match=words):
        device.update()
    device.assert_unaffected()
    record = device.store.load()
    assert record.trial is None
    assert not device.boot_control.slot_state("b").bootable


@pytest.mark.parametrize("part", ["root", "boot"])
@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("kind", ["flipped", "short", "long", "other", "missing", "bomb"])
def test_bad_chunk(
    publisher: Publisher, device: FileDevice, part: str, number: int, kind: str
) -> None:
    image = publisher.release("2.0")
    path = chunk(publisher, image, number, part)
    good = path.read_bytes()
    bad = {
        "flipped": good[:50] + bytes([good[50] ^ 1]) + good[51:],
        "short": good[:-1],
        "long": good + b"\0",
        "other": chunk(publisher, image, 1, "root").read_bytes(),
        "bomb": zstandard.ZstdCompressor().compress(bytes(200 << 20)),
        "missing": b"",
    }[kind]
    path.write_bytes(bad)
    if kind == "missing":
        path.unlink()
    words = {"long": "longer than", "missing": "no such file"}.get(kind, "damaged or tampered")
    if kind in ("other", "bomb") and len(bad) > len(good):
        words = "longer than"
    fails(device, FetchError if words != "damaged or tampered" else TrustError, words)
    path.write_bytes(good)
    device.update()
    device.assert_on_trial(image.root, image.boot, "2.0")


def test_image_whose_hash_tree_does_not_match_its_root_hash(
    publisher: Publisher, device: FileDevice
) -> None:
    """The publisher signed what cannot boot: every digest is right, the root hash is not."""
    image = publisher.build("2.0")
    path = image.directory / "index.json"
    text = path.read_text().replace(image.index.root.root_hash, "00" * 32)
    path.write_text(text)
    publisher.publish(image)
    fails(device, TrustError, "does not hold the signed image")
