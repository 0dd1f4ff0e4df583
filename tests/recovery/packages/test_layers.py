"""State layers on a real file system: copied whole, owned by their user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recovery.errors import RefusedError
from recovery.packages import layers
from recovery.packages.model import Slice
from recovery.packages.paths import Paths
from recovery.packages.sandbox import Sandbox
from recovery.packages.units import ServicePlan, texts
from recovery.value import replace
from tests.recovery.packages.builders import entry, package, service, with_packages
from tests.recovery.powercut import PowerCut, power_cut

STATEFUL = package("vpn", service(state=True), service("other"))
BOX = Sandbox("vpn", 50000, "/run/view", "/run/config")
SCHEMA = {"type": "object", "properties": {"port": {"type": "integer", "minimum": 1}}}
CONFIGURABLE = package(
    "vpn", service(), slices=(Slice("main", json.dumps(SCHEMA), json.dumps({"port": 5})),)
)


def written(paths: Paths, number: int, text: str) -> Path:
    """A layer whose service has written something."""
    layer = layers.prepare(paths, entry(state=number), STATEFUL, None)
    (layer / "state/main/keys").mkdir()
    (layer / "state/main/keys/private").write_text(text)
    return layer


def test_a_first_layer_is_empty_and_the_services_own(tmp_path: Path) -> None:
    layer = layers.prepare(Paths(tmp_path), entry(), STATEFUL, None)
    assert [path.name for path in (layer / "state").iterdir()] == ["main"]
    info = (layer / "state/main").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o777) == (50000, 50000, 0o700)


def test_a_change_works_on_a_copy_of_the_parents_state(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    old = written(paths, 2, "old")
    new = layers.prepare(paths, entry(state=3), STATEFUL, with_packages(2, entry(state=2)))
    (new / "state/main/keys/private").write_text("new")
    assert (old / "state/main/keys/private").read_text() == "old"
    again = layers.prepare(paths, entry(state=3), STATEFUL, with_packages(2, entry(state=2)))
    assert (again / "state/main/keys/private").read_text() == "new"


def test_another_user_id_gets_everything(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    layer = written(paths, 2, "x")
    layers.prepare(paths, entry(uid=50160), STATEFUL, None)
    for path in (layer / "state/main", *(layer / "state/main").rglob("*")):
        assert path.lstat().st_uid == 50160, path


def test_a_cut_copy_is_made_again_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = with_packages(2, entry(state=2))
    cuts = 0
    for cut in range(20):
        paths = Paths(tmp_path / str(cut))
        written(paths, 2, "kept")
        with power_cut(monkeypatch, cut) as operations:
            try:
                layers.prepare(paths, entry(state=3), STATEFUL, parent)
            except PowerCut:
                cuts += 1
                # Nothing under the layer's name, or all of it.
                assert not paths.layer("vpn", 3).exists()
        layer = layers.prepare(paths, entry(state=3), STATEFUL, parent)
        assert (layer / "state/main/keys/private").read_text() == "kept"
        if not operations.happened:
            break
    assert cuts >= 1


def test_configuration_is_checked_kept_and_rendered_over_the_defaults(tmp_path: Path) -> None:
    layer = layers.prepare(Paths(tmp_path), entry(), CONFIGURABLE, None)
    assert json.loads(layers.rendered(layer, CONFIGURABLE)[0]["main"]) == {"port": 5}
    layers.write_config(layer, CONFIGURABLE, "main", {"port": 8})
    assert json.loads(layers.rendered(layer, CONFIGURABLE)[0]["main"]) == {"port": 8}
    for name, values in (("main", {"port": 0}), ("main", {"x": 1}), ("none", {})):
        with pytest.raises(RefusedError):
            layers.write_config(layer, CONFIGURABLE, name, values)
    assert layers.read_config(layer) == {"main": {"port": 8}}


def test_values_that_a_newer_schema_refuses_give_way_to_defaults(tmp_path: Path) -> None:
    layer = layers.prepare(Paths(tmp_path), entry(), CONFIGURABLE, None)
    layers.write_config(layer, CONFIGURABLE, "main", {"port": 8})
    text = {"type": "object", "properties": {"port": {"type": "string"}}}
    newer = package(
        "vpn", service(), slices=(Slice("main", json.dumps(text), json.dumps({"port": "http"})),)
    )
    texts, problems = layers.rendered(layer, newer)
    assert json.loads(texts["main"]) == {"port": "http"}
    assert len(problems) == 1


def test_a_damaged_configuration_is_told_and_not_used(tmp_path: Path) -> None:
    layer = layers.prepare(Paths(tmp_path), entry(), CONFIGURABLE, None)
    (layer / "config.json").write_text("{")
    texts, problems = layers.rendered(layer, CONFIGURABLE)
    assert json.loads(texts["main"]) == {"port": 5}
    assert "config.json" in problems[0]


def test_configured_is_kept_with_the_state(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    written(paths, 2, "x")
    layers.mark_configured(paths, entry(state=2))
    copy = layers.prepare(paths, entry(state=3), STATEFUL, with_packages(2, entry(state=2)))
    assert layers.is_configured(copy)


def test_a_migration_that_was_cut_begins_again_with_the_parents_state(tmp_path: Path) -> None:
    paths, parent = Paths(tmp_path), with_packages(2, entry(state=2))
    written(paths, 2, "schema 1")
    newer = replace(STATEFUL, version="2.0", state_version=2)
    layer = layers.prepare(paths, entry(state=3), newer, parent)
    assert layers.must_migrate(layer, newer)
    assert not layers.must_migrate(layer, STATEFUL)
    layers.begin_migration(layer)
    (layer / "state/main/keys/private").write_text("half")
    # The next boot.
    layer = layers.prepare(paths, entry(state=3), newer, parent)
    assert (layer / "state/main/keys/private").read_text() == "schema 1"
    layers.begin_migration(layer)
    (layer / "state/main/keys/private").write_text("schema 2")
    layers.end_migration(layer, 2)
    layer = layers.prepare(paths, entry(state=3), newer, parent)
    assert (layer / "state/main/keys/private").read_text() == "schema 2"
    assert not layers.must_migrate(layer, newer)


def test_services_of_a_package_whose_state_is_old_wait_for_its_migration() -> None:
    plan = ServicePlan("vpn", "2.0", service("main", state=True), BOX, migrate=True)
    found = texts(plan)
    assert "Requires=orbital.vpn.state.migrate.service" in found[plan.unit]
    migrate = found["orbital.vpn.state.migrate.service"]
    assert "ExecStart=/usr/lib/orbital/recover migrate vpn\n" in migrate
    assert "migrate" not in "".join(texts(replace(plan, migrate=False)).values())
