"""Values of a package's configuration: shown, and changed in a transaction.

A change makes a new state layer, so a configuration with which the services
fail their checks is taken back like a bad version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from recovery.errors import RefusedError
from recovery.generations import Generation, PackageEntry
from recovery.packages import layers
from recovery.packages.model import Package, Slice
from recovery.packages.paths import Paths
from recovery.reporter import Reporter
from recovery.state import StateRecord
from recovery.value import replace
from updater.packages.device import PackageDevice
from updater.packages.transaction import Asked, Outcome, Wanted, change

Values = dict[str, dict[str, Any]]
"""Of each slice, what was set on this device."""


def present(device: PackageDevice, name: str) -> tuple[Package, Values, Values]:
    """The manifest, the values that count, and those of them that were set here."""
    entry, manifest = installed(device, device.committed(device.store.load()), name)
    own = layers.read_config(Paths(device.root).layer(entry.name, entry.state))
    merged = {
        item.name: layers.merged(manifest, item.name, own.get(item.name, {}))
        for item in manifest.slices
    }
    return manifest, merged, own


def configure(
    device: PackageDevice,
    name: str,
    assign: Sequence[str],
    unset: Sequence[str],
    *,
    who: str,
    reporter: Reporter,
) -> Outcome:
    """Sets SLICE.KEY=VALUE and gives SLICE.KEY back to its default.

    Raises RefusedError when the schema does not allow it, PackageError when
    the services fail with it; nothing is changed then.
    """

    def plan(old: Generation, _record: StateRecord, number: int) -> Wanted:
        entry, manifest = installed(device, old, name)
        paths = Paths(device.root)
        before = layers.read_config(paths.layer(entry.name, entry.state))
        after = changed(manifest, before, assign, unset)
        if after == before:
            return Wanted(old.packages)
        made = replace(entry, state=number)

        def prepare(_new: Generation) -> None:
            # The services have stopped. Cut from here on: a layer that nobody names.
            layer = layers.prepare(paths, made, manifest, old)
            for slice_name, values in after.items():
                layers.write_config(layer, manifest, slice_name, values)

        others = (made if item is entry else item for item in old.packages)
        return Wanted(tuple(others), prepare=prepare)

    return change(device, plan, Asked(f"configure {name}", who), reporter)


def changed(
    manifest: Package, before: Mapping[str, Mapping[str, Any]], assign: Sequence[str],
    unset: Sequence[str],
) -> Values:  # fmt: skip
    """The values after the assignments, checked by the schema. Pure. Raises RefusedError."""
    after: Values = json.loads(json.dumps(before))
    for text in assign:
        path, sign, value = text.partition("=")
        if not sign:
            raise RefusedError(f"cannot understand {text!r}", resolution="write SLICE.KEY=VALUE")
        item, keys = _place(manifest, path)
        _parent(after.setdefault(item.name, {}), keys)[keys[-1]] = _value(item, keys, value)
    for path in unset:
        item, keys = _place(manifest, path)
        _parent(after.setdefault(item.name, {}), keys).pop(keys[-1], None)
    for slice_name, values in after.items():
        layers.merged(manifest, slice_name, values)
    return {slice_name: values for slice_name, values in after.items() if values or before}


def installed(
    device: PackageDevice, generation: Generation, name: str
) -> tuple[PackageEntry, Package]:
    """The entry and manifest of an installed package. Raises RefusedError, TrustError."""
    entry = generation.package(name)
    if entry is None:
        raise RefusedError(
            f"cannot use package {name}: it is not installed",
            resolution=f"install it: 'orbital package install {name}'",
        )
    return entry, device.host.manifest(entry.digest)


def _place(manifest: Package, path: str) -> tuple[Slice, list[str]]:
    name, *keys = path.split(".")
    item = next((item for item in manifest.slices if item.name == name), None)
    known = ", ".join(item.name for item in manifest.slices)
    if item is None or not all(keys) or not keys:
        raise RefusedError(
            f"cannot configure {path!r} of package {manifest.name}",
            details="" if item else f"it has no slice {name!r}",
            resolution=f"write SLICE.KEY; its slices: {known}"
            if known
            else "it has nothing to configure",
        )
    return item, keys


def _parent(values: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            inner = values[key] = {}
        values = inner
    return values


def _value(item: Slice, keys: Sequence[str], text: str) -> Any:
    """The text as what the schema wants at that place; what is not known is judged later."""
    schema: Any = json.loads(item.schema)
    for key in keys:
        schema = schema.get("properties", {}).get(key, {}) if isinstance(schema, dict) else {}
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        # The schema then says what it should have been.
        return text
