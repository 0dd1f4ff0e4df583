"""orbital image: build images and factory disks (on the host)."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from imager.cache import Cache, default_directory
from imager.disk import build_factory_disk
from imager.image import Workshop, build_image, read_index
from imager.repository.anchor import read_anchor
from imager.signing import load_pe_signer
from imager.tools import prepare_tools
from manifests.catalogue import REPOSITORY, find, load_board, load_product
from manifests.sizes import Size
from orbital.output import Output, amount
from recovery.errors import ManifestError

# 2025-01-01: an image says when it was built only when told (SOURCE_DATE_EPOCH),
# since the same inputs must give the same bytes. It is also the earliest time
# that a device without a clock believes in.
DEFAULT_BUILT = 1_735_689_600


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of the group."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_build(commands)
    _add_factory(commands)

    show = commands.add_parser(
        "show", help="show what a build consists of", description="Shows a built image's index."
    )
    show.add_argument("build", type=Path, metavar="BUILD", help="a build directory")
    show.set_defaults(handler=_show)

    tools = commands.add_parser(
        "tools",
        help="prepare the pinned build tools",
        description="Fetches the pinned Debian tools that builds use, if the cache lacks them.",
    )
    tools.add_argument("--refresh", action="store_true", help="fetch them again")
    tools.set_defaults(handler=_tools)

    cache = commands.add_parser(
        "cache",
        help="show or empty the cache of build stages",
        description=f"Stages are kept in {default_directory()} ($ORBITAL_CACHE).",
    )
    cache.add_argument("--clean", action="store_true", help="remove all that no build is using")
    cache.set_defaults(handler=_cache)


def _add_build(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    build = commands.add_parser(
        "build",
        help="build a signed image from manifests",
        description="Builds root image, boot artifact, index and SBOM into "
        "OUTPUT/SYSTEM_VERSION_BOARD/. Same inputs, same bytes; only what changed is built.",
    )
    build.add_argument("--system", required=True, help="name or path of a system manifest")
    build.add_argument(
        "--board", default="qemu-x86_64", help="name or path of a board (default %(default)s)"
    )
    build.add_argument("--version", metavar="V", help="instead of the manifest's version")
    build.add_argument(
        "--keys", type=Path, required=True, metavar="DIR", help="of 'orbital keys make'"
    )
    build.add_argument(
        "--output", type=Path, default=Path("out"), metavar="DIR", help="default: %(default)s"
    )
    build.add_argument(
        "--source-date-epoch",
        type=int,
        metavar="SECONDS",
        default=int(os.environ.get("SOURCE_DATE_EPOCH", DEFAULT_BUILT)),
        help="time of the image, seconds since 1970 (default: $SOURCE_DATE_EPOCH or %(default)s)",
    )
    build.add_argument(
        "--refresh", action="store_true", help="ask the mirror for newer Debian packages"
    )
    build.add_argument(
        "--no-rescue",
        action="store_true",
        help="an image for updates only: without the rescue system, which factory disks need",
    )
    build.set_defaults(handler=_build)


def _add_factory(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    factory = commands.add_parser(
        "factory",
        help="make the disk image that the factory writes",
        description="Makes a GPT disk image (slot a filled, slot b empty, boot partition, state) "
        "with a block map (.bmap) beside it.",
    )
    factory.add_argument("build", type=Path, metavar="BUILD", help="a build directory")
    factory.add_argument("--output", type=Path, required=True, metavar="FILE")
    factory.add_argument(
        "--board", metavar="B", help="name or path of the board (default: as the build says)"
    )
    factory.add_argument("--size", help="of the disk, e.g. 4GiB (default: the smallest)")
    factory.add_argument("--compress", action="store_true", help="write FILE.zst instead of FILE")
    factory.set_defaults(handler=_factory)


def _build(args: argparse.Namespace, output: Output) -> int:
    product = load_product(args.system, args.board, version=args.version)
    anchor = read_anchor(args.keys)
    cache = Cache(default_directory(), output.reporter)
    tools = prepare_tools(cache)
    workshop = Workshop(
        cache=cache,
        tools=tools,
        signer=load_pe_signer(args.keys, tools, time=args.source_date_epoch),
        trust_root=anchor.to_bytes(),
        built=args.source_date_epoch,
        reporter=output.reporter,
        refresh=args.refresh,
        publishers=args.keys / "packages",
        rescue=not args.no_rescue,
    )
    build = build_image(product, args.output, workshop)
    _report(build, output)
    return 0


def _factory(args: argparse.Namespace, output: Output) -> int:
    index = read_index(args.build)
    board = load_board(find("board", args.board or index.board, (REPOSITORY,)))
    cache = Cache(default_directory(), output.reporter)
    written = build_factory_disk(
        args.build,
        board,
        args.output,
        prepare_tools(cache),
        reporter=output.reporter,
        size=parse_bytes(args.size) if args.size else None,
        compress=args.compress,
    )
    output.result(
        {"files": [str(path) for path in written]}, "\n".join(f"wrote {path}" for path in written)
    )
    return 0


def _show(args: argparse.Namespace, output: Output) -> int:
    _report(args.build, output)
    return 0


def _report(build: Path, output: Output) -> None:
    index = read_index(build)
    root, boot = index.root, index.boot
    output.result(
        {
            "build": str(build),
            "system": index.system,
            "version": index.version,
            "board": index.board,
            "architecture": index.architecture,
            "built": index.built,
            "root_hash": root.root_hash,
            "root_size": root.stream.size,
            "boot_size": boot.stream.size,
            "download_size": index.stored_size,
            "packages": index.packages,
        },
        f"{build}: {index.system} {index.version} for {index.board}\n"
        f"  root image {amount(root.stream.size)}, root hash {root.root_hash}\n"
        f"  boot artifact {amount(boot.stream.size)},"
        f" to download {amount(index.stored_size)}\n"
        f"  system packages "
        + ", ".join(f"{name} {version}" for name, version in index.packages.items()),
    )


def _tools(args: argparse.Namespace, output: Output) -> int:
    tools = prepare_tools(Cache(default_directory(), output.reporter), refresh=args.refresh)
    output.result({"tools": str(tools.directory)}, f"tools in {tools.directory}")
    return 0


def _cache(args: argparse.Namespace, output: Output) -> int:
    cache = Cache(default_directory(), output.reporter)
    if args.clean:
        removed = cache.clean()
        output.result({"removed": removed}, f"removed {removed} results")
        return 0
    sizes = cache.sizes()
    output.result(
        {
            "directory": str(cache.directory),
            "stages": {name: {"results": n, "bytes": size} for name, (n, size) in sizes.items()},
        },
        "\n".join(
            [f"{cache.directory}:"]
            + [f"  {name:12} {n:4} results {amount(size):>10}" for name, (n, size) in sizes.items()]
        ),
    )
    return 0


def parse_bytes(text: str) -> int:
    """A size such as 4GiB in bytes. Raises ManifestError."""
    try:
        return Size.parse(text)
    except ValueError as error:
        raise ManifestError(f"cannot use the size {text!r}: {error}") from error
