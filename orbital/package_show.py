"""The commands of orbital package that show something, or run a package's program."""

from __future__ import annotations

import argparse
import sys
import time

from orbital.output import Output
from orbital.system import requested_by
from recovery.errors import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from updater.packages.device import PackageDevice
    from updater.packages.status import PackageStatus

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def configure(commands: Commands) -> None:
    """Adds the commands."""
    show = commands.add_parser(
        "list",
        help="what is installed, and how it does",
        description="Shows every installed package: version, state of its services, dates.",
    )
    show.set_defaults(handler=_list)

    info = commands.add_parser(
        "info",
        help="all about one package",
        description="Shows version, services and their state, when it was first installed and "
        "last updated, who needs it, versions in quarantine, and old versions still in use.",
    )
    info.add_argument("package", metavar="NAME")
    info.set_defaults(handler=_info)

    reason = commands.add_parser(
        "why",
        help="why a package is installed",
        description="Shows every chain from a package that somebody asked for down to this one.",
    )
    reason.add_argument("package", metavar="NAME")
    reason.set_defaults(handler=_why)

    past = commands.add_parser(
        "history",
        help="what happened to packages, and when",
        description="Shows installations, updates, removals and rollbacks with date, result and "
        "who asked; from the audit trail.",
    )
    past.add_argument("package", nargs="?", metavar="NAME")
    past.add_argument("--last", type=int, metavar="N", help="only the last N events")
    past.set_defaults(handler=_history)

    run = commands.add_parser(
        "run",
        help="run a program of a package in its sandbox",
        description="Runs one of the package's programs with what it sees and may do; ends with "
        "its exit code. A program keeps the version it was started with. When it is the "
        "package's configure program and succeeds, services that waited for it start.",
    )
    run.add_argument("package", metavar="PACKAGE")
    run.add_argument("program", nargs="?", metavar="PROGRAM", help="not needed if there is one")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS")
    run.set_defaults(handler=_run)

    opening = commands.add_parser(
        "open",
        help="open a file or an address with the package that handles it",
        description="Runs the program that an installed package has registered for the file's "
        "suffix or the address's scheme, in its sandbox; without TARGET shows what is registered.",
    )
    opening.add_argument("target", nargs="?", metavar="TARGET")
    opening.set_defaults(handler=_open)

    logs = commands.add_parser(
        "logs",
        help="what the services of a package said",
        description="Shows the journal of the package's services and their checks.",
    )
    logs.add_argument("package", metavar="PACKAGE")
    logs.add_argument("service", nargs="?", metavar="SERVICE")
    logs.add_argument(
        "-n", "--lines", type=int, default=50, metavar="N", help="the last N lines (default 50)"
    )
    logs.add_argument("--follow", "-f", action="store_true", help="wait for more, until Ctrl-C")
    logs.set_defaults(handler=_logs)

    metrics = commands.add_parser(
        "metrics",
        help="metrics of packages and services in Prometheus text format",
        description="Prints CPU, memory, IO, restarts, start time and health of each service, "
        "versions and dates of packages, and what services say of themselves.",
    )
    metrics.add_argument("package", nargs="?", metavar="NAME", help="only of this package")
    metrics.add_argument(
        "--serve",
        action="store_true",
        help="answer one HTTP request on stdin (for orbital-metrics.socket)",
    )
    metrics.set_defaults(handler=_metrics)


def _device() -> PackageDevice:
    from updater.packages.device import open_packages

    return open_packages(who=requested_by())


def _list(_args: argparse.Namespace, output: Output) -> int:
    from updater.packages import status

    found = status.inspect(_device())
    rows = [("NAME", "VERSION", "STATE", "INSTALLED", "UPDATED", "")]
    for item in found:
        note = [] if item.requested else [f"for {', '.join(item.needed_by) or 'nobody'}"]
        note += [f"old version in use: {version}" for version in item.old_in_use]
        note += [item.failure] if item.failure else []
        rows.append(
            (
                item.name,
                item.version,
                item.state,
                _date(item.installed),
                _date(item.updated),
                "; ".join(note),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join([*(row[column].ljust(widths[column]) for column in range(5)), row[5]]).rstrip()
        for row in rows
    ]
    output.result(
        {"packages": [item.document() for item in found]},
        "\n".join(lines) if found else "no packages are installed",
    )
    return 0


def _info(args: argparse.Namespace, output: Output) -> int:
    from updater.packages import status

    found = status.find(_device(), args.package)
    # Of a library: the newest version, and the others beside it.
    *others, newest = found
    output.result(
        {**newest.document(), "other_versions": [item.document() for item in others]},
        "\n\n".join(_paragraph(item) for item in found),
    )
    return 0


def _paragraph(item: PackageStatus) -> str:
    rows = [
        ("package", f"{item.name} {item.version} ({item.kind})"),
        ("summary", item.summary),
        ("publisher", item.publisher),
        ("state", item.state + (f": {item.failure}" if item.failure else "")),
        ("first installed", _moment(item.installed)),
        ("updated", _moment(item.updated) if item.updated != item.installed else ""),
        ("asked for", "yes" if item.requested else "no, installed for others"),
        ("needs", ", ".join(item.needs)),
        ("needed by", ", ".join(item.needed_by)),
        ("capabilities", ", ".join(item.capabilities)),
        ("programs", ", ".join(item.programs)),
        ("goes back to", item.earlier.version if item.earlier else ""),
        ("old in use", ", ".join(item.old_in_use)),
    ]
    rows += [
        ("service", f"{service.name}: {service.state}"
         + (f", {service.restarts} restarts" if service.restarts else ""))
        for service in item.services
    ]  # fmt: skip
    rows += [("quarantined", f"{version}: {reason}") for version, reason in item.quarantined]
    return "\n".join(f"{name + ':':<17}{value}" for name, value in rows if value)


def _why(args: argparse.Namespace, output: Output) -> int:
    from updater.packages import status

    found = status.why(_device(), args.package)
    lines = []
    for chain in found:
        if len(chain) == 1:
            lines.append(f"{chain[0]}: somebody asked for it")
        else:
            lines.append(f"{chain[0]} (asked for) needs " + ", which needs ".join(chain[1:]))
    output.result(
        {"package": args.package, "chains": [list(chain) for chain in found]},
        "\n".join(lines) or f"nothing needs {args.package} any more",
    )
    return 0


def _history(args: argparse.Namespace, output: Output) -> int:
    from recovery.value import fields
    from updater.packages import past

    found = past.events(_device(), args.package)
    if args.last is not None:
        found = found[-args.last :] if args.last > 0 else ()
    lines = [
        f"{_moment(entry.time)}  {entry.what.removeprefix('package.'):<10} {entry.subject}  "
        f"{entry.result}, asked by {entry.who}"
        + "".join(f"\n    {line}" for line in entry.detail.splitlines())
        for entry in found
    ]
    output.result({"events": [fields(entry) for entry in found]}, "\n".join(lines) or "nothing yet")
    return 0


def _run(args: argparse.Namespace, _output: Output) -> int:
    from updater.packages import run

    arguments = list(args.arguments)
    if arguments[:1] == ["--"]:
        del arguments[0]
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return run.run(
        _device(), args.package, args.program, arguments, terminal=terminal, who=requested_by()
    )


def _open(args: argparse.Namespace, output: Output) -> int:
    from updater.packages import associations, run

    device = _device()
    handlers = associations.load(device.root)
    if args.target is None:
        lines = [
            f"{item.kind:<9} {item.match:<16} {item.package} {item.program}" for item in handlers
        ]
        rows = [
            {"kind": i.kind, "match": i.match, "package": i.package, "program": i.program}
            for i in handlers
        ]
        output.result({"associations": rows}, "\n".join(lines) or "nothing is registered")
        return 0
    handler = associations.handler_of(args.target, handlers)
    opened = associations.file_to_show(args.target) if handler.kind == "file" else None
    return run.run(
        device,
        handler.package,
        handler.program,
        [] if opened else [args.target],
        terminal=sys.stdin.isatty() and sys.stdout.isatty(),
        who=requested_by(),
        opened=opened,
    )


def _logs(args: argparse.Namespace, output: Output) -> int:
    from updater.packages import configure, logs

    if args.follow and output.json:
        raise RefusedError("cannot follow with --json", resolution="leave out one of them")
    device = _device()
    entry, manifest = configure.installed(
        device, device.committed(device.store.load()), args.package
    )
    words = logs.command(entry, manifest, args.service, args.lines, follow=args.follow)
    if output.json:
        output.result({"package": args.package, "entries": logs.read(words)}, "")
        return 0
    return logs.show(words)


def _metrics(args: argparse.Namespace, output: Output) -> int:
    from updater.packages import metrics

    if args.serve:
        from updater.packages import scrape

        status = scrape.answer(
            sys.stdin.buffer, sys.stdout.buffer, lambda: metrics.collect(_device())
        )
        return 0 if status == 200 else 1
    text = metrics.collect(_device(), args.package)
    output.result({"format": metrics.CONTENT_TYPE, "text": text}, text.rstrip("\n"))
    return 0


def _date(moment: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(moment))


def _moment(moment: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
