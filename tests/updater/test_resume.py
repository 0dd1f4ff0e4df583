"""Loss of the network in mid-update: what is written and verified is not fetched again."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.errors import FetchError
from tests.updater.devices import FileDevice
from tests.updater.images import BuiltImage
from tests.updater.publisher import Publisher
from tests.updater.webserver import WebServer


def chunk_requests(web: WebServer) -> list[str]:
    """Names of the chunks that were sent."""
    return [path.rpartition("/")[2] for path in web.requests() if path.startswith("/chunks/")]


def all_chunks(image: BuiltImage) -> list[str]:
    """Names of the chunks of an image, in order."""
    streams = (image.index.root.stream, image.index.boot.stream)
    return [segment.stored_sha256 for stream in streams for segment in stream.segments]


def test_every_chunk_is_fetched_once(
    publisher: Publisher, device: FileDevice, web: WebServer
) -> None:
    image = publisher.release("2.0")
    device.update(source=web.url)
    assert sorted(chunk_requests(web)) == sorted(set(all_chunks(image)))


def test_interrupted_update_fetches_only_what_is_missing(
    publisher: Publisher, device: FileDevice, web: WebServer
) -> None:
    image = publisher.release("2.0")
    chunks = all_chunks(image)
    missing = publisher.repository / "chunks" / chunks[3][:2] / chunks[3]
    away = missing.rename(missing.with_suffix(".away"))
    with pytest.raises(FetchError, match="no such file"):
        device.update(source=web.url)
    first = chunk_requests(web)
    device.assert_unaffected()
    away.rename(missing)
    web.forget()
    device.reopened()
    outcome = device.update(source=web.url)
    second = chunk_requests(web)
    device.assert_on_trial(image.root, image.boot, "2.0")
    assert not set(first) & set(second), "fetched twice"
    assert sorted({*first, *second}) == sorted(set(chunks))
    assert outcome.installed is not None
    assert outcome.installed.kept >= 2 * image.index.root.stream.segment_size


def test_interrupted_update_continues_from_another_source(
    publisher: Publisher, device: FileDevice, web: WebServer
) -> None:
    image = publisher.release("2.0")
    stick = publisher.copy("stick")
    chunks = all_chunks(image)
    (publisher.repository / "chunks" / chunks[3][:2] / chunks[3]).unlink()
    with pytest.raises(FetchError):
        device.update(source=web.url)
    outcome = device.update(source=str(stick))
    device.assert_on_trial(image.root, image.boot, "2.0")
    assert outcome.installed is not None
    assert outcome.installed.kept > 0


def test_pieces_of_another_image_are_never_kept(publisher: Publisher, device: FileDevice) -> None:
    publisher.release("2.0")
    image = publisher.build("3.0")
    name = all_chunks(image)[4]
    publisher.publish(image)
    path = publisher.repository / "chunks" / name[:2] / name
    good = path.read_bytes()
    path.unlink()
    with pytest.raises(FetchError):
        device.update(to="3.0")
    path.write_bytes(good)
    other = device.update(to="2.0")
    assert other.installed is not None
    assert other.installed.kept == 0


def test_server_that_ends_connections_all_the_time(
    publisher: Publisher, device: FileDevice, tmp_path: Path
) -> None:
    """nginx limited to two requests a connection."""
    image = publisher.release("2.0")
    extra = "keepalive_requests 2;"
    with WebServer(publisher.repository, tmp_path / "limited", extra) as web:
        device.update(source=web.url)
    device.assert_on_trial(image.root, image.boot, "2.0")
