"""Everything a scenario needs, made by the shipped programs and made once: keys, releases, disk.

    lab = Lab(directory)
    lab.offer("2.0")                     # built, signed, published
    lab.offer("3.0", fault="panic")      # a bad release, see qemu.faulty
    lab.offer_package("counter")         # one of qemu/packages or manifests/packages
    lab.offer_package("counter", version="2.0", state_version=2)
    with lab.machine(artifacts) as machine: ...

Images come from the build cache where their inputs did not change; keys are
kept beside it, so that a second session finds them unchanged.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

from imager.cache import Cache, default_directory
from imager.disk import build_factory_disk
from imager.image import Workshop, build_image
from imager.keys import make_development_keys
from imager.mirror import find_mirror
from imager.package.build import (
    PackageWorkshop,
    build_package,
    load_interface,
    read_available,
    target_architecture,
)
from imager.package.signing import load_package_signer
from imager.publishers import add_development_publisher
from imager.repository.anchor import ANCHOR, make_anchor, read_anchor
from imager.repository.create import create
from imager.repository.deltas import DeltaMaker
from imager.repository.keyring import KeyDirectory
from imager.repository.packages import intake
from imager.repository.publish import publish
from imager.repository.roles import Periods
from imager.secureboot import write_variable_store
from imager.signing import load_pe_signer
from imager.tools import Tools, prepare_tools
from manifests.catalogue import Product, load_product
from qemu.alone import alone
from qemu.faulty import faulty, version_of
from qemu.hardware import Hardware, of_board
from qemu.machine import Machine
from qemu.planted import plant_shell
from qemu.variants import variant
from recovery import durable
from recovery.errors import FetchError
from recovery.reporter import Reporter, SilentReporter

BUILT = 1_735_689_600
DISK_SIZE = 2 << 30


class Lab:
    """One product on one board, with its keys, releases, repository and factory disk.

    directory: for what this session makes. keys: kept over sessions.
    """

    def __init__(
        self,
        directory: Path,
        *,
        system: str = "gateway",
        board: str = "qemu-x86_64",
        keys: Path | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.directory = directory
        self.reporter = reporter or SilentReporter()
        self.product = load_product(system, board)
        self.cache = Cache(default_directory(), self.reporter)
        self.keys = keys or default_directory() / "lab-keys"
        self.repository = directory / "repository"
        self.builds = directory / "builds"

    @property
    def version(self) -> str:
        """What the factory disk runs."""
        return self.product.manifest.version

    @cached_property
    def tools(self) -> Tools:
        """The pinned tools."""
        return prepare_tools(self.cache)

    @cached_property
    def workshop(self) -> Workshop:
        """What builds need besides the product."""
        self.prepare_keys()
        return Workshop(
            cache=self.cache,
            tools=self.tools,
            signer=load_pe_signer(self.keys, self.tools, time=BUILT),
            trust_root=read_anchor(self.keys).to_bytes(),
            built=BUILT,
            reporter=self.reporter,
            publishers=self.keys / "packages",
        )

    def prepare_keys(self) -> Path:
        """The development keys, made when they are not there."""
        durable.make_directory(self.keys.parent)
        with alone(self.keys):
            if not self.keys.exists():
                make_development_keys(self.keys)
            if not (self.keys / ANCHOR).exists():
                make_anchor(self.keys)
            add_development_publisher(self.keys)
        return self.keys

    def release(self, version: str, fault: str | None = None) -> Product:
        """The product as that version, with the named fault of `qemu.faulty.FAULTS`."""
        if fault is None:
            return version_of(self.product, version)
        return faulty(self.product, fault, version)

    def build(self, version: str, fault: str | None = None) -> Path:
        """The build directory of a release."""
        product = self.release(version, fault)
        directory = self.builds / product.name
        if directory.exists():
            return directory
        # The factory's image only: devices are given the others as updates.
        workshop = replace(self.workshop, rescue=version == self.version)
        try:
            return build_image(product, self.builds, workshop)
        except FetchError as error:
            if "-security" not in error.details:
                raise
            # Some mirrors have damaged indexes of the security archive for ports. What boots
            # here is for tests only; a product's build stops there (`imager.mirror`).
            self.reporter.message(f"without security updates: {error.brief}")
            mirror = replace(find_mirror(), security="")
            return build_image(product, self.builds, replace(workshop, mirror=mirror))

    def offer(
        self,
        version: str,
        fault: str | None = None,
        *,
        allow_downgrade_from: tuple[str, ...] = (),
        delta_from: tuple[str, ...] = (),
    ) -> str:
        """Builds and publishes a release once; returns its version.

        delta_from: published releases from which deltas are made.
        """
        if version not in self._offered:
            self._publish(
                [self.build(version, fault)],
                summary=f"bad release: {fault}" if fault else "",
                downgrade_from=allow_downgrade_from,
                delta_from=delta_from,
            )
            self._offered.add(version)
        return version

    def build_package(
        self,
        name: str,
        *,
        version: str | None = None,
        folder: Path | None = None,
        against: str | None = None,
        **changes: object,
    ) -> Path:
        """The package file of a package, against an image and what was built before.

        name: of a folder below qemu/packages or manifests/packages. version, changes:
        keys of its manifest that differ. folder: where it lies instead. against: version of
        the image, the factory's when None.
        """
        output = self.directory / "packages"
        source = variant(
            name,
            self.directory / "package-sources",
            version=version,
            folder=folder,
            changes=changes,
        )
        keys = self.prepare_keys()
        interface = load_interface(self.build(against or self.version))
        workshop = PackageWorkshop(
            cache=self.cache,
            tools=self.tools,
            interface=interface,
            signer=load_package_signer(keys, source.manifest.publisher, name),
            keys=keys,
            architecture=target_architecture(interface),
            built=BUILT,
            available=read_available([output], keys) if any(output.glob("*.opk")) else (),
            reporter=self.reporter,
        )
        output.mkdir(parents=True, exist_ok=True)
        return build_package(source, output, workshop).opk.path

    def offer_package(
        self,
        name: str,
        *,
        version: str | None = None,
        folder: Path | None = None,
        against: str | None = None,
        delta_from: tuple[str, ...] = (),
        **changes: object,
    ) -> Path:
        """Builds and publishes a package; see `build_package`. Returns the package file.

        delta_from: published versions from which deltas are made.
        """
        path = self.build_package(name, version=version, folder=folder, against=against, **changes)
        self._publish([path], delta_from=delta_from)
        return path

    def publish(self, *paths: Path) -> None:
        """Publishes build directories and package files in one step."""
        self._publish(list(paths))

    def _publish(
        self,
        paths: list[Path],
        *,
        summary: str = "",
        downgrade_from: tuple[str, ...] = (),
        delta_from: tuple[str, ...] = (),
    ) -> None:
        keys = KeyDirectory(self.prepare_keys())
        if not self.repository.exists():
            create(self.repository, keys, periods=Periods(), root=read_anchor(self.keys))
        publish(
            self.repository,
            paths,
            keys,
            intake=intake(self.keys, self.cache, self.tools),
            summary=summary,
            downgrade_from=downgrade_from,
            deltas=DeltaMaker(self.cache, 0, delta_from) if delta_from else None,
            reporter=self.reporter,
        )

    @cached_property
    def _offered(self) -> set[str]:
        return set()

    @cached_property
    def factory(self) -> Path:
        """The disk as it leaves the factory."""
        disk = self.directory / "factory.img"
        build_factory_disk(
            self.build(self.version), self.product.board, disk, self.tools, reporter=self.reporter
        )
        return disk

    @cached_property
    def _machine_disk(self) -> Path:
        """The factory disk; with the root shell in its /etc where it cannot come from outside."""
        if self.hardware.credentials != "none":
            return self.factory
        disk = self.directory / "factory-shell.qcow2"
        label = self.product.board.state_partition.label
        plant_shell(self.factory, disk, label, self.tools)
        return disk

    @cached_property
    def hardware(self) -> Hardware:
        """The board's machine."""
        return of_board(self.product.board, self.tools.file("."))

    @cached_property
    def variables(self) -> Path | None:
        """A variable store with our keys enrolled and Secure Boot on; None without UEFI."""
        emulation = self.product.board.qemu
        if emulation is None or emulation.firmware_variables is None:
            return None
        store = self.directory / "variables.fd"
        template = self.tools.file(emulation.firmware_variables)
        write_variable_store(self.tools, template, self.prepare_keys(), store)
        return store

    def machine(self, directory: Path, **options: object) -> Machine:
        """A machine with the factory disk, Secure Boot and room to grow; off until started."""
        settings: dict[str, object] = {
            "variables": self.variables,
            "disk_size": DISK_SIZE,
            "extra": STICK_CONTROLLER,
            **options,
        }
        return Machine(self.hardware, self._machine_disk, directory, **settings)  # type: ignore[arg-type]


# A USB controller, so that a stick can be plugged in at any time.
STICK_CONTROLLER = ("-device", "qemu-xhci,id=usb")
