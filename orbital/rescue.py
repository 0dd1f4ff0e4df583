"""orbital rescue: what the rescue system does, and what a person lets it do."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from orbital.output import Output, PlainReporter
from recovery import mounts
from recovery.boot import SLOT_FILE
from recovery.bootcontrol.tryboot import REBOOT_PARAMETER
from recovery.errors import OrbitalError, RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.starts import Action
    from updater.rescue_visit import Course


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of the group."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="what the rescue system does by itself, then a menu",
        description="Started on the console by the rescue system's init. Does the repairs in "
        "their order unless a person asked for rescue; then offers a menu.",
    )
    run.set_defaults(handler=_run)

    diagnose = commands.add_parser(
        "diagnose",
        help="what is damaged, and what would be done",
        description="Checks boot control and state, reads and verifies both slots. Repairs "
        "nothing.",
    )
    diagnose.set_defaults(handler=_diagnose)

    repair = commands.add_parser(
        "repair",
        help="do what rescue does by itself",
        description="Repairs boot control and state, lets a whole slot start or installs one, "
        "in the documented order, as if nobody had asked for rescue.",
    )
    _restart_option(repair)
    repair.set_defaults(handler=_repair)

    install = commands.add_parser(
        "reinstall",
        help="install the committed version again, or a newer one",
        description="Installs with the ordinary trust rules; what is whole in the slot is kept. "
        "Without --from it looks at sticks, then at the configured source.",
    )
    install.add_argument("--slot", choices=("a", "b"), help="only into this slot")
    install.add_argument(
        "--from", dest="source", metavar="DIR_OR_URL", help="the repository to use"
    )
    _restart_option(install)
    install.set_defaults(handler=_reinstall)

    reset = commands.add_parser(
        "reset",
        help="factory reset: no packages, no configuration",
        description="Takes the device back to what its image was delivered with. User data in "
        "/var stay, unless --erase. The installed version stays.",
    )
    reset.add_argument(
        "--erase", action="store_true", help="erase all data: securely, where the disk offers it"
    )
    _restart_option(reset)
    reset.set_defaults(handler=_reset)

    start = commands.add_parser(
        "start",
        help="let a slot start",
        description="Makes the boot loader start the slot next (default: the committed one), "
        "whatever is known of it.",
    )
    start.add_argument("slot", nargs="?", choices=("a", "b"), help="the slot")
    _restart_option(start)
    start.set_defaults(handler=_start)


def _restart_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-restart", action="store_true", help="do not restart afterwards")


def open_course(output: Output) -> Course:
    """This device in its rescue system. Raises RefusedError in an installed system."""
    from recovery import device
    from recovery.rescue.diagnosis import Site
    from updater.rescue_visit import Course

    if Path("/", SLOT_FILE).exists():
        raise RefusedError(
            "cannot do this here: an installed system runs",
            resolution="restart into the rescue system first: orbital system rescue",
        )
    return Course(Site(device.load(), output.reporter))


def restart(course: Course) -> None:
    """Restarts the machine. Returns only where that is not possible."""
    course.site.reporter.message("restarting")
    try:
        course.site.state.unmount()
    except OSError as error:
        course.site.reporter.message(f"the state partition stays mounted: {error.strerror}")
    parameter = Path("/", REBOOT_PARAMETER)
    mounts.restart(parameter.read_text().strip() if parameter.is_file() else "")


def _run(_args: argparse.Namespace, output: Output) -> int:
    from orbital.rescue_console import Console, Spoken

    course = open_course(output)
    # Whole lines, no bar: this console is as often a serial line that is recorded as a screen.
    course.site.reporter = Spoken(PlainReporter(sys.stderr))
    return Console(course, lambda: restart(course)).run()


def _diagnose(_args: argparse.Namespace, output: Output) -> int:
    from recovery.rescue.decide import next_repair
    from updater.rescue_visit import as_document, described

    course = open_course(output)
    with course.site.lock():
        found = course.site.diagnose()
    site = course.site
    output.result(as_document(site, found, next_repair(found)), "\n".join(described(site, found)))
    return 0


def _repair(args: argparse.Namespace, output: Output) -> int:
    course = open_course(output)
    course.site.forget_person()
    waits = course.by_itself()
    if waits is not None:
        raise OrbitalError(
            f"cannot repair this device: {waits.reason}",
            details="\n".join(course.problems),
            resolution=course.what_to_bring(),
        )
    output.result({"repaired": True}, "repaired")
    return _done(args, course)


def _reinstall(args: argparse.Namespace, output: Output) -> int:
    course = open_course(output)
    with course.site.lock():
        course.site.diagnose(slots=False)
        if args.source:
            done = course.reinstall(args.source, insist=True, slot=args.slot)
        else:
            done = course.reinstall_from_anywhere(insist=True, slot=args.slot)
    output.result(
        {
            "version": done.version,
            "slot": done.slot,
            "fetched": done.fetched,
            "kept": done.kept,
            "written": done.written,
        },
        f"{done.version} is in slot {done.slot} and starts next",
    )
    return _done(args, course)


def _reset(args: argparse.Namespace, output: Output) -> int:
    course = open_course(output)
    action: Action = "erase" if args.erase else "reset"
    with course.site.lock():
        course.site.diagnose(slots=False)
        course.reset(action)
    output.result({"action": action}, "done")
    return _done(args, course)


def _start(args: argparse.Namespace, output: Output) -> int:
    course = open_course(output)
    with course.site.lock():
        course.site.diagnose(slots=False)
        committed = course.site.committed()
        slot = args.slot or (committed.slot if committed is not None else "a")
        course.start(slot, counted=False)
    output.result({"slot": slot}, f"slot {slot} starts next")
    return _done(args, course)


def _done(args: argparse.Namespace, course: Course) -> int:
    if not args.no_restart:
        restart(course)
    return 0
