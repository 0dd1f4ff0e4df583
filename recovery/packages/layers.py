"""State layers: what a package's services keep, one copy for each generation that changed it.

    /state/orbital/layers/NAME/N/
      state/SERVICE/     the service's state directory, owned by its user
      config.json        {"format": 1, "slices": {SLICE: values}}: what differs from the defaults
      configured         the package's configure program has run
      schema             schema version that the state is in, as decimal digits
      migrating          a migration has begun and not ended: the layer is made again
    /state/orbital/layers/NAME/N.new/    a copy that was cut; made again

A change copies the layer of the parent generation and works on the copy, so
that going back needs nothing but the old one.
"""

from __future__ import annotations

import json
import os
import stat

from recovery import codec, durable, reading
from recovery.errors import RefusedError, StateError
from recovery.layer import copy_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from recovery.generations import Generation, PackageEntry
    from recovery.packages.model import Package
    from recovery.packages.paths import Paths

FORMAT = 1
_CONFIG = "config.json"
_CONFIGURED = "configured"
_SCHEMA = "schema"
_MIGRATING = "migrating"


def prepare(paths: Paths, entry: PackageEntry, package: Package, parent: Generation | None) -> Path:
    """The state layer of the entry; made if it does not exist, from the parent generation's.

    Whole or not at all: everything is synced before the rename. Services
    whose user id differs from the files' owner get them.
    """
    layer = paths.layer(entry.name, entry.state)
    if (layer / _MIGRATING).exists():
        # A power cut in the middle of a migration. The state it began with is the parent's.
        layer.rename(_fresh(layer))
    if not layer.is_dir():
        _make(paths, layer, entry, package, parent)
    for index, service in enumerate(package.services):
        if service.state:
            _own(layer / "state" / service.name, entry.uid + index)
    return layer


def mark_configured(paths: Paths, entry: PackageEntry) -> None:
    """Notes that the package's configure program has run: its services may start."""
    durable.replace_file(paths.layer(entry.name, entry.state) / _CONFIGURED, b"")


def configured_marker(layer: Path) -> Path:
    """The file that says so."""
    return layer / _CONFIGURED


def is_configured(layer: Path) -> bool:
    """Whether the configure program has run."""
    return configured_marker(layer).exists()


def schema(layer: Path) -> int:
    """Schema version that the layer's state is in. Raises StateError."""
    path = layer / _SCHEMA
    try:
        return int(reading.read_record(path, 64))
    except (OSError, ValueError) as error:
        raise StateError(f"cannot read {path}: {error}") from error


def must_migrate(layer: Path, package: Package) -> bool:
    """Whether the state is of another schema version than the programs. Raises StateError."""
    keeps = any(service.state for service in package.services)
    return keeps and schema(layer) != package.state_version


def begin_migration(layer: Path) -> None:
    """From here until `end_migration` the state is in no schema."""
    durable.replace_file(layer / _MIGRATING, b"")


def end_migration(layer: Path, version: int) -> None:
    """The state is in that schema version.

    Synced first: the programs that migrated need not have. Cut between the two
    writes: the layer is made and migrated again.
    """
    durable.sync_filesystem(layer)
    durable.replace_file(layer / _SCHEMA, b"%d\n" % version)
    durable.remove_file(layer / _MIGRATING)


def read_config(layer: Path) -> dict[str, dict[str, Any]]:
    """The values by slice that were set on this device. Raises StateError."""
    path = layer / _CONFIG
    try:
        document = codec.parse_object(reading.read_record(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StateError(f"cannot read {path}: {error}") from error
    slices = document.get("slices")
    if document.get("format") != FORMAT or not isinstance(slices, dict):
        raise StateError(f"cannot read {path}: format is not {FORMAT}")
    return {name: values for name, values in slices.items() if isinstance(values, dict)}


def write_config(layer: Path, package: Package, name: str, values: Mapping[str, Any]) -> None:
    """Sets the values of one slice, durably; they replace those set before.

    Raises RefusedError when the package has no such slice or the schema does
    not allow the values; then nothing is changed.
    """
    merged(package, name, values)
    config = read_config(layer)
    config[name] = dict(values)
    document = {"format": FORMAT, "slices": config}
    data = json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"
    durable.replace_file(layer / _CONFIG, data.encode())


def merged(package: Package, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The slice's defaults with the values over them. Raises RefusedError as `write_config`."""
    from recovery.packages import slices

    wanted = next((item for item in package.slices if item.name == name), None)
    if wanted is None:
        known = ", ".join(item.name for item in package.slices)
        raise RefusedError(
            f"cannot configure {name!r} of package {package.name}: there is no such slice",
            resolution=f"its slices: {known}" if known else "it has nothing to configure",
        )
    whole = slices.merge(json.loads(wanted.defaults), values)
    problems = slices.problems(json.loads(wanted.schema), whole)
    if problems:
        raise RefusedError(
            f"cannot configure {name} of package {package.name}: {problems[0]}",
            details="; ".join(problems[1:]),
        )
    return whole


def rendered(layer: Path, package: Package) -> tuple[dict[str, str], list[str]]:
    """Text of SLICE.json for each slice of the package, and what is wrong with set values.

    Values that the schema (of a newer version, say) does not allow are left
    out: the defaults hold, and it is told.
    """
    if not package.slices:
        return {}, []
    problems: list[str] = []
    try:
        config = read_config(layer)
    except StateError as error:
        config, problems = {}, [error.brief]
    texts: dict[str, str] = {}
    for item in package.slices:
        try:
            values = merged(package, item.name, config.get(item.name, {}))
        except RefusedError as error:
            problems.append(error.brief)
            values = json.loads(item.defaults)
        texts[item.name] = json.dumps(values, indent=1, sort_keys=True) + "\n"
    return texts, problems


def _fresh(layer: Path) -> Path:
    return layer.with_name(f"{layer.name}.new")


def _make(
    paths: Paths, layer: Path, entry: PackageEntry, package: Package, parent: Generation | None
) -> None:
    durable.make_directory(layer.parent)
    fresh = _fresh(layer)
    if fresh.exists():
        import shutil

        shutil.rmtree(fresh)
    before = parent.package(entry.name) if parent is not None else None
    origin = paths.layer(entry.name, before.state) if before is not None else None
    if origin is not None and origin.is_dir():
        copy_tree(origin, fresh)
        durable.sync_filesystem(fresh)
    else:
        # Nothing to lose in an empty one: the rename makes it durable.
        (fresh / "state").mkdir(parents=True, mode=0o755)
        durable.replace_file(fresh / _SCHEMA, b"%d\n" % package.state_version)
    # Cut before this: no layer; it is made again. After: the layer is whole.
    durable.rename(fresh, layer)


def _own(directory: Path, uid: int) -> None:
    """Makes the directory, or gives it with all that is in it to the user."""
    try:
        info = directory.lstat()
    except FileNotFoundError:
        directory.mkdir(mode=0o700, parents=True)
        os.chown(directory, uid, uid)
        return
    if not stat.S_ISDIR(info.st_mode):
        raise StateError(f"cannot use {directory}: it is not a directory")
    if info.st_uid == uid and info.st_gid == uid:
        return
    # The top last: after a power cut it still has the old owner, and all is done again.
    for parent, folders, files in os.walk(directory, topdown=False):
        for name in (*files, *folders):
            os.chown(os.path.join(parent, name), uid, uid, follow_symlinks=False)  # noqa: PTH118
    os.chown(directory, uid, uid, follow_symlinks=False)
