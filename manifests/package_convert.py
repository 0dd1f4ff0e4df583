"""A package's manifest as the document that lies in its image and that the device reads. Pure."""

from __future__ import annotations

import json
from typing import Any

from manifests import feature
from manifests.package import PackageManifest, PackageSource, SystemPackage
from recovery.packages import model

INTERFACES = "usr/share/dbus-1/interfaces"


def device_manifest(source: PackageSource, architecture: str) -> model.Package:
    """The document `/manifest.json` of the package's image.

    architecture: Debian's name of the content's, "all" when it has no machine code.

    The overlay of a system package is what its tree holds, which the builder
    knows and fills in.
    """
    manifest = source.manifest
    match manifest:
        case SystemPackage():
            return _common(manifest, "system", architecture, restart_units=manifest.enable)
        case feature.LibraryPackage():
            return _common(
                manifest, "library", architecture,
                depends=_dependencies(manifest.depends), systems=_fits(manifest.systems),
            )  # fmt: skip
        case feature.SuitePackage():
            return _common(
                manifest, "suite", architecture,
                depends=_dependencies(manifest.members), systems=_fits(manifest.systems),
                members=tuple(member.package for member in manifest.members),
            )  # fmt: skip
        case feature.FeaturePackage():
            return _feature(manifest, architecture)


def definition_path(interface: str) -> str:
    """Where the introspection XML of a provided interface lies in the image."""
    return f"{INTERFACES}/{interface}.xml"


def _common(
    manifest: PackageManifest, kind: model.Kind, architecture: str, **more: Any
) -> model.Package:
    return model.Package(
        name=manifest.package,
        version=manifest.version,
        kind=kind,
        publisher=manifest.publisher,
        architecture=architecture,
        summary=manifest.summary,
        **more,
    )


def _feature(manifest: feature.FeaturePackage, architecture: str) -> model.Package:
    return _common(
        manifest,
        "feature",
        architecture,
        depends=_dependencies(manifest.depends),
        systems=_fits(manifest.systems),
        services=tuple(_service(item) for item in manifest.services),
        programs=tuple(
            model.Program(
                item.name, item.command, item.summary, item.capabilities, item.state_of or ""
            )
            for item in manifest.programs
        ),
        provides=tuple(
            model.Provided(
                interface=item.interface,
                version=item.version,
                bus_name=item.bus_name,
                service=item.service,
                definition=definition_path(item.interface),
                activatable=item.activatable,
            )
            for item in manifest.provides
        ),
        requires=tuple(
            model.Required(item.interface, item.versions, item.package)
            for item in manifest.requires
        ),
        slices=tuple(
            model.Slice(item.name, _json(item.schema), _json(item.defaults))
            for item in manifest.configuration
        ),
        associations=tuple(
            model.Association(item.kind, item.match, item.program) for item in manifest.associations
        ),
        state_version=manifest.state_version,
        migrations=tuple(
            model.Migration(item.service, item.source, item.target, item.command)
            for item in manifest.migrations
        ),
        configure=manifest.configure or "",
        overlay=manifest.overlay,
    )


def _dependencies(items: tuple[feature.Dependency, ...]) -> tuple[model.Dependency, ...]:
    return tuple(model.Dependency(item.package, item.versions) for item in items)


def _fits(items: tuple[feature.Fit, ...]) -> tuple[model.Fit, ...]:
    return tuple(model.Fit(item.system, item.versions) for item in items)


def _json(value: dict[str, object]) -> str:
    """JSON in one line; equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _service(service: feature.Service) -> model.Service:
    return model.Service(
        name=service.name,
        command=service.command,
        check=_check(service.health),
        summary=service.summary,
        kind=service.kind,
        capabilities=service.capabilities,
        restart=service.restart.when,
        restart_seconds=service.restart.pause_seconds,
        restart_limit=service.restart.limit,
        restart_window_seconds=service.restart.window_seconds,
        start_seconds=service.start_seconds,
        stop_seconds=service.stop_seconds,
        state=service.state,
        memory_bytes=int(service.limits.memory),
        tasks=service.limits.tasks,
        watchdog_seconds=service.watchdog_seconds,
        metrics=service.metrics or "",
        configure_first=service.configure_first,
        environment=tuple(sorted(service.environment.items())),
        after=service.after,
    )


def _check(health: feature.Health) -> model.Check:
    deadline, interval = health.deadline_seconds, health.interval_seconds
    match health:
        case feature.ExecHealth():
            return model.Check("exec", deadline, interval, command=health.command)
        case feature.HttpHealth():
            return model.Check("http", deadline, interval, url=health.url, status=health.status)
        case feature.TcpHealth():
            return model.Check("tcp", deadline, interval, port=health.port)
        case feature.BusHealth():
            return model.Check("bus", deadline, interval, bus_name=health.bus_name)
        case feature.ActiveHealth():
            return model.Check("active", deadline, interval)
