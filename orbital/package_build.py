"""orbital package build, inspect: make package files and look into them (on the host)."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from imager.cache import Cache, default_directory
from imager.package.build import (
    PackageWorkshop,
    build_package,
    load_interface,
    read_available,
    target_architecture,
)
from imager.package.opk import OpkFile, facts, read_opk
from imager.package.signing import load_package_signer
from imager.tools import prepare_tools
from manifests.catalogue import REPOSITORY, find, load_package
from manifests.package import PackageSource
from orbital.image import DEFAULT_BUILT
from orbital.output import Output, amount
from recovery import codec
from recovery.packages import model


def add_build(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verbs build and inspect to the sub-commands of 'orbital package'."""
    build = subparsers.add_parser(
        "build",
        help="build a signed package file from its manifest and content",
        description="Builds NAME_VERSION_ARCH.opk. Refuses what the manifest does not declare, "
        "naming everything at once. Same inputs, same bytes.",
    )
    configure(build)
    inspect = subparsers.add_parser(
        "inspect",
        help="show what a package file consists of",
        description="Shows manifest, files, sizes, signer and digest of a package file, "
        "after checking that its parts fit together.",
    )
    inspect.add_argument("file", type=Path, metavar="FILE.opk", help="the package file")
    inspect.add_argument(
        "--keys", type=Path, metavar="KEYS", help="verify the signature by this key directory"
    )
    inspect.set_defaults(handler=_inspect)


def configure(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of 'orbital package build'."""
    parser.add_argument(
        "package", metavar="FOLDER|NAME", help="folder of a package, or its name in the catalogue"
    )
    parser.add_argument(
        "--keys",
        type=Path,
        required=True,
        metavar="KEYS",
        help="key directory with the publisher's key or signing command",
    )
    parser.add_argument(
        "--system-build",
        type=Path,
        required=True,
        metavar="BUILD",
        help="build directory of the image that the package is made for (its interface.json)",
    )
    parser.add_argument(
        "--architecture",
        metavar="A",
        help="refuse to build for another one (default: the image's)",
    )
    parser.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="DIR|FILE.opk",
        help="package files for dependencies; can be repeated",
    )
    parser.add_argument(
        "--previous",
        type=Path,
        metavar="FILE.opk",
        help="the version before: what it provides must not break without a new MAJOR",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("out"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--source-date-epoch",
        type=int,
        metavar="SECONDS",
        default=int(os.environ.get("SOURCE_DATE_EPOCH", DEFAULT_BUILT)),
        help="time of all files, seconds since 1970 (default: $SOURCE_DATE_EPOCH or %(default)s)",
    )
    parser.add_argument(
        "--refresh", action="store_true", help="ask the mirror for newer Debian packages"
    )
    parser.set_defaults(handler=_build)


def find_package(name: str) -> PackageSource:
    """The package in a folder, or of that name in the catalogue. Raises ManifestError."""
    folder = Path(name)
    if (folder / "package.yaml").is_file():
        return load_package(folder / "package.yaml")
    return load_package(find("package", name, (REPOSITORY,)))


def _build(args: argparse.Namespace, output: Output) -> int:
    source = find_package(args.package)
    interface = load_interface(args.system_build)
    signer = load_package_signer(args.keys, source.manifest.publisher, source.manifest.package)
    cache = Cache(default_directory(), output.reporter)
    workshop = PackageWorkshop(
        cache=cache,
        tools=prepare_tools(cache),
        interface=interface,
        signer=signer,
        keys=args.keys,
        architecture=target_architecture(interface, args.architecture),
        built=args.source_date_epoch,
        available=read_available(args.against, args.keys),
        previous=read_opk(args.previous, args.keys) if args.previous else None,
        refresh=args.refresh,
        reporter=output.reporter,
    )
    built = build_package(source, args.output, workshop)
    if built.left_out:
        output.reporter.message(
            f"left out, because packages are usr/ only: {', '.join(built.left_out)}"
        )
    opk = built.opk
    output.result(
        {
            **facts(opk),
            "lock": str(built.lock) if built.lock else None,
            "left_out": list(built.left_out),
        },
        f"wrote {opk.path} ({amount(opk.path.stat().st_size)}), signed by {opk.signer}\n"
        f"  digest {opk.digest}",
    )
    return 0


def _inspect(args: argparse.Namespace, output: Output) -> int:
    opk = read_opk(args.file, args.keys)
    files = {
        path: entry.target if entry.kind == "symlink" else entry.size
        for path, entry in opk.tree.items()
        if entry.kind != "directory"
    }
    document = codec.parse_object(model.encode(opk.manifest))
    output.result(
        {**facts(opk), "manifest": document, "files": files},
        _describe(opk, files),
    )
    return 0


def _describe(opk: OpkFile, files: dict[str, int | str]) -> str:
    manifest = opk.manifest
    signed = f"signed by {opk.signer}" if opk.signer else "signature not checked (no --keys)"
    lines = [
        f"{manifest.name} {manifest.version} ({manifest.kind}, {manifest.architecture}): "
        f"{manifest.summary}",
        f"  publisher {manifest.publisher}, {signed}",
        f"  image {amount(opk.image_size)}, digest {opk.digest}",
    ]
    lists = {
        "depends on": [f"{item.package} {item.versions}" for item in manifest.depends],
        "for": [f"{item.system} {item.versions}" for item in manifest.systems],
        "services": [item.name for item in manifest.services],
        "programs": [item.name for item in manifest.programs],
        "capabilities": list(manifest.capabilities),
        "provides": [f"{item.interface} {item.version}" for item in manifest.provides],
        "requires": [f"{item.interface} {item.versions}" for item in manifest.requires],
    }
    lines += [f"  {title} {', '.join(items)}" for title, items in lists.items() if items]
    lines.append(f"  {len(files)} files:")
    for path, size in files.items():
        lines.append(
            f"    {path} -> {size}" if isinstance(size, str) else f"    {path} {amount(size)}"
        )
    return "\n".join(lines)
