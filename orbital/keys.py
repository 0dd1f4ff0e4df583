"""orbital keys: make and inspect the keys of a product."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from imager import publishers
from imager.keys import DELEGATIONS, KeyInfo, inspect_keys, make_development_keys
from imager.repository.anchor import make_anchor
from imager.secureboot import export_enrollment
from orbital.output import Output


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of the group."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    make = commands.add_parser(
        "make",
        help="make a set of development keys",
        description="Makes Secure Boot, TUF and package publisher keys, unencrypted, in a new "
        "directory, and the trust anchor (tuf/root.json) that images carry. For development: keys "
        "of a fleet belong behind PKCS#11 or a signing service.",
    )
    make.add_argument("directory", type=Path, metavar="DIR", help="new or empty directory")
    make.add_argument(
        "--delegation",
        action="append",
        metavar="ROLE",
        help=f"TUF role to make a delegation key for; may repeat (default: {DELEGATIONS[0]})",
    )
    make.set_defaults(handler=_make)
    publisher = commands.add_parser(
        "publisher",
        help="add, change or remove a publisher of packages",
        description="Says which packages a publisher may sign, and makes the keys that are not "
        "there: a certificate for package images and a key for the TUF role publisher-NAME. For "
        "a publisher with keys elsewhere, first copy DIR/packages/NAME.pem and "
        "DIR/tuf/publisher-NAME.pem here. Repositories learn of it by 'orbital repository "
        "refresh', devices by their next image.",
    )
    publisher.add_argument("directory", type=Path, metavar="DIR", help="of 'orbital keys make'")
    publisher.add_argument("name", metavar="NAME", help="the publisher")
    what = publisher.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--packages",
        type=_patterns,
        metavar="PATTERNS",
        help="packages it may sign, separated by commas, such as 'wireguard,acme-*'",
    )
    what.add_argument("--remove", action="store_true", help="it may sign nothing any more")
    publisher.set_defaults(handler=_publisher)
    show = commands.add_parser(
        "show",
        help="show key ids, roles, fingerprints and expiry",
        description="Shows what is public about the keys of a directory; reads no private key.",
    )
    show.add_argument(
        "directory", type=Path, metavar="DIR", help="directory of 'orbital keys make'"
    )
    show.set_defaults(handler=_show)
    enrollment = commands.add_parser(
        "enrollment",
        help="write what a factory enrolls in UEFI firmware",
        description="Writes PK, KEK and db as .der and .esl files and, signed, as .auth files, for "
        "firmware set-up programs, efi-updatevar, or systemd-boot's loader/keys/auto.",
    )
    enrollment.add_argument("directory", type=Path, metavar="DIR", help="of 'orbital keys make'")
    enrollment.add_argument("output", type=Path, metavar="OUT", help="directory for the files")
    enrollment.set_defaults(handler=_enrollment)


def _make(args: argparse.Namespace, output: Output) -> int:
    make_development_keys(args.directory, args.delegation or DELEGATIONS)
    make_anchor(args.directory)
    keys = inspect_keys(args.directory)
    output.result(_document(args.directory, keys), f"{len(keys)} keys made in {args.directory}")
    return 0


def _publisher(args: argparse.Namespace, output: Output) -> int:
    if args.remove:
        publishers.remove_publisher(args.directory, args.name)
        text = f"{args.name} may sign no packages any more"
    else:
        publishers.add_publisher(args.directory, args.name, args.packages)
        text = f"{args.name} may sign {', '.join(args.packages)}"
    listed = publishers.load_publishers(args.directory) or {}
    data = {"directory": str(args.directory), "publishers": listed}
    output.result(data, f"{text}; run 'orbital repository refresh' with these keys")
    return 0


def _patterns(text: str) -> list[str]:
    return [pattern.strip() for pattern in text.split(",") if pattern.strip()]


def _show(args: argparse.Namespace, output: Output) -> int:
    keys = inspect_keys(args.directory)
    output.result(_document(args.directory, keys), "\n".join(_table(keys)))
    return 0


def _enrollment(args: argparse.Namespace, output: Output) -> int:
    # Firmware takes an .auth only if it is newer than the last: so the time is now.
    export_enrollment(args.directory, args.output, time=int(time.time()))
    files = sorted(str(path) for path in args.output.iterdir())
    output.result({"files": files}, "\n".join(files))
    return 0


def _document(directory: Path, keys: tuple[KeyInfo, ...]) -> dict[str, object]:
    return {
        "directory": str(directory),
        "keys": [
            {
                "purpose": key.purpose,
                "name": key.name,
                "role": key.role,
                "algorithm": key.algorithm,
                "key_id": key.key_id,
                "fingerprint": key.fingerprint,
                "expires": key.expires.isoformat() if key.expires else None,
                "private_key": key.location,
            }
            for key in keys
        ],
    }


def _table(keys: tuple[KeyInfo, ...]) -> list[str]:
    lines = [f"{'KEY':28}{'ROLE':22}{'ALGORITHM':11}{'PRIVATE':10}{'EXPIRES':12}KEY ID"]
    for key in keys:
        expires = f"{key.expires:%Y-%m-%d}" if key.expires else "-"
        lines.append(
            f"{f'{key.purpose}/{key.name}':28}{key.role:22}{key.algorithm:11}"
            f"{key.location:10}{expires:12}{key.key_id}"
        )
        lines.append(f"{'':28}sha256 {key.fingerprint}")
    return lines
