"""orbital repository: publish images for devices to fetch (on the host)."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

from imager.cache import Cache, default_directory
from imager.package.opk import SUFFIX
from imager.repository import listing
from imager.repository.anchor import read_anchor, write_anchor
from imager.repository.create import create
from imager.repository.deltas import LAST, DeltaMaker
from imager.repository.keyring import KeyDirectory
from imager.repository.metadata import newest_root
from imager.repository.packages import intake
from imager.repository.publish import Published, PublishedPackage, publish, withdraw
from imager.repository.refresh import refresh
from imager.repository.roles import Periods
from imager.tools import prepare_tools
from orbital.output import Output, amount

_ABOUT = """\
A repository is a directory of static files; any web server serves it, and a
copy of it on a stick works the same. Devices trust its signatures (TUF), not
the server. Keep it alive: run 'orbital repository refresh' from a daily timer.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of the group."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _ABOUT
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    init = commands.add_parser(
        "init",
        help="create an empty repository",
        description="Creates an empty repository: root (threshold 2), targets, snapshot, "
        "timestamp and the delegated roles: os, and one for each publisher of packages.",
    )
    _directory_and_keys(init)
    defaults = Periods()
    for field in fields(Periods):
        init.add_argument(
            f"--{field.name}-days",
            type=_days,
            default=getattr(defaults, field.name),
            metavar="N",
            help=f"days until {field.name} metadata expires (default %(default)s)",
        )
    init.set_defaults(handler=_init)

    add = commands.add_parser(
        "publish",
        help="offer built images and packages to devices",
        description="Publishes build directories (of 'orbital image build') and package files (of "
        "'orbital package build') in one step: devices see all of them or none. KEYS must hold "
        "the keys of snapshot and timestamp, of os for images, and of a package's publisher.",
    )
    _directory_and_keys(add)
    add.add_argument(
        "build", type=Path, nargs="+", metavar="BUILD", help="a build directory or a .opk file"
    )
    add.add_argument("--summary", default="", help="one line about the images, for people")
    add.add_argument(
        "--allow-downgrade-from",
        action="append",
        default=[],
        metavar="VERSION",
        help="signed permission for devices on VERSION to go down to the published one; "
        "can be repeated",
    )
    add.add_argument(
        "--deltas",
        type=_count,
        default=LAST,
        metavar="N",
        help="make deltas to the images, and to packages of 512 KiB and more to fetch, from the "
        "N versions published before, and slices of the images for devices with another version "
        "(default %(default)s; 0: neither, which is quicker and lets devices fetch everything "
        "whole)",
    )
    add.add_argument(
        "--delta-from",
        action="append",
        default=[],
        metavar="VERSION",
        help="make a delta from this published version, too; can be repeated",
    )
    add.set_defaults(handler=_publish)

    take_back = commands.add_parser(
        "withdraw",
        help="take a version of a package off the offer",
        description="Withdraws a version of a package: no device installs it any more. Devices "
        "that have it keep it, until their next update finds something better.",
    )
    _directory_and_keys(take_back)
    take_back.add_argument("package", metavar="NAME", help="the package")
    take_back.add_argument("version", metavar="VERSION", help="the version")
    take_back.set_defaults(handler=_withdraw)

    show = commands.add_parser(
        "list",
        help="show what is on offer and when metadata expires",
        description="Lists published images and packages, and each role's version and expiry.",
    )
    show.add_argument("directory", type=Path, metavar="DIR", help="the repository")
    show.set_defaults(handler=_list)

    renew = commands.add_parser(
        "refresh",
        help="renew expiry dates, take over publishers, or rotate keys",
        description="Signs timestamp and snapshot anew, and everything else that expires within "
        "half its period and whose keys are at hand. With the key of targets, the publishers of "
        "packages become those of KEYS (see 'orbital keys publisher').",
    )
    _directory_and_keys(renew)
    renew.add_argument(
        "--rotate",
        action="store_true",
        help="replace the keys of every role by those in KEYS; devices follow by themselves",
    )
    renew.add_argument(
        "--old-keys",
        type=Path,
        metavar="DIR",
        help="with --rotate: the key directory with the old root keys, when KEYS has new ones",
    )
    renew.set_defaults(handler=_refresh)


def _directory_and_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="the repository")
    parser.add_argument(
        "--keys", type=Path, required=True, metavar="KEYS", help="the key directory"
    )


def _days(text: str) -> int:
    days = int(text)
    if not 1 <= days <= 36500:
        raise argparse.ArgumentTypeError("not between 1 and 36500 days")
    return days


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("less than 0")
    return number


def _init(args: argparse.Namespace, output: Output) -> int:
    periods = Periods(
        **{field.name: getattr(args, f"{field.name}_days") for field in fields(Periods)}
    )
    # The images carry this root already; devices start their trust from it.
    anchor = read_anchor(args.keys)
    create(args.directory, KeyDirectory(args.keys), periods=periods, root=anchor)
    root = args.directory / "metadata" / "1.root.json"
    output.result(
        {"repository": str(args.directory), "root": str(root), "days": asdict(periods)},
        f"created {args.directory}; images trust {root}",
    )
    return 0


def _publish(args: argparse.Namespace, output: Output) -> int:
    take_in = None
    cache = Cache(default_directory(), output.reporter)
    if any(path.suffix == SUFFIX for path in args.build):
        take_in = intake(args.keys, cache, prepare_tools(cache))
    done = publish(
        args.directory,
        args.build,
        KeyDirectory(args.keys),
        reporter=output.reporter,
        intake=take_in,
        deltas=DeltaMaker(cache, args.deltas, tuple(args.delta_from))
        if args.deltas or args.delta_from
        else None,
        summary=args.summary,
        downgrade_from=args.allow_downgrade_from,
    )
    lines = [
        f"published {item.system} {item.version} for {item.board}: {_added(item)}"
        for item in done.images
    ]
    lines += [
        f"  from {item.from_version} a device fetches {amount(item.fetch_bytes)} instead of "
        f"{amount(item.full_bytes)}"
        for item in done.deltas
    ]
    lines += [
        f"published {item.package} {item.version} ({item.architecture}) of {item.publisher}: "
        f"{_added(item)}"
        for item in done.packages
    ]
    lines += [
        f"  {item.package} ({item.architecture}): from {item.from_version} a device fetches "
        f"{amount(item.fetch_bytes)} instead of {amount(item.full_bytes)}"
        for item in done.package_deltas
    ]
    _warn(done.warnings, output)
    data = {
        "published": [asdict(item) for item in done.images],
        "packages": [asdict(item) for item in done.packages],
        "deltas": [asdict(item) for item in done.deltas],
        "package_deltas": [asdict(item) for item in done.package_deltas],
        "warnings": list(done.warnings),
    }
    output.result(data, "\n".join(lines))
    return 0


def _added(item: Published | PublishedPackage) -> str:
    return f"{item.new_chunks} new chunks, {amount(item.new_bytes)}"


def _warn(warnings: Iterable[str], output: Output) -> None:
    for warning in warnings:
        output.reporter.message(f"warning: {warning}")


def _withdraw(args: argparse.Namespace, output: Output) -> int:
    done = withdraw(args.directory, args.package, args.version, KeyDirectory(args.keys))
    _warn(done.warnings, output)
    data = {
        "package": args.package,
        "version": args.version,
        "warnings": list(done.warnings),
    }
    output.result(data, f"withdrew {args.package} {args.version}")
    return 0


def _list(args: argparse.Namespace, output: Output) -> int:
    offers = listing.offers(args.directory)
    packages = listing.packages(args.directory)
    roles = listing.roles(args.directory)
    lines = [
        f"{offer.system} {offer.version} for {offer.board}: {amount(offer.fetch_bytes)} to fetch"
        + (
            f", downgrade allowed from {', '.join(offer.downgrade_from)}"
            * bool(offer.downgrade_from)
        )
        + (f": {offer.summary}" if offer.summary else "")
        for offer in offers
    ]
    lines += [
        f"{item.package} {item.version} ({item.kind}, {item.architecture}) of {item.publisher}: "
        f"{amount(item.fetch_bytes)} to fetch: {item.summary}"
        for item in packages
    ]
    lines = lines or ["nothing is published"]
    lines += [
        f"{role.role} version {role.version}, expires {role.expires:%Y-%m-%d %H:%M} UTC"
        for role in roles
    ]
    data = {
        "offers": [asdict(offer) for offer in offers],
        "packages": [asdict(item) for item in packages],
        "roles": [
            {**asdict(role), "expires": role.expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
            for role in roles
        ],
    }
    output.result(data, "\n".join(lines))
    return 0


def _refresh(args: argparse.Namespace, output: Output) -> int:
    done = refresh(
        args.directory,
        KeyDirectory(args.keys),
        rotate=args.rotate,
        old_keys=KeyDirectory(args.old_keys) if args.old_keys else None,
    )
    if args.rotate and "root" in done.signed:
        # Images built with these keys from now on start from the new root: devices
        # that already have it could not follow a chain that begins at another version 1.
        write_anchor(args.keys, newest_root(args.directory))
    _warn(done.warnings, output)
    signed = ", ".join(f"{role} {version}" for role, version in done.signed.items())
    output.result({"signed": done.signed, "warnings": list(done.warnings)}, f"signed {signed}")
    return 0
