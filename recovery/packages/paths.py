"""Where packages live on a device.

/state/orbital/store/DIGEST               images under fs-verity; named by their digest
/state/orbital/layers/NAME/N/             state of a package; see `recovery.packages.layers`
/run/orbital/packages/                    made in every boot:
  base/                                   the image's own /usr, whatever lies over /usr
  images/DIGEST/                          mounted images
  views/VIEW/usr/                         mounted views; VIEW/images names their digests
  config/NAME/SLICE.json                  configuration of a package, with defaults
  dbus/system.d/, dbus/system-services/   bus policy and activation
  associations.json                       who opens which files and addresses
  active.json                             what is activated: `recovery.packages.host.Activation`
/run/systemd/system/orbital.*.*.service   units
/run/userdb/                              users
"""

from __future__ import annotations

from pathlib import Path

VIEW_SOURCE = "orbital-view:"
"""A view's mount source, before its name: how views are found in /proc/PID/mountinfo."""
SYSTEM_SOURCE = "orbital-usr:"
"""The same of what lies over the system's own /usr."""


class Paths:
    """The places below a root directory ("/" on a device)."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Nothing is read or made."""
        self.root = root
        self.state = root / "state/orbital"
        self.store = self.state / "store"
        self.run = root / "run/orbital/packages"
        self.base = self.run / "base"
        self.images = self.run / "images"
        self.views = self.run / "views"
        self.config = self.run / "config"
        self.policy = self.run / "dbus/system.d"
        self.activation = self.run / "dbus/system-services"
        self.associations = self.run / "associations.json"
        self.active = self.run / "active.json"
        self.units = root / "run/systemd/system"
        self.users = root / "run/userdb"

    def stored(self, digest: str) -> Path:
        """The file of an image."""
        return self.store / digest

    def image(self, digest: str) -> Path:
        """Where an image is mounted."""
        return self.images / digest

    def view(self, view: str) -> Path:
        """A view's /usr."""
        return self.views / view / "usr"

    def layer(self, package: str, number: int) -> Path:
        """A package's state layer."""
        return self.state / "layers" / package / str(number)
