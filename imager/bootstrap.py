"""Runs mmdebstrap: the one door through which Debian packages come in.

Works as root and, through user namespaces, without. The result is always one
tar file, so nothing has to be mounted, chowned or cleaned up by us. Nothing of
the packages ever runs, so every architecture works on every host.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from imager.mirror import RELEASE, Mirror
from recovery.errors import FetchError, SpaceError, ToolError
from recovery.process import run

LOCK_MEMBER = "packages.lock"
# Raise when a change below changes results: stages that took minutes of
# downloads are not made again for a changed comment.
VERSION = 1
# Never wanted on a device or in a build: documentation and translations.
EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
)
# Runs in the new tree's namespace while apt's downloads are still there:
# name, version, architecture, source package and SHA-256 of every archive.
_RECORD = (
    'for deb in "$1"/var/cache/apt/archives/*.deb; do [ -e "$deb" ] || continue; '
    "printf '%s\\t%s\\n' \"$(dpkg-deb --show --showformat="
    '\'${Package}\\t${Version}\\t${Architecture}\\t${source:Package}\' "$deb")" '
    '"$(sha256sum < "$deb" | cut -d" " -f1)"; done >> "$1"/' + LOCK_MEMBER
)
_UNREACHABLE = (
    "Could not resolve",
    "Could not connect",
    "Failed to fetch",
    "Connection failed",
    "Connection timed out",
    "Temporary failure resolving",
    "does not have a Release file",
)

# apt's downloads in one folder of the tar, and the same facts of them; {names} are quoted.
ARCHIVES = "archives"
_DOWNLOAD = (
    'mkdir "$1"/' + ARCHIVES + ' && cd "$1"/' + ARCHIVES + " && "
    'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download {names} && '
    "for deb in *.deb; do printf '%s\\t%s\\n' \"$(dpkg-deb --show --showformat="
    '\'${{Package}}\\t${{Version}}\\t${{Architecture}}\\t${{source:Package}}\' "$deb")" '
    '"$(sha256sum < "$deb" | cut -d" " -f1)"; done > "$1"/' + LOCK_MEMBER
)

# The packages, Debian's essential ones, and all that they depend on.
_DOWNLOAD_SYSTEM = (
    'mkdir "$1"/' + ARCHIVES + ' && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes '
    '-o Dir::Cache::archives="$1"/' + ARCHIVES + " --download-only install '?essential' {names}"
)
# A kernel without what Debian would make its initramfs with.
_DOWNLOAD_KERNEL = (
    'mkdir "$1"/' + ARCHIVES + ' && cd "$1"/' + ARCHIVES + " && "
    'export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && apt-get download {name} '
    "$(apt-cache depends {name} | sed -n 's/^ *Depends: \\(linux-image-[^ ]*\\)$/\\1/p')"
)
# Only upstream's archive: Debian's changes to it are for its build.
_DOWNLOAD_SOURCE = (
    'mkdir "$1"/' + ARCHIVES + ' && cd "$1"/' + ARCHIVES + " && "
    'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get source --download-only --tar-only {name}'
)


def bootstrap(
    packages: Sequence[str],
    output: Path,
    *,
    mirror: Mirror,
    epoch: int,
    architecture: str = "amd64",
    release: str = RELEASE,
) -> None:
    """Writes a tar with packages and all they depend on, unpacked.

    The tar also holds `packages.lock` at its top: what came in, with hashes.
    epoch: SOURCE_DATE_EPOCH, seconds; no file is newer.

    Raises FetchError when the mirror cannot be reached, SpaceError when the
    disk is full, ToolError when mmdebstrap is missing or fails.
    """
    command = [
        *_common("extract", architecture),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED),
        f"--extract-hook={_RECORD}",
        f"--include={','.join(packages)}",
        release,
        str(output),
        *mirror.sources(release),
    ]
    _run(command, output, epoch, mirror, packages)


def download(
    packages: Sequence[str],
    output: Path,
    *,
    mirror: Mirror,
    epoch: int,
    architecture: str = "amd64",
    release: str = RELEASE,
) -> None:
    """Writes a tar with the archives of just these packages, without what they depend on.

    They are `ARCHIVES`/*.deb, checked by apt and not unpacked; `packages.lock`
    is as of `bootstrap`, and so are the errors.
    """
    names = " ".join(shlex.quote(name) for name in packages)
    command = [
        *_common("custom", architecture),
        f"--extract-hook={_DOWNLOAD.format(names=names)}",
        release,
        str(output),
        *mirror.sources(release),
    ]
    _run(command, output, epoch, mirror, packages)


def download_system(
    packages: Sequence[str],
    output: Path,
    *,
    mirror: Mirror,
    epoch: int,
    architecture: str = "amd64",
    release: str = RELEASE,
) -> None:
    """Writes a tar with the archives of a whole system: these packages, and all they need.

    They are `ARCHIVES`/*.deb, checked by apt and not unpacked; errors are as of `bootstrap`.
    """
    names = " ".join(shlex.quote(name) for name in packages)
    command = [
        *_common("custom", architecture),
        f"--extract-hook={_DOWNLOAD_SYSTEM.format(names=names)}",
        release,
        str(output),
        *mirror.sources(release),
    ]
    _run(command, output, epoch, mirror, packages)


def download_kernel(
    package: str,
    output: Path,
    *,
    mirror: Mirror,
    epoch: int,
    architecture: str = "amd64",
    release: str = RELEASE,
) -> None:
    """Writes a tar with the archives of a kernel package and, if it names another, of that one.

    linux-image-amd64 is empty: it depends on the newest linux-image-VERSION-amd64.
    The tar is as of `download_system`; errors are as of `bootstrap`.
    """
    command = [
        *_common("custom", architecture),
        f"--extract-hook={_DOWNLOAD_KERNEL.format(name=shlex.quote(package))}",
        release,
        str(output),
        *mirror.sources(release),
    ]
    _run(command, output, epoch, mirror, [package])


def download_source(
    package: str, output: Path, *, mirror: Mirror, epoch: int, release: str = RELEASE
) -> None:
    """Writes a tar with the upstream archive of a source package, `ARCHIVES`/*.orig.tar.*.

    It is checked by apt against the mirror's signed index; errors are as of `bootstrap`.
    """
    sources = mirror.sources(release)
    command = [
        *_common("custom", "amd64"),
        f"--extract-hook={_DOWNLOAD_SOURCE.format(name=shlex.quote(package))}",
        release,
        str(output),
        *sources,
        *(line.replace("deb ", "deb-src ", 1) for line in sources),
    ]
    _run(command, output, epoch, mirror, [package])


def _common(variant: str, architecture: str) -> list[str]:
    if shutil.which("mmdebstrap") is None:
        raise ToolError(
            "cannot fetch Debian packages: mmdebstrap is missing",
            resolution="install it: apt-get install mmdebstrap",
        )
    return [
        "mmdebstrap",
        f"--variant={variant}",
        f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        # Nothing runs in the tree, so no emulator is needed for another architecture.
        "--skip=check/qemu",
        "--format=tar",
        f"--architectures={architecture}",
        '--aptopt=Apt::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
    ]


def _run(
    command: Sequence[str], output: Path, epoch: int, mirror: Mirror, packages: Sequence[str]
) -> None:
    try:
        run(command, env={"SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C.UTF-8"})
    except ToolError as error:
        output.unlink(missing_ok=True)
        raise _explain(error, mirror, packages) from error


def _explain(error: ToolError, mirror: Mirror, packages: Sequence[str]) -> Exception:
    """The error a user can act on, from what mmdebstrap and apt printed."""
    text = error.details
    if "No space left on device" in text:
        return SpaceError(
            "cannot unpack Debian packages: the disk is full",
            details=text,
            resolution="free space in the cache directory and in TMPDIR, then run it again",
        )
    if any(sign in text for sign in _UNREACHABLE):
        return FetchError(
            f"cannot fetch Debian packages from {mirror.main}",
            details=_complaints(text),
            resolution="check the network, or name another mirror: "
            'ORBITAL_MIRROR="URL SECURITY_URL"',
        )
    if "Unable to locate package" in text or "has no installation candidate" in text:
        return ToolError(
            f"cannot find every Debian package of: {' '.join(packages)}",
            details=text,
            resolution=f"check the package names against Debian {RELEASE}",
        )
    return error


def _complaints(text: str) -> str:
    """The lines in which apt says what is wrong, each once; all of it when there are none."""
    lines = [line.strip() for line in text.splitlines()]
    chosen = [line for line in lines if line.startswith(("E: Failed to fetch", "Err:"))]
    chosen = chosen or [line for line in lines if any(sign in line for sign in _UNREACHABLE)]
    return "\n".join(dict.fromkeys(chosen)) or text
