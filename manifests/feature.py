"""Feature packages, libraries and suites: what a package.yaml beside type "system" declares.

Nothing in a package runs when it is installed: everything is declared here.
How the declarations become the device's document: `manifests.package_convert`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from manifests.constraints import EXPECTED as CONSTRAINT_EXPECTED
from manifests.fields import (
    CapabilityName,
    DebianPackage,
    InterfaceName,
    InterfaceVersion,
    Line,
    Name,
    SourcePath,
    Summary,
    UsrPath,
    Version,
    matching,
)
from manifests.sizes import Size

Versions = Annotated[str, Meta(extra={"expected": CONSTRAINT_EXPECTED})]
"""Version constraints; `manifests.constraints` says how they are written."""

Argument = Annotated[str, Meta(extra={"expected": "a program argument"})]
Seconds = Annotated[int, Meta(ge=0, le=86400, extra={"expected": "seconds from 0 to 86400"})]
Positive = Annotated[int, Meta(ge=1, le=3600, extra={"expected": "a number from 1 to 3600"})]
Tasks = Annotated[int, Meta(ge=1, le=4096, extra={"expected": "a number from 1 to 4096"})]
Port = Annotated[int, Meta(ge=1, le=65535, extra={"expected": "a port from 1 to 65535"})]
HttpUrl = Annotated[
    str,
    matching(
        r"^http://(127\.0\.0\.1|localhost)(:[0-9]+)?(/\S*)?$",
        'an address on the device such as "http://127.0.0.1:9586/metrics"',
    ),
]
Command = Annotated[tuple[Argument, ...], Meta(min_length=1)]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Content(_Struct, frozen=True):
    """Where the files come from; each is merged into usr/, none of their scripts run.

    debian: Debian packages, unpacked; only what lies below usr/ (and /bin, /lib,
        /sbin, which are links to it) is taken. Their own dependencies are not added.
    directories: folders that hold usr/; "tree" when it exists and nothing is named.
    tars: archives that hold usr/.
    wheels: Python wheels, to usr/lib/python3/dist-packages; their console scripts
        to usr/bin.
    exclude: patterns of paths that are left out, such as "usr/share/doc/**".
    """

    debian: tuple[DebianPackage, ...] = ()
    directories: tuple[SourcePath, ...] = ()
    tars: tuple[SourcePath, ...] = ()
    wheels: tuple[SourcePath, ...] = ()
    exclude: tuple[str, ...] = (
        "usr/share/doc/**",
        "usr/share/man/**",
        "usr/share/locale/**",
        "usr/share/lintian/**",
        "usr/share/bash-completion/**",
        "usr/share/info/**",
    )


class ExecHealth(_Struct, frozen=True, tag_field="kind", tag="exec"):
    """Passes when a program exits with 0, in the service's own sandbox.

    command: the program below /usr and its arguments.
    deadline_seconds: from the service's start until it must have passed once.
    interval_seconds: how often it is repeated afterwards; 0 means never.
    """

    command: Command
    deadline_seconds: Positive = 30
    interval_seconds: Seconds = 0


class HttpHealth(_Struct, frozen=True, tag_field="kind", tag="http"):
    """Passes when GET on an address of the device answers.

    url: what to get.
    status: the answer that counts as healthy.
    deadline_seconds: from the service's start until it must have passed once.
    interval_seconds: how often it is repeated afterwards; 0 means never.
    """

    url: HttpUrl
    status: int = 200
    deadline_seconds: Positive = 30
    interval_seconds: Seconds = 0


class TcpHealth(_Struct, frozen=True, tag_field="kind", tag="tcp"):
    """Passes when a connection to 127.0.0.1 is accepted.

    port: TCP port.
    deadline_seconds: from the service's start until it must have passed once.
    interval_seconds: how often it is repeated afterwards; 0 means never.
    """

    port: Port
    deadline_seconds: Positive = 30
    interval_seconds: Seconds = 0


class BusHealth(_Struct, frozen=True, tag_field="kind", tag="bus"):
    """Passes when a D-Bus name has an owner.

    bus_name: the name.
    deadline_seconds: from the service's start until it must have passed once.
    interval_seconds: how often it is repeated afterwards; 0 means never.
    """

    bus_name: InterfaceName
    deadline_seconds: Positive = 30
    interval_seconds: Seconds = 0


class ActiveHealth(_Struct, frozen=True, tag_field="kind", tag="active"):
    """Passes when systemd says that the service is up; only for kinds notify, bus and oneshot.

    deadline_seconds: from the service's start until it must have passed once.
    interval_seconds: how often it is repeated afterwards; 0 means never.
    """

    deadline_seconds: Positive = 30
    interval_seconds: Seconds = 0


Health = ExecHealth | HttpHealth | TcpHealth | BusHealth | ActiveHealth


class RestartPolicy(_Struct, frozen=True):
    """What happens when the service ends.

    when: on-failure, always or no.
    pause_seconds: before the next start.
    limit: starts within window_seconds after which the service has failed for good;
        its package then goes back to the version before, or is disabled.
    window_seconds: see limit.
    """

    when: Literal["on-failure", "always", "no"] = "on-failure"
    pause_seconds: Seconds = 1
    limit: Positive = 3
    window_seconds: Positive = 120


class Limits(_Struct, frozen=True):
    """What the service may use.

    memory: of all its processes together.
    tasks: processes and threads.
    """

    # Made by a function: msgspec can put a Size as such into no JSON Schema.
    memory: Size = msgspec.field(default_factory=lambda: Size(64 << 20))
    tasks: Tasks = 32


class Service(_Struct, frozen=True):
    """A program that runs supervised, with a user and a view of its own.

    name: unique in the package.
    summary: one line for people.
    command: the program below /usr and its arguments; no shell.
    health: how one knows that it works.
    kind: simple, notify (says when it is ready, sd_notify), bus (ready when it owns
        its bus name), or oneshot (sets something up and ends; stays active).
    capabilities: named rights, each explained in capabilities.yaml.
    restart: what happens when it ends.
    limits: memory and tasks.
    state: it keeps data; it finds the folder in STATE_DIRECTORY.
    watchdog_seconds: it must ping systemd that often; 0 means it need not.
    metrics: its own endpoint in Prometheus text format.
    configure_first: it waits until the package's configure program has run.
    environment: variables it sees.
    after: services of this package that must be up before.
    start_seconds, stop_seconds: how long starting and stopping may take.
    """

    name: Name
    command: Command
    health: Health
    summary: Line = ""
    kind: Literal["simple", "notify", "bus", "oneshot"] = "simple"
    capabilities: tuple[CapabilityName, ...] = ()
    restart: RestartPolicy = RestartPolicy()
    limits: Limits = msgspec.field(default_factory=Limits)
    state: bool = False
    watchdog_seconds: Seconds = 0
    metrics: HttpUrl | None = None
    configure_first: bool = False
    environment: dict[str, str] = {}
    after: tuple[Name, ...] = ()
    start_seconds: Positive = 60
    stop_seconds: Positive = 15


class Program(_Struct, frozen=True):
    """A command for people: `orbital package run PACKAGE NAME ARGUMENTS`.

    name: unique in the package.
    summary: one line for people.
    command: the program below /usr and its first arguments.
    capabilities: named rights.
    state_of: the service whose user and state it shares.
    """

    name: Name
    command: Command
    summary: Line = ""
    capabilities: tuple[CapabilityName, ...] = ()
    state_of: Name | None = None


class Dependency(_Struct, frozen=True):
    """Another package that must be installed.

    package: its name.
    versions: which of its versions will do.
    """

    package: Name
    versions: Versions = "*"


class Fit(_Struct, frozen=True):
    """A system that the package is made for.

    system: its name.
    versions: which versions of its image will do.
    """

    system: Name
    versions: Versions = "*"


class Provided(_Struct, frozen=True):
    """A D-Bus interface that a service offers.

    interface: its name.
    version: MAJOR.MINOR; a change that breaks callers needs a new MAJOR.
    bus_name: well-known name that the service owns.
    service: which service.
    definition: introspection XML in the package's folder.
    activatable: a call starts the service.
    """

    interface: InterfaceName
    version: InterfaceVersion
    bus_name: InterfaceName
    service: Name
    definition: SourcePath
    activatable: bool = False


class Required(_Struct, frozen=True):
    """A D-Bus interface that this package's services call.

    interface: its name.
    versions: which of its versions will do.
    package: who provides it; one of depends.
    """

    interface: InterfaceName
    package: Name
    versions: Versions = "*"


class Slice(_Struct, frozen=True):
    """A named piece of configuration; services find NAME.json in CONFIGURATION_DIRECTORY.

    name: unique in the package.
    schema: JSON Schema of the values: an object whose properties are strings,
        integers, numbers, booleans, arrays or objects, with the keywords that
        `recovery.packages.slices` lists.
    defaults: values used until somebody sets others; must fit the schema.
    """

    name: Name
    schema: dict[str, Any]
    defaults: dict[str, Any] = {}


class Association(_Struct, frozen=True):
    """Files or addresses that the package handles.

    kind: file or protocol.
    match: a suffix such as ".conf", or a scheme such as "wg".
    program: the program that gets it as its last argument.
    """

    kind: Literal["file", "protocol"]
    match: Annotated[
        str, matching(r"^\.?[a-z0-9][a-z0-9.+-]*$", 'a suffix such as ".conf" or a scheme')
    ]
    program: Name


class Migration(_Struct, frozen=True):
    """Brings a service's state from one schema version to a neighbouring one.

    service: whose state.
    source, target: schema versions; they differ by one.
    command: program below /usr and its arguments.
    """

    service: Name
    source: int
    target: int
    command: Command


class _Packaged(_Struct, frozen=True, kw_only=True):
    """What feature packages and libraries have in common.

    package: name of the package and of its folder.
    version: its own version.
    summary: one line for people.
    publisher: whose key signs it.
    systems: what it is made for; empty means any system.
    depends: other packages it needs; nothing is added by itself.
    content: where its files come from.
    """

    package: Name
    version: Version
    summary: Summary
    publisher: Name
    systems: tuple[Fit, ...] = ()
    depends: tuple[Dependency, ...] = ()
    content: Content = Content()


class FeaturePackage(_Packaged, frozen=True, kw_only=True, tag_field="type", tag="feature"):
    """A feature with services or programs.

    services: what runs.
    programs: commands for people.
    provides: IPC interfaces (D-Bus) that its services offer.
    requires: IPC interfaces that its services call.
    configuration: slices of configuration.
    associations: files and addresses it handles.
    state_version: schema version of its services' state.
    migrations: how state gets from one schema version to the next, up and down.
    configure: program that must have run before services with configure_first start.
    overlay: paths that appear in the system's own /usr as well.
    """

    services: Annotated[tuple[Service, ...], Meta(max_length=16)] = ()
    programs: tuple[Program, ...] = ()
    provides: tuple[Provided, ...] = ()
    requires: tuple[Required, ...] = ()
    configuration: tuple[Slice, ...] = ()
    associations: tuple[Association, ...] = ()
    state_version: Annotated[int, Meta(ge=1, le=1000, extra={"expected": "a number from 1"})] = 1
    migrations: tuple[Migration, ...] = ()
    configure: Name | None = None
    overlay: tuple[UsrPath, ...] = ()


class LibraryPackage(_Packaged, frozen=True, kw_only=True, tag_field="type", tag="library"):
    """Files for other packages; several versions may be installed side by side."""


class SuitePackage(_Struct, frozen=True, kw_only=True, tag_field="type", tag="suite"):
    """Packages that belong together; installed and removed as a whole or in part.

    package: name of the package and of its folder.
    version: its own version.
    summary: one line for people.
    publisher: whose key signs it.
    systems: what it is made for; empty means any system.
    members: its packages, with the versions that will do.
    """

    package: Name
    version: Version
    summary: Summary
    publisher: Name
    systems: tuple[Fit, ...] = ()
    members: Annotated[tuple[Dependency, ...], Meta(min_length=1)]
