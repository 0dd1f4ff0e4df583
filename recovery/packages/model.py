"""What a package says of itself, as the device reads it: `/manifest.json` in its image.

Made by `orbital package build` from a package.yaml that was validated there.
It lies inside the signed image, so who reads it has verified the image first;
it is decoded strictly all the same.

    PACKAGE.erofs
      manifest.json      this document
      usr/...            the files that the package's view adds to /usr
"""

from __future__ import annotations

from recovery import codec
from recovery.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    Kind = Literal["system", "feature", "library", "suite"]
    CheckKind = Literal["exec", "http", "tcp", "bus", "active"]
    ServiceKind = Literal["simple", "notify", "bus", "oneshot"]
    Restart = Literal["on-failure", "always", "no"]
else:
    Kind = CheckKind = ServiceKind = Restart = str

FORMAT = 1
KINDS = ("system", "feature", "library", "suite")
MANIFEST = "manifest.json"
SERVICES_AT_MOST = 16
"""Services of one package: each has a user id of the package's block."""


class Dependency(Value):
    """Another package that must be there. versions: a constraint ("*" for any)."""

    package: str
    versions: str


class Fit(Value):
    """A system that the package is made for. versions: a constraint on the image's version."""

    system: str
    versions: str


class Check(Value):
    """How one knows that a service works.

    kind: exec (command exits 0 in the service's own sandbox), http (GET url
    answers status), tcp (127.0.0.1:port accepts), bus (bus_name has an owner),
    active (systemd says active; for notify services with a watchdog).
    deadline_seconds: from the service's start until it must have passed once.
    interval_seconds: how often it is repeated while the service runs; 0: never.
    """

    kind: CheckKind
    deadline_seconds: int = 30
    interval_seconds: int = 0
    command: tuple[str, ...] = ()
    url: str = ""
    status: int = 200
    port: int = 0
    bus_name: str = ""


class Service(Value):
    """A program that runs supervised.

    name: unique in the package. command: full path below /usr, and arguments.
    capabilities: named in capabilities.json; nothing else is granted.
    restart_limit within restart_window_seconds: starts after which the service
    has failed and its package is rolled back or disabled.
    state: it has a state directory. memory_bytes, tasks: limits of its cgroup.
    watchdog_seconds: it must ping systemd that often; 0: it need not.
    metrics: an http address on the device with Prometheus text; "" for none.
    configure_first: it waits until the package's utility has run.
    after: services of the same package that must be up before.
    """

    name: str
    command: tuple[str, ...]
    check: Check
    summary: str = ""
    kind: ServiceKind = "simple"
    capabilities: tuple[str, ...] = ()
    restart: Restart = "on-failure"
    restart_seconds: int = 1
    restart_limit: int = 3
    restart_window_seconds: int = 120
    start_seconds: int = 60
    stop_seconds: int = 15
    state: bool = False
    memory_bytes: int = 64 << 20
    tasks: int = 32
    watchdog_seconds: int = 0
    metrics: str = ""
    configure_first: bool = False
    environment: tuple[tuple[str, str], ...] = ()
    after: tuple[str, ...] = ()


class Program(Value):
    """A command for people: `orbital package run PACKAGE NAME`, in the package's view and sandbox.

    state_of: the service whose state directory and user it shares; "" for neither.
    """

    name: str
    command: tuple[str, ...]
    summary: str = ""
    capabilities: tuple[str, ...] = ()
    state_of: str = ""


class Provided(Value):
    """An IPC interface (D-Bus) that a service offers.

    interface: its name. version: "MAJOR.MINOR". bus_name: the well-known name
    that the service owns. definition: path of the introspection XML below usr/.
    activatable: a call starts the service.
    """

    interface: str
    version: str
    bus_name: str
    service: str
    definition: str
    activatable: bool = False


class Required(Value):
    """An IPC interface that services of this package call.

    package: who provides it; one of the dependencies. versions: a constraint.
    """

    interface: str
    versions: str
    package: str


class Slice(Value):
    """A named piece of configuration. schema, defaults: JSON text (`recovery.packages.slices`)."""

    name: str
    schema: str
    defaults: str


class Association(Value):
    """The package handles these files or addresses.

    kind: file (match is a suffix such as ".conf") or protocol (a scheme such as "wg").
    program: one of the package's programs; gets the file or address as last argument.
    """

    kind: Literal["file", "protocol"]
    match: str
    program: str


class Migration(Value):
    """Brings service state from one schema version to the next, up or down (they differ by one).

    command: runs in the package's sandbox without network, with STATE_DIRECTORY
    of the service it names.
    """

    service: str
    source: int
    target: int
    command: tuple[str, ...]


class Package(Value):
    """The whole document.

    kind: feature; library (only files, several versions side by side); suite
    (only members); system (a newer version of a package inside the image,
    layered over it). publisher: whose key signed it. architecture: Debian's
    name, "all" when the content has no machine code. state_version: schema
    version of its services' state. configure: program that must have run
    before services with configure_first start. overlay: paths below usr/ that
    appear in the system's own /usr. restart_units: system kind: units of the
    image that are restarted when it is layered or taken away.
    members: of a suite; these are its dependencies too.
    """

    name: str
    version: str
    kind: Kind
    publisher: str
    architecture: str
    summary: str
    depends: tuple[Dependency, ...] = ()
    systems: tuple[Fit, ...] = ()
    services: tuple[Service, ...] = ()
    programs: tuple[Program, ...] = ()
    provides: tuple[Provided, ...] = ()
    requires: tuple[Required, ...] = ()
    slices: tuple[Slice, ...] = ()
    associations: tuple[Association, ...] = ()
    state_version: int = 1
    migrations: tuple[Migration, ...] = ()
    configure: str = ""
    overlay: tuple[str, ...] = ()
    restart_units: tuple[str, ...] = ()
    members: tuple[str, ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        """Names of the packages that must be there for it."""
        return frozenset((*(item.package for item in self.depends), *self.members))

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Every capability that something in the package asks for, sorted."""
        users: tuple[Service | Program, ...] = (*self.services, *self.programs)
        return tuple(sorted({name for user in users for name in user.capabilities}))


def unit_name(package: str, service: str) -> str:
    """The systemd unit of a service. Names have no dot, so this is unambiguous."""
    return f"orbital.{package}.{service}.service"


def encode(package: Package) -> bytes:
    """The document as deterministic JSON."""
    return codec.encode(package, format=FORMAT)


def decode(data: bytes) -> Package:
    """The document read back. Raises ValueError."""
    document = codec.parse_object(data)
    if document.pop("format", None) != FORMAT:
        raise ValueError(f"format is not {FORMAT}")
    texts, several = codec.several(codec.text), codec.several
    return codec.build(
        Package,
        document,
        name=codec.text,
        version=codec.text,
        kind=codec.one_of(*KINDS),
        publisher=codec.text,
        architecture=codec.text,
        summary=codec.text,
        depends=several(_reader(Dependency, package=codec.text, versions=codec.text)),
        systems=several(_reader(Fit, system=codec.text, versions=codec.text)),
        services=several(_service),
        programs=several(
            _reader(
                Program,
                name=codec.text,
                command=texts,
                summary=codec.text,
                capabilities=texts,
                state_of=codec.text,
            )
        ),
        provides=several(
            _reader(
                Provided,
                interface=codec.text,
                version=codec.text,
                bus_name=codec.text,
                service=codec.text,
                definition=codec.text,
                activatable=codec.truth,
            )
        ),
        requires=several(
            _reader(Required, interface=codec.text, versions=codec.text, package=codec.text)
        ),
        slices=several(_reader(Slice, name=codec.text, schema=codec.text, defaults=codec.text)),
        associations=several(
            _reader(
                Association,
                kind=codec.one_of("file", "protocol"),
                match=codec.text,
                program=codec.text,
            )
        ),
        state_version=codec.number,
        migrations=several(
            _reader(
                Migration,
                service=codec.text,
                source=codec.number,
                target=codec.number,
                command=texts,
            )
        ),
        configure=codec.text,
        overlay=texts,
        restart_units=texts,
        members=texts,
    )


def _reader(kind: type[Any], /, **readers: Any) -> Any:
    return lambda document: codec.build(kind, document, **readers)


def _service(document: object) -> Service:
    texts = codec.several(codec.text)
    return codec.build(
        Service,
        document,
        name=codec.text,
        command=texts,
        check=_check,
        summary=codec.text,
        kind=codec.one_of("simple", "notify", "bus", "oneshot"),
        capabilities=texts,
        restart=codec.one_of("on-failure", "always", "no"),
        restart_seconds=codec.number,
        restart_limit=codec.number,
        restart_window_seconds=codec.number,
        start_seconds=codec.number,
        stop_seconds=codec.number,
        state=codec.truth,
        memory_bytes=codec.number,
        tasks=codec.number,
        watchdog_seconds=codec.number,
        metrics=codec.text,
        configure_first=codec.truth,
        environment=codec.several(_pair),
        after=texts,
    )


def _check(document: object) -> Check:
    return codec.build(
        Check,
        document,
        kind=codec.one_of("exec", "http", "tcp", "bus", "active"),
        deadline_seconds=codec.number,
        interval_seconds=codec.number,
        command=codec.several(codec.text),
        url=codec.text,
        status=codec.number,
        port=codec.number,
        bus_name=codec.text,
    )


def _pair(value: object) -> tuple[str, str]:
    first, second = codec.several(codec.text)(value)
    return first, second
