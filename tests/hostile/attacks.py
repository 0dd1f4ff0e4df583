"""Attacks of a repository or of something on the way to it: functions that spoil a world.

The table of them is tests/hostile/table.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, MetaFile, Timestamp

from imager.repository import metadata
from imager.repository.targets import add_target
from tests.hostile.world import World
from tests.updater.publisher import MemoryKeyring, Publisher
from tests.updater.versions import sign_target

TIMESTAMP = "timestamp.json"


def newest(repository: Path, role: str) -> Path:
    """The newest metadata file of a role."""
    if role == "timestamp":
        return repository / "metadata" / TIMESTAMP
    numbered = (repository / "metadata").glob(f"*.{role}.json")
    return max(numbered, key=lambda path: int(path.name.split(".")[0]))


# Arbitrary installation.


def stranger(world: World) -> None:
    """Everything is well signed, by somebody else."""
    other = Publisher(world.base / "other")
    other.release("2.0")
    world.serve(other.repository)


def stranger_below(world: World) -> None:
    """Targets and images of a stranger below our own timestamp and snapshot."""
    other = Publisher(world.base / "other")
    other.release("2.0")
    for role in ("targets", "os"):
        shutil.copy(newest(other.repository, role), newest(world.repository, role))
    shutil.copytree(other.repository / "targets", world.repository / "targets", dirs_exist_ok=True)


def unsigned(world: World) -> None:
    """The signatures of the timestamp are gone, as `"signatures": []`."""
    _edit(newest(world.repository, "timestamp"), lambda d: d.update(signatures=[]))


def same_signature_twice(world: World) -> None:
    """A root whose threshold of two is met by one key, named twice."""
    path = world.repository / "metadata/1.root.json"
    document = json.loads(path.read_bytes())
    document["signed"]["version"] = 2
    document["signatures"] = [document["signatures"][0]] * 2
    (path.parent / "2.root.json").write_text(json.dumps(document))


def other_image_for_index(world: World) -> None:
    """The index of one version in the place of another's."""
    world.release("3.0")
    indexes = sorted((world.repository / "targets").rglob("*.index.json"))
    indexes[-1].write_bytes(indexes[0].read_bytes())


def swapped_chunks(world: World) -> None:
    """Each chunk has the bytes of another one."""
    chunks = [path for path in (world.repository / "chunks").rglob("*") if path.is_file()]
    contents = [path.read_bytes() for path in chunks]
    for path, data in zip(chunks, contents[1:] + contents[:1], strict=True):
        path.write_bytes(data)


# Rollback, freeze, fast-forward.


def rollback(*roles: str) -> Callable[[World], None]:
    """Older, correctly signed metadata after the device has seen newer: all, or some roles."""

    def begin(world: World) -> None:
        old = world.publisher.copy("old")
        world.release("3.0")
        world.device.check()
        if not roles:
            world.serve(old)
        for role in roles:
            shutil.copy(newest(old, role), newest(world.repository, role))

    return begin


def rollback_without_cache(world: World) -> None:
    """The same against a device whose cache of metadata was deleted."""
    rollback()(world)
    for path in (world.device.store.root / "tuf").iterdir():
        if path.name != "seen.json":
            path.unlink()


def freeze(world: World) -> None:
    """The same repository for ever: refused when its timestamp has expired."""
    world.device.clock += timedelta(days=60).total_seconds()


def freeze_with_clock_back(world: World) -> None:
    """The same, and the device's clock is at 1970 after it has known better."""
    old = world.publisher.copy("old")
    world.publisher.now += timedelta(days=60)
    world.publisher.refresh()
    world.keep()
    world.device.clock += timedelta(days=60).total_seconds()
    world.device.check()
    world.device.clock = 0.0
    world.serve(old)


def clock_at_2106(world: World) -> None:
    """The device believes that it is 2106, one second after 32 bits."""
    world.device.clock = float(2**32)


def fast_forward(world: World) -> None:
    """Stolen online keys sign the highest version there is; the device then meets the truth."""
    path = newest(world.repository, "timestamp")
    stolen = Metadata.from_bytes(path.read_bytes())
    stolen.signed.version = 2**31 - 1
    metadata.sign(stolen, world.publisher.keys.signers("timestamp"))
    evil = world.publisher.copy("evil")
    (evil / "metadata" / TIMESTAMP).write_bytes(stolen.to_bytes())
    world.device.check(source=str(evil))
    world.recover = lambda: world.publisher.refresh(rotate=True, keys=MemoryKeyring())


# Mix-and-match.


def mix(*roles: str) -> Callable[[World], None]:
    """Roles of an older moment under newer ones, in the files of the newer."""

    def begin(world: World) -> None:
        old = world.publisher.copy("old")
        world.release("3.0")
        for role in roles:
            shutil.copy(newest(old, role), newest(world.repository, role))

    return begin


def mix_of_parts(world: World) -> None:
    """Root image of one version and boot artifact of another, signed by a careless publisher."""
    other = world.publisher.build("4.0")
    image = world.publisher.build("3.0")
    document = json.loads((image.directory / "index.json").read_bytes())
    theirs = json.loads((other.directory / "index.json").read_bytes())
    document["root"]["stream"] = theirs["root"]["stream"]
    (image.directory / "index.json").write_text(json.dumps(document))
    shutil.copytree(other.directory / "chunks", image.directory / "chunks", dirs_exist_ok=True)
    world.publisher.publish(image)
    world.keep()


# Key compromise below the threshold.


def stolen(*roles: str) -> Callable[[World], None]:
    """Who has stolen the keys of these roles offers an image of their own, as far as they go."""

    def begin(world: World) -> None:
        thief = world.publisher.copy("thief")
        theirs = MemoryKeyring()
        current = metadata.load(thief)
        image = world.publisher.build("6.6")
        index = (image.directory / "index.json").read_bytes()
        role = current.os
        add_target(thief, role.signed.targets, "os/gateway/testboard/6.6/index.json", index)
        role.signed.version += 1

        def keys(name: str) -> Any:
            return (world.publisher.keys if name in roles else theirs).signers(name)

        metadata.sign(role, keys("os"))
        metadata.save_numbered(thief, "os", role)
        metadata.commit(
            thief,
            current,
            periods=metadata.load_config(thief),
            now=world.publisher.now,
            snapshot_signers=keys("snapshot"),
            timestamp_signers=keys("timestamp"),
        )
        world.serve(thief)
        if {"timestamp", "snapshot"} <= set(roles):
            # The thief's versions were seen; new keys end that (TUF specification, 5.3.11).
            world.recover = lambda: world.publisher.refresh(rotate=True, keys=MemoryKeyring())

    return begin


# Wrong software.


def another_board(world: World) -> None:
    """The signed releases of another board in the place of ours."""
    image = world.publisher.build("9.0", board="other")
    world.publisher.publish(image)
    world.keep()
    (theirs,) = (world.repository / "targets/os/gateway/other").glob("*.releases.json")
    for path in (world.repository / "targets/os/gateway/testboard").glob("*.releases.json"):
        path.write_bytes(theirs.read_bytes())


def index_of_another_board(world: World) -> None:
    """A publisher signs the index of another board's image in the place of ours."""
    world.release("3.0")
    (path,) = (world.repository / "targets/os/gateway/testboard/3.0").glob("*.index.json")
    document = {**json.loads(path.read_bytes()), "board": "other"}
    sign_target(
        world.publisher, "os/gateway/testboard/3.0/index.json", json.dumps(document).encode()
    )
    world.keep()


def signed_wrongly(change: Callable[[dict[str, Any]], object]) -> Callable[[World], None]:
    """A publisher signs an index that makes no sense."""

    def begin(world: World) -> None:
        image = world.publisher.build("3.0")
        path = image.directory / "index.json"
        document = json.loads(path.read_bytes())
        change(document)
        path.write_text(json.dumps(document))
        world.publisher.publish(image)
        world.keep()

    return begin


# Names.


def stick(make: Callable[[Path], object], name: str = TIMESTAMP) -> Callable[[World], None]:
    """A stick on which a file of the repository is something else."""

    def begin(world: World) -> None:
        world.device.source = str(world.repository)
        path = world.repository / "metadata" / name
        path.unlink()
        make(path)

    return begin


def publisher_name(name: str) -> Callable[[World], None]:
    """A signed snapshot names a role like a path or a record of the device."""

    def begin(world: World) -> None:
        current = metadata.load(world.repository)
        current.snapshot.signed.meta[f"{name}.json"] = current.snapshot.signed.meta["os.json"]
        del current.snapshot.signed.meta["os.json"]
        current.snapshot.signed.version += 1
        _commit(world, current)
        world.recover = lambda: world.publisher.refresh(rotate=True, keys=MemoryKeyring())

    return begin


def _commit(world: World, current: metadata.MetadataSet) -> None:
    snapshot = current.snapshot
    metadata.sign(snapshot, world.publisher.keys.signers("snapshot"))
    data = snapshot.to_bytes()
    version = snapshot.signed.version
    (world.repository / f"metadata/{version}.snapshot.json").write_bytes(data)
    path = newest(world.repository, "timestamp")
    told: Metadata[Timestamp] = Metadata.from_bytes(path.read_bytes())
    told.signed.version += 1
    told.signed.snapshot_meta = MetaFile(version)
    metadata.sign(told, world.publisher.keys.signers("timestamp"))
    path.write_bytes(told.to_bytes())


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))
