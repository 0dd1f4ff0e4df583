"""Feature packages, libraries and suites: each mistake with its place and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manifests.catalogue import load_package, load_system_package
from manifests.feature import FeaturePackage
from manifests.package_convert import device_manifest
from recovery.errors import ManifestError
from recovery.packages import model

FEATURE = """\
package: vpn
version: "1.4"
type: feature
summary: A tunnel
publisher: acme
systems: [{system: gateway, versions: ">=1.0, <3"}]
depends:
  - package: crypto
    versions: ">=1"
  - package: names
services:
  - name: tunnel
    kind: bus
    command: [/usr/bin/tunnel, --foreground]
    capabilities: [net.configure]
    state: true
    configure_first: true
    metrics: http://127.0.0.1:9000/metrics
    environment: {MODE: fast, LEVEL: "2"}
    health: {kind: bus, bus_name: org.acme.Tunnel}
    limits: {memory: 16MiB}
    restart: {when: always, limit: 5}
  - name: guard
    kind: oneshot
    command: [/usr/bin/guard]
    health: {kind: active, deadline_seconds: 7}
    after: [tunnel]
programs:
  - name: setup
    command: [/usr/bin/setup]
    state_of: tunnel
configure: setup
provides:
  - interface: org.acme.Tunnel1
    version: "1.2"
    bus_name: org.acme.Tunnel
    service: tunnel
    definition: tunnel.xml
requires:
  - interface: org.acme.Names1
    package: names
    versions: ">=1.1, <2"
configuration:
  - name: peers
    schema:
      type: object
      properties:
        port: {type: integer, maximum: 65535}
    defaults: {port: 51820}
associations:
  - {kind: protocol, match: wg, program: setup}
  - {kind: file, match: .wg, program: setup}
state_version: 3
migrations:
  - {service: tunnel, source: 1, target: 2, command: [/usr/bin/move, up]}
  - {service: tunnel, source: 2, target: 1, command: [/usr/bin/move, down]}
  - {service: tunnel, source: 2, target: 3, command: [/usr/bin/move, up]}
  - {service: tunnel, source: 3, target: 2, command: [/usr/bin/move, down]}
overlay: [usr/bin/vpn, usr/share/vpn]
"""
LIBRARY = """\
package: crypto
version: "1.0"
type: library
summary: A library
publisher: acme
content: {debian: [libcrypto]}
"""
SUITE = """\
package: all
version: "2.0"
type: suite
summary: Everything
publisher: acme
members:
  - package: vpn
    versions: ">=1.4"
  - package: hotspot
"""
DOCUMENTS = {"vpn": FEATURE, "crypto": LIBRARY, "all": SUITE}


def write(folder: Path, name: str, text: str) -> Path:
    """A package's folder with its manifest and interface definition; returns the manifest."""
    package = folder / name
    package.mkdir(parents=True)
    (package / "package.yaml").write_text(text, encoding="utf-8")
    (package / "tunnel.xml").write_text('<node><interface name="org.acme.Tunnel1"/></node>')
    return package / "package.yaml"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_good_package_of_every_type_is_read_and_comes_back_on_the_device(
    tmp_path: Path, name: str
) -> None:
    source = load_package(write(tmp_path, name, DOCUMENTS[name]))
    document = device_manifest(source, "amd64")
    assert (document.name, document.architecture, document.publisher) == (name, "amd64", "acme")
    assert model.decode(model.encode(document)) == document


def test_the_device_reads_all_that_a_feature_declares(tmp_path: Path) -> None:
    document = device_manifest(load_package(write(tmp_path, "vpn", FEATURE)), "all")
    assert (document.kind, document.version, document.configure) == ("feature", "1.4", "setup")
    assert document.depends == (
        model.Dependency("crypto", ">=1"), model.Dependency("names", "*"),
    )  # fmt: skip
    assert document.systems == (model.Fit("gateway", ">=1.0, <3"),)
    assert document.services[0] == model.Service(
        name="tunnel",
        kind="bus",
        command=("/usr/bin/tunnel", "--foreground"),
        check=model.Check("bus", bus_name="org.acme.Tunnel"),
        capabilities=("net.configure",),
        restart="always",
        restart_limit=5,
        state=True,
        memory_bytes=16 << 20,
        metrics="http://127.0.0.1:9000/metrics",
        configure_first=True,
        environment=(("LEVEL", "2"), ("MODE", "fast")),
    )
    assert document.services[1].check == model.Check("active", deadline_seconds=7)
    assert document.services[1].after == ("tunnel",)
    assert document.programs == (
        model.Program("setup", ("/usr/bin/setup",), state_of="tunnel"),
    )  # fmt: skip
    assert document.provides[0].definition == "usr/share/dbus-1/interfaces/org.acme.Tunnel1.xml"
    assert document.requires == (model.Required("org.acme.Names1", ">=1.1, <2", "names"),)
    assert json.loads(document.slices[0].schema)["properties"]["port"]["maximum"] == 65535
    assert json.loads(document.slices[0].defaults) == {"port": 51820}
    assert [(item.kind, item.match) for item in document.associations] == [
        ("protocol", "wg"), ("file", ".wg"),
    ]  # fmt: skip
    assert document.migrations[3] == model.Migration("tunnel", 3, 2, ("/usr/bin/move", "down"))
    assert (document.state_version, document.overlay) == (3, ("usr/bin/vpn", "usr/share/vpn"))


def test_members_of_a_suite_are_what_it_depends_on(tmp_path: Path) -> None:
    document = device_manifest(load_package(write(tmp_path, "all", SUITE)), "all")
    assert document.members == ("vpn", "hotspot")
    assert document.depends == (
        model.Dependency("vpn", ">=1.4"), model.Dependency("hotspot", "*"),
    )  # fmt: skip


def test_units_of_a_system_package_are_restarted_when_it_is_layered(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "clock",
        'package: clock\nversion: "1"\ntype: system\nsummary: Time\npublisher: acme\n'
        "enable: [clock.service]\n",
    )
    document = device_manifest(load_package(path), "amd64")
    assert (document.kind, document.publisher) == ("system", "acme")
    assert document.restart_units == ("clock.service",)
    assert load_system_package(path).hooks == ()


def test_a_feature_cannot_be_part_of_an_image(tmp_path: Path) -> None:
    path = write(tmp_path, "crypto", LIBRARY)
    with pytest.raises(ManifestError, match="cannot put the package crypto into an image") as error:
        load_system_package(path)
    assert "orbital package install" in error.value.resolution


def refused(tmp_path: Path, name: str, old: str, new: str) -> ManifestError:
    """The error of a good document with one place changed."""
    text = DOCUMENTS[name]
    assert old in text
    path = write(tmp_path, name, text.replace(old, new, 1))
    with pytest.raises(ManifestError) as caught:
        load_package(path)
    assert caught.value.exit_code == 3
    return caught.value


CAPABILITY = "capabilities: [net.configure]\n"


@pytest.mark.parametrize(
    ("old", "new", "brief"),
    [
        pytest.param("name: guard", "name: tunnel",
                     'services[1].name: expected each service once, got "tunnel" again',
                     id="two-services-of-one-name"),
        pytest.param("depends:\n", "depends:\n  - package: names\n",
                     'depends[2].package: expected each package once, got "names" again',
                     id="one-dependency-twice"),
        pytest.param("package: crypto", "package: vpn",
                     'depends[0].package: expected another package, got "vpn" itself',
                     id="depends-on-itself"),
        pytest.param('">=1"', '"^1"',
                     'depends[0].versions: expected version constraints such as ">=1.2, <2", '
                     '"=1.4" or "*", got "^1"',
                     id="constraint-of-another-language"),
        pytest.param('">=1.0, <3"', '">=1.0 <3"', "systems[0].versions: expected version",
                     id="system-constraint"),
        pytest.param('">=1.1, <2"', '"1.1"', "requires[0].versions: expected version constraints",
                     id="interface-constraint"),
        pytest.param("package: names\n    versions", "package: nams\n    versions",
                     'requires[0].package: expected one of depends, got "nams"',
                     id="interface-of-no-dependency"),
        pytest.param("org.acme.Names1", "org.acme.Tunnel1",
                     "requires[0].interface: expected an interface of another package",
                     id="interface-of-its-own"),
        pytest.param("[/usr/bin/guard]", "[guard]",
                     "services[1].command[0]: expected the full path of a program below /usr, "
                     'got "guard"', id="command-without-path"),
        pytest.param("[/usr/bin/guard]", "[/usr/../bin/guard]", "services[1].command[0]: expected",
                     id="command-that-leaves-usr"),
        pytest.param("[/usr/bin/guard]", '[/usr/bin/guard, "a\\nb"]',
                     "services[1].command[1]: expected a program argument in one line",
                     id="line-break-in-an-argument"),
        pytest.param("kind: active, ", "kind: exec, command: [/bin/sh], ",
                     "services[1].health.command[0]: expected the full path of a program below",
                     id="health-program-outside-usr"),
        pytest.param("[/usr/bin/setup]", "[setup]", "programs[0].command[0]: expected the full",
                     id="program-without-path"),
        pytest.param("net.configure", "net.configur",
                     "services[0].capabilities[0]: expected a capability of "
                     'manifests/capabilities.yaml, got "net.configur"', id="unknown-capability"),
        pytest.param(CAPABILITY, "capabilities: [user.read]\n",
                     "services[0].metrics: expected a service that sees the device's network",
                     id="metrics-nobody-can-fetch"),
        pytest.param("kind: active, ", "kind: tcp, port: 80, ",
                     "services[1].health.kind: expected a service that sees the device's network",
                     id="port-nobody-can-reach"),
        pytest.param("kind: active, ", "kind: http, url: 'http://localhost/', ",
                     "services[1].health.kind: expected a service that sees the device's network",
                     id="address-nobody-can-reach"),
        pytest.param("bus_name: org.acme.Tunnel}", "bus_name: org.acme.Tunel}",
                     "services[0].health.bus_name: expected a bus name that provides gives this "
                     'service, got "org.acme.Tunel"', id="bus-name-of-nobody"),
        pytest.param("kind: oneshot", "kind: bus",
                     "services[1].kind: expected an interface in provides for a service of kind "
                     "bus, got none", id="bus-service-without-name"),
        pytest.param("kind: oneshot", "kind: simple",
                     "services[1].health.kind: expected exec, http, tcp or bus for a service of "
                     'kind simple, got "active"', id="active-says-nothing-of-a-simple-service"),
        pytest.param("kind: oneshot", "kind: oneshot\n    restart: {when: always}",
                     "services[1].restart.when: expected on-failure or no", id="oneshot-for-ever"),
        pytest.param("kind: oneshot", "kind: oneshot\n    watchdog_seconds: 3",
                     "services[1].watchdog_seconds: expected 0", id="oneshot-with-watchdog"),
        pytest.param("MODE: fast", "MO-DE: fast",
                     "services[0].environment.MO-DE: expected the name of a variable",
                     id="variable-name"),
        pytest.param("MODE: fast", 'MODE: "fast\\nUser=root"',
                     "services[0].environment.MODE: expected text in one line",
                     id="variable-that-would-continue-the-unit"),
        pytest.param("after: [tunnel]", "after: [tunel]",
                     'services[1].after[0]: expected one of the services, got "tunel"',
                     id="after-nobody"),
        pytest.param("    configure_first", "    after: [guard]\n    configure_first",
                     "services[0].after: expected services that do not wait for each other in a "
                     "circle, got tunnel after guard after tunnel", id="circle"),
        pytest.param("after: [tunnel]", "after: [guard]",
                     "services[1].after: expected services that do not wait for each other in a "
                     "circle, got guard after guard", id="after-itself"),
        pytest.param("state_of: tunnel", "state_of: tunel",
                     'programs[0].state_of: expected one of the services, got "tunel"',
                     id="state-of-nobody"),
        pytest.param("    state_of: tunnel\n", "",
                     "programs[0].state_of: expected one of the services, for a program that may "
                     "call others over the bus (requires), got none",
                     id="caller-without-a-user"),
        pytest.param("    state_of: tunnel\n", "    capabilities: [system.observe]\n",
                     'programs[0].state_of: expected one of the services, for a program that may '
                     'call others over the bus ("system.observe"), got none',
                     id="caller-by-capability-without-a-user"),
        pytest.param("    state_of: tunnel\n",
                     "    state_of: tunnel\n    capabilities: [net.observe, system.observe]\n",
                     "programs[0].capabilities[1]: expected for calls over the bus, a capability "
                     'of the service tunnel, got "system.observe"',
                     id="program-that-calls-more-than-its-service"),
        pytest.param("configure: setup", "configure: setp",
                     'configure: expected one of the programs, got "setp"', id="configure-nothing"),
        pytest.param("configure: setup\n", "",
                     "services[0].configure_first: expected a program that configures the package",
                     id="configure-first-without-configure"),
        pytest.param("service: tunnel\n    definition", "service: tunne\n    definition",
                     'provides[0].service: expected one of the services, got "tunne"',
                     id="interface-of-no-service"),
        pytest.param("definition: tunnel.xml", "definition: tunel.xml",
                     "provides[0].definition: expected a file", id="no-definition"),
        pytest.param("interface: org.acme.Tunnel1", "interface: org.acme.Tunnel2",
                     'provides[0].definition: expected the interface "org.acme.Tunnel2" in',
                     id="definition-of-another-interface"),
        pytest.param("requires:", "  - {interface: org.acme.T2, version: '1.0', service: guard, "
                     "bus_name: org.acme.Tunnel, definition: tunnel.xml}\nrequires:",
                     "provides[1].bus_name: expected a bus name that no other service owns, got "
                     '"org.acme.Tunnel", which tunnel owns', id="two-owners-of-a-bus-name"),
        pytest.param("type: integer, ", "type: int, ",
                     "configuration[0].schema.properties.port.type: expected object or array or",
                     id="schema-type"),
        pytest.param("maximum", "exclusiveMaximum",
                     "configuration[0].schema.properties.port.exclusiveMaximum: expected a keyword",
                     id="schema-keyword"),
        pytest.param("{port: 51820}", "{port: 99999}",
                     "configuration[0].defaults.port: expected at most 65535, got 99999",
                     id="defaults-that-do-not-fit"),
        pytest.param("match: .wg", "match: wg",
                     'associations[1].match: expected a suffix such as ".conf", got "wg"',
                     id="suffix-without-dot"),
        pytest.param("match: .wg, program: setup", "match: .wg, program: stup",
                     'associations[1].program: expected one of the programs, got "stup"',
                     id="association-with-no-program"),
        pytest.param("kind: file, match: .wg", "kind: protocol, match: wg",
                     "associations[1].match: expected each association once",
                     id="twice-one-scheme"),
        pytest.param("{service: tunnel, source: 1", "{service: guard, source: 1",
                     "migrations[0].service: expected one of the services with state: true",
                     id="migration-of-no-state"),
        pytest.param("source: 3, target: 2", "source: 3, target: 1",
                     "migrations[2]: expected the way back too, from 3 to 2",
                     id="step-of-two"),
        pytest.param("state_version: 3", "state_version: 4",
                     "state_version: expected a migration from 3 to 4, got none", id="gap-at-end"),
        pytest.param("state_version: 3", "state_version: 2",
                     "migrations[2].target: expected neighbouring schema versions from 1 to 2, "
                     "state_version, got 2 to 3", id="beyond-the-version"),
        pytest.param("  - {service: tunnel, source: 2, target: 1, "
                     "command: [/usr/bin/move, down]}\n", "",
                     "migrations[0]: expected the way back too, from 2 to 1",
                     id="no-way-back"),
        pytest.param("command: [/usr/bin/move, down]}", "command: [move]}",
                     "migrations[1].command[0]: expected the full path", id="migration-program"),
        pytest.param("usr/bin/vpn", "usr/lib/systemd/system/vpn.service",
                     "overlay[0]: expected a command", id="overlay-with-a-unit"),
        pytest.param("usr/bin/vpn", "usr/bin/../lib/systemd", "overlay[0]: expected a command",
                     id="overlay-that-climbs"),
        pytest.param("usr/bin/vpn", "usr/lib/x86_64-linux-gnu/libnss_x.so.2",
                     "overlay[0]: expected a command", id="overlay-with-a-name-service"),
        pytest.param("usr/bin/vpn", "etc/vpn", "overlay[0]: expected a path below usr/",
                     id="overlay-outside-usr"),
        pytest.param("publisher: acme\n", "publisher: acme\ncontent: {tars: [x.tar]}\n",
                     "content.tars[0]: expected a file", id="content-that-is-not-there"),
        pytest.param("summary: A tunnel", "summary: A tunnel\nservice: []",
                     "service: expected a known key, got an unknown one", id="misspelt-key"),
        pytest.param("memory: 16MiB", "memory: 16",
                     'services[0].limits.memory: expected a size such as "512MiB", got the number',
                     id="size-without-unit"),
        pytest.param("LEVEL: \"2\"", "LEVEL: 2",
                     "services[0].environment.LEVEL: expected text, got the number 2",
                     id="number-as-variable"),
        pytest.param("schema:\n      type: object\n      properties:\n        port: {type: "
                     "integer, maximum: 65535}", "schema: []",
                     "configuration[0].schema: expected a mapping, got a list", id="no-schema"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_feature_is_named_with_its_place(
    tmp_path: Path, old: str, new: str, brief: str
) -> None:
    error = refused(tmp_path, "vpn", old, new)
    sentences = [error.brief, *error.details.splitlines()]
    assert any(brief in sentence for sentence in sentences), str(error)


def test_the_line_of_a_mistake_deep_in_a_schema_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path, "vpn", "maximum: 65535", "maximum: none")
    line = FEATURE[: FEATURE.index("maximum: 65535")].count("\n") + 1
    assert f"package.yaml:{line}: configuration[0].schema.properties.port.maximum" in error.brief


def test_a_typo_in_a_capability_is_answered_with_the_right_one(tmp_path: Path) -> None:
    error = refused(tmp_path, "vpn", "net.configure", "net.configur")
    assert error.resolution.startswith('did you mean "net.configure"? known: net.client, ')


def test_more_services_than_user_ids_are_refused(tmp_path: Path) -> None:
    services = "".join(
        f"  - {{name: s{n}, kind: oneshot, command: [/usr/bin/s], health: {{kind: active}}}}\n"
        for n in range(15)
    )
    error = refused(tmp_path, "vpn", "programs:\n", f"{services}programs:\n")
    assert "services: expected at most 16 items, got 17" in error.brief


@pytest.mark.parametrize(
    ("name", "old", "new", "brief"),
    [
        ("all", "package: hotspot", "package: vpn", 'members[1].package: expected each package'),
        ("all", "package: hotspot", "package: all", 'members[1].package: expected another'),
        ("all", '">=1.4"', '"~1.4"', "members[0].versions: expected version constraints"),
        ("all", "members:\n  - package: vpn\n    versions: \">=1.4\"\n  - package: hotspot\n",
         "members: []\n", "members: expected a list that is not empty, got an empty list"),
        ("all", "publisher: acme\n", "", "publisher: expected a name of lower case"),
        ("crypto", "content: {debian: [libcrypto]}\n", "", "content: expected files, got none"),
        ("crypto", "publisher: acme\n", "publisher: acme\nservices: []\n",
         "services: expected a known key, got an unknown one"),
        ("crypto", "publisher: acme\n", "publisher: acme\ndepends: [{package: crypto}]\n",
         'depends[0].package: expected another package, got "crypto" itself'),
        ("crypto", "type: library\n", "", "type: expected system, feature, library or suite"),
        ("crypto", "type: library", "type: libary",
         'type: expected system, feature, library or suite, got "libary"'),
    ],
)  # fmt: skip
def test_a_mistake_in_a_library_or_suite_is_named_with_its_place(
    tmp_path: Path, name: str, old: str, new: str, brief: str
) -> None:
    assert brief in refused(tmp_path, name, old, new).brief


def test_a_package_that_can_take_over_state_from_a_later_version_only_is_good(
    tmp_path: Path,
) -> None:
    """Migrations may be dropped from the old end."""
    start = FEATURE.index("  - {service: tunnel, source: 1")
    end = FEATURE.index("  - {service: tunnel, source: 2, target: 3")
    manifest = load_package(write(tmp_path, "vpn", FEATURE[:start] + FEATURE[end:])).manifest
    assert isinstance(manifest, FeaturePackage)
    assert [(item.source, item.target) for item in manifest.migrations] == [(2, 3), (3, 2)]
