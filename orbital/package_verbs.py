"""The verbs of orbital package that change something."""

from __future__ import annotations

import argparse
import json
import sys

from orbital.fetched import delta_notes, fetched_document, fetched_lines, fetching
from orbital.output import Output, amount
from orbital.system import requested_by
from recovery.errors import OrbitalError, RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from updater.packages.device import PackageDevice
    from updater.packages.difference import Difference
    from updater.packages.lifecycle import Confirm, Download
    from updater.packages.transaction import Outcome

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_SOURCE = "repository to use: a URL, or a directory such as a mounted stick (default: configured)"


def configure(commands: Commands) -> None:
    """Adds the verbs."""
    install = commands.add_parser(
        "install",
        help="install packages, with what they need",
        description="Resolves, fetches, verifies, starts and checks the packages. If one does "
        "not become healthy, everything is as it was. NAME=VERSION takes that version, even one "
        "that has failed here before.",
    )
    install.add_argument("packages", nargs="+", metavar="NAME[=VERSION]")
    install.add_argument("--to", metavar="VERSION", help="the same for the only package named")
    install.add_argument("--source", metavar="DIR_OR_URL", help=_SOURCE)
    install.add_argument(
        "--no-start", action="store_true", help="install without enabling its services"
    )
    _add_yes(install)
    install.set_defaults(handler=_install)

    update = commands.add_parser(
        "update",
        help="update packages to their newest version that fits",
        description="Updates the named packages, or all. If one does not become healthy, version "
        "and service state go back by themselves, and the version is not offered again.",
    )
    update.add_argument("packages", nargs="*", metavar="NAME[=VERSION]")
    update.add_argument("--to", metavar="VERSION", help="the version for the only package named")
    update.add_argument("--source", metavar="DIR_OR_URL", help=_SOURCE)
    _add_yes(update)
    update.set_defaults(handler=_update)

    for verb, text in (
        ("enable", "start the services of packages, now and at every boot"),
        ("disable", "stop the services of packages, and keep the packages"),
    ):
        switch = commands.add_parser(
            verb, help=text, description=f"{text[0].upper()}{text[1:]}. State is kept."
        )
        switch.add_argument("packages", nargs="+", metavar="NAME")
        switch.set_defaults(handler=_enable if verb == "enable" else _disable)

    remove = commands.add_parser(
        "remove",
        help="remove packages, and what only they needed",
        description="Stops and removes packages with their configuration and state; until the "
        "next change, 'orbital package rollback' brings all of it back. Refused while another "
        "package needs one of them.",
    )
    remove.add_argument("packages", nargs="+", metavar="NAME")
    remove.add_argument(
        "--with-dependents", action="store_true", help="also remove the packages that need them"
    )
    _add_yes(remove)
    remove.set_defaults(handler=_remove)

    back = commands.add_parser(
        "rollback",
        help="go back to the version, or the whole set, of before",
        description="With NAME: to the version of that package before the present one, with its "
        "state of then. Without: to the whole set before the last change.",
    )
    back.add_argument("package", nargs="?", metavar="NAME")
    _add_yes(back)
    back.set_defaults(handler=_rollback)

    collect = commands.add_parser(
        "gc",
        help="remove images and state that nothing needs",
        description="Removes images, state layers and records that no kept generation needs and "
        "no program uses. Runs by itself after every change; by hand it also finishes what an "
        "interrupted change left.",
    )
    collect.add_argument("--dry-run", action="store_true", help="only say what would go")
    collect.set_defaults(handler=_gc)

    set_values = commands.add_parser(
        "configure",
        help="show or set the configuration of a package",
        description="Sets values and restarts the package's services; if they fail with them, "
        "the old values are back. Without values: shows them. A value is JSON, or plain text "
        "where the schema wants a string.",
    )
    set_values.add_argument("package", metavar="PACKAGE")
    set_values.add_argument(
        "values",
        nargs="*",
        metavar="SLICE.KEY=VALUE",
        help="a value to set; or SLICE KEY=VALUE ... for several of one slice",
    )
    set_values.add_argument(
        "--unset", action="append", default=[], metavar="SLICE.KEY", help="back to the default"
    )
    set_values.add_argument("--show", action="store_true", help="show the values that count")
    set_values.set_defaults(handler=_configure)

    # For orbital-package-failed@.service: no help, not for people.
    failed = commands.add_parser("failed")
    failed.add_argument("package", metavar="PACKAGE")
    failed.set_defaults(handler=_failed)


def _add_yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask before changing anything")


def confirmation(args: argparse.Namespace, output: Output) -> Confirm:
    """Shows what is about to change, and asks where a person sits at a terminal."""

    def confirm(found: Sequence[Difference], download: Download) -> None:
        lines = [f"  {item}" for item in found]
        size = f" ({fetching(download.size, download.full)} to fetch)" if download.full else ""
        output.reporter.message("\n".join([f"changes{size}:", *lines]))
        if args.yes or output.json or not sys.stdin.isatty():
            return
        sys.stderr.write("Go on? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise RefusedError("cannot go on: not confirmed", resolution="nothing has changed")

    return confirm


def _device() -> PackageDevice:
    from updater.packages.device import open_packages

    return open_packages(who=requested_by())


def _versioned(args: argparse.Namespace) -> list[str]:
    """The packages as NAME or NAME=VERSION."""
    words: list[str] = args.packages
    if args.to is None:
        return words
    if len(words) != 1 or "=" in words[0]:
        raise RefusedError(
            "cannot use --to: it is for one package", resolution="write NAME=VERSION for each"
        )
    return [f"{words[0]}={args.to}"]


def report(done: Outcome, output: Output, nothing: str) -> int:
    number = done.generation.number if done.generation else None
    for note in delta_notes(done.arrivals):
        output.reporter.message(note)
    data: dict[str, object] = {
        "generation": number,
        "seconds": done.seconds,
        "changes": [
            {
                "verb": item.verb,
                "package": item.name,
                "from": item.before.version if item.before else None,
                "to": item.after.version if item.after else None,
            }
            for item in done.differences
        ],
        "fetched": fetched_document(done.arrivals),
        "waiting": {},
        "refused": {},
    }
    if done.generation is None:
        output.result(data, nothing)
        return 0
    lines = [str(item) for item in done.differences]
    waiting: dict[str, list[str]] = {}
    refused: dict[str, dict[str, str]] = {}
    for active in done.activation.packages if done.activation else ():
        if active.waiting:
            waiting[active.name] = list(active.waiting)
            lines.append(
                f"{active.name} waits for its configuration: orbital package run {active.name}"
            )
        for service, capability in active.refused:
            refused.setdefault(active.name, {})[service] = capability
            lines.append(
                f"{active.name}: service {service} does not run: this system does not grant "
                f"{capability}"
            )
    data["waiting"], data["refused"] = waiting, refused
    lines += fetched_lines(done.arrivals)
    lines.append(f"committed as generation {number}, switched in {done.seconds:.1f} s")
    output.result(data, "\n".join(lines))
    return 0


def _install(args: argparse.Namespace, output: Output) -> int:
    from updater.packages import lifecycle

    done = lifecycle.install(
        _device(),
        _versioned(args),
        lifecycle.Terms(requested_by(), args.source, confirmation(args, output)),
        output.reporter,
        start=not args.no_start,
    )
    return report(done, output, "nothing to do: installed already")


def _update(args: argparse.Namespace, output: Output) -> int:
    from updater.packages import lifecycle

    terms = lifecycle.Terms(requested_by(), args.source, confirmation(args, output))
    done = lifecycle.update(_device(), _versioned(args), terms, output.reporter)
    return report(done, output, "nothing to do: up to date")


def _enable(args: argparse.Namespace, output: Output) -> int:
    return _switch(args, output, enabled=True)


def _disable(args: argparse.Namespace, output: Output) -> int:
    return _switch(args, output, enabled=False)


def _switch(args: argparse.Namespace, output: Output, *, enabled: bool) -> int:
    from updater.packages import lifecycle

    terms = lifecycle.Terms(requested_by())
    done = lifecycle.switch(_device(), args.packages, terms, output.reporter, enabled=enabled)
    return report(done, output, f"nothing to do: {'enabled' if enabled else 'disabled'} already")


def _remove(args: argparse.Namespace, output: Output) -> int:
    from updater.packages import lifecycle

    done = lifecycle.remove(
        _device(),
        args.packages,
        lifecycle.Terms(requested_by(), confirm=confirmation(args, output)),
        output.reporter,
        with_dependents=args.with_dependents,
    )
    return report(done, output, "nothing to do")


def _rollback(args: argparse.Namespace, output: Output) -> int:
    from updater.packages import lifecycle

    terms = lifecycle.Terms(requested_by(), confirm=confirmation(args, output))
    done = lifecycle.rollback(_device(), args.package, terms, output.reporter)
    return report(done, output, "nothing to do: the set is the same")


def _gc(args: argparse.Namespace, output: Output) -> int:
    from updater.packages import lifecycle

    found, finished = lifecycle.collect(_device(), dry_run=args.dry_run)
    verb = "would free" if args.dry_run else "freed"
    lines = [f"{verb} {amount(found.bytes)}: {len(found.images)} images, "
             f"{len(found.layers)} state layers, {len(found.generations)} records"]  # fmt: skip
    if finished:
        lines.insert(0, finished)
    if found.held_images or found.held_layers:
        lines.append(
            f"kept, because programs use them: {len(found.held_images)} images, "
            f"{len(found.held_layers)} state layers"
        )
    output.result(
        {
            "finished": finished,
            "bytes": found.bytes,
            "removed": [] if args.dry_run else list(found.images),
            "images": list(found.images),
            "layers": [list(layer) for layer in found.layers],
            "generations": list(found.generations),
            "held_images": list(found.held_images),
            "held_layers": [list(layer) for layer in found.held_layers],
        },
        "\n".join(lines),
    )
    return 0


def _configure(args: argparse.Namespace, output: Output) -> int:
    from updater.packages import configure as values
    from updater.packages.outcome import audited

    device = _device()
    if args.values or args.unset:
        who = requested_by()
        with audited(device, "package.configure", args.package, who):
            done = values.configure(
                device,
                args.package,
                _qualified(args.values),
                args.unset,
                who=who,
                reporter=output.reporter,
            )
        if not args.show:
            return report(done, output, "nothing to do: these values are set already")
    manifest, merged, own = values.present(device, args.package)
    lines = []
    for item in manifest.slices:
        for key, value in merged[item.name].items():
            origin = "" if key in own.get(item.name, {}) else "  (default)"
            lines.append(f"{item.name}.{key}={json.dumps(value)}{origin}")
    output.result(
        {"package": args.package, "values": merged, "set": own},
        "\n".join(lines) or f"{args.package} has nothing to configure",
    )
    return 0


def _qualified(words: Sequence[str]) -> list[str]:
    """SLICE KEY=VALUE KEY=VALUE as SLICE.KEY=VALUE SLICE.KEY=VALUE."""
    found, prefix = [], ""
    for word in words:
        if "=" in word:
            found.append(f"{prefix}{word}")
        else:
            prefix = f"{word}."
    return found


def _failed(args: argparse.Namespace, output: Output) -> int:
    from updater.packages import failed, lifecycle
    from updater.packages.device import open_packages

    device = open_packages(who=failed.WHO)
    try:
        done = failed.contain(device, args.package, output.reporter, lifecycle.back_of(device))
    except OrbitalError as error:
        failed.note_refusal(device, args.package, error)
        raise
    output.result(
        {"package": args.package, "action": done.action, "reason": done.reason},
        f"{args.package} {done.version}: {done.action}: {done.reason}",
    )
    return 0
