"""What an OS image promises to packages: `interface.json` in its build directory.

Packages are built against it: their ELF files may need only these libraries
and symbol versions, their scripts only these interpreters, and none of their
files may take the place of a file of the image.
"""

from __future__ import annotations

import msgspec

FORMAT = 1


class OsInterface(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The promise of one image.

    architecture: as boards name it ("x86_64").
    libraries: of each soname that the system manifest declares, the symbol
    versions it defines, sorted ("GLIBC_2.34"; empty for an unversioned one);
    without private ones ("GLIBC_PRIVATE"), which may change at any time.
    programs: interpreters and commands below /usr that packages may start.
    files: every path below usr/ in the image, sorted, directories not included.
    packages: system packages inside, with versions.
    """

    format: int
    system: str
    version: str
    board: str
    architecture: str
    libraries: dict[str, tuple[str, ...]]
    programs: tuple[str, ...]
    files: tuple[str, ...]
    packages: dict[str, str]
