"""orbital system: update, roll back and inspect this device's operating system."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pwd
import time
from datetime import datetime

from orbital.fetched import delta_notes, fetched_document, fetched_lines, fetching
from orbital.output import Output, amount
from recovery import process
from recovery.errors import RefusedError
from recovery.value import fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.starts import Action

_REBOOT = "reboot to start it: systemctl reboot"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of the group."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    change = commands.add_parser(
        "update",
        help="install a newer version into the other slot",
        description="Fetches, verifies and installs an image into the slot that does not run. "
        "The next boot tries it; if it is not healthy, the device goes back by itself. "
        "An interrupted update continues where it stopped. What the running image has of the new "
        "one is not fetched: by a delta if there is one from the running version, by looking "
        "through the running image if not.",
    )
    change.add_argument(
        "--check", action="store_true", help="only say what would be installed; change nothing"
    )
    change.add_argument("--to", metavar="VERSION", help="install this version, not the newest")
    change.add_argument(
        "--source",
        metavar="DIR_OR_URL",
        help="repository to use: a URL, or a directory such as a mounted stick "
        "(default: the configured one)",
    )
    change.add_argument("--reboot", action="store_true", help="reboot when something was installed")
    change.add_argument(
        "--unattended",
        action="store_true",
        help="obey the update policy: do nothing unless automatic and inside the window",
    )
    change.add_argument(
        "--ignore-budget",
        action="store_true",
        help="fetch more than the update policy allows in one update or in a month",
    )
    change.add_argument(
        "--prefer",
        choices=("bytes", "time"),
        help="what to spare where both cannot be had (default: the update policy's, which is bytes "
        "if it does not say); without effect while there is a budget",
    )
    change.set_defaults(handler=_update)

    show = commands.add_parser(
        "status",
        help="what runs, what is on trial, what the loader starts next",
        description="Shows the running generation, trial, probation, quarantine and policy.",
    )
    show.set_defaults(handler=_status)

    past = commands.add_parser(
        "history",
        help="every outcome with its reason",
        description="Shows what was installed, committed and rolled back: when, from what to "
        "what, why, and who asked.",
    )
    past.add_argument("--last", type=int, metavar="N", help="only the last N events")
    past.set_defaults(handler=_history)

    back = commands.add_parser(
        "rollback",
        help="go back to the generation before",
        description="Puts the previous generation, with its configuration, on trial for the "
        "next boot.",
    )
    back.add_argument("--reboot", action="store_true", help="reboot at once")
    back.set_defaults(handler=_rollback)

    rescue = commands.add_parser(
        "rescue",
        help="restart into the rescue system",
        description="Restarts this device into its rescue system, which then does nothing by "
        "itself: it shows what it finds and waits for a person on the console, or on the network "
        "if the product allows it.",
    )
    rescue.add_argument("--reason", default="", metavar="TEXT", help="shown there")
    rescue.add_argument(
        "--no-restart", action="store_true", help="only ask; the next restart goes there"
    )
    rescue.set_defaults(handler=_rescue)

    reset = commands.add_parser(
        "reset",
        help="factory reset, by the rescue system",
        description="Restarts into the rescue system, which takes the device back to what its "
        "image was delivered with: no packages, no configuration. User data in /var stay, unless "
        "--erase. The installed version stays.",
    )
    reset.add_argument(
        "--erase",
        action="store_true",
        help="erase all data: securely, where the disk offers it",
    )
    reset.add_argument(
        "--no-restart", action="store_true", help="only ask; the next restart does it"
    )
    reset.set_defaults(handler=_reset)

    check = commands.add_parser(
        "health",
        help="run the health checks now",
        description="Runs the checks that a boot must pass, and shows each result. Exit code 1 "
        "when one fails. Changes nothing.",
    )
    check.set_defaults(handler=_health)


def requested_by() -> str:
    """Who runs this command, for the history: the person behind sudo, if there is one."""
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _update(args: argparse.Namespace, output: Output) -> int:
    from updater import unattended
    from updater.budget import Budget
    from updater.device import open_device
    from updater.policy import load_policy
    from updater.update import Request, check, update

    device = open_device()
    policy = load_policy(device.config)
    if args.unattended:
        waiting = unattended.reason_to_wait(policy, datetime.now())
        if waiting:
            output.result({"installed": None, "reason": waiting}, f"nothing to do: {waiting}")
            return 0
    request = Request(
        source=args.source or policy.source,
        to=args.to,
        requested_by="timer" if args.unattended else requested_by(),
        budget=Budget()
        if args.ignore_budget
        else Budget(policy.budget_update, policy.budget_month),
        prefer=args.prefer or policy.prefer,
    )
    version = device.config.version
    if args.check:
        offer = check(device, request)
        if offer.release is None or offer.plan is None:
            output.result({"running": version, "offer": None}, f"up to date: {version}")
            return 0
        plan, parcels = offer.plan, offer.parcels
        output.result(
            {
                "running": version,
                "offer": plan.version,
                "summary": offer.release.summary,
                "fetch_bytes": plan.fetch_bytes,
                "full_bytes": plan.full_bytes,
                "way": plan.way.kind,
                "delta_from": plan.way.from_version or None,
                "notes": list(offer.notes),
                "slot": plan.slot,
                "packages": [
                    {
                        "package": parcel.name,
                        "version": parcel.release.version,
                        "fetch_bytes": parcel.fetch_bytes,
                        "full_bytes": parcel.full_bytes,
                        "delta_from": parcel.from_version or None,
                    }
                    for parcel in (parcels.missing if parcels else ())
                ],
                "actions": [dataclasses.asdict(action) for action in plan.actions],
            },
            f"{plan.version} can be installed over {version}: at most "
            f"{fetching(plan.fetch_bytes, plan.full_bytes)} to fetch"
            + (
                f", for packages {fetching(parcels.fetch_bytes, parcels.full_bytes)}"
                if parcels and parcels.missing
                else ""
            )
            + "".join(f"\n{text}" for text in (*offer.notes, offer.release.summary) if text),
        )
        return 0
    try:
        outcome = update(device, request, output.reporter)
    except RefusedError as error:
        if not args.unattended:
            raise
        # For the timer a refusal is an ordinary day: a trial waits for its
        # reboot, a version is quarantined, somebody else is at work.
        output.result({"installed": None, "reason": str(error)}, f"nothing to do: {error}")
        return 0
    done = outcome.installed
    if done is None:
        output.result({"running": version, "installed": None}, f"up to date: {version}")
        return 0
    for note in (*done.notes, *delta_notes(outcome.packages)):
        output.reporter.message(f"note: {note}")
    reboot = args.reboot and (not args.unattended or policy.reboot)
    output.result(
        {
            "running": version,
            "installed": dataclasses.asdict(done),
            "packages": fetched_document(outcome.packages),
            "rebooting": reboot,
        },
        "".join(f"{line}\n" for line in fetched_lines(outcome.packages))
        + f"installed {done.version} into slot {done.slot} as generation {done.generation}: "
        f"{fetching(done.fetched, done.full)} fetched, {amount(done.copied)} taken from the "
        f"running image, {amount(done.kept)} kept, {amount(done.written)} written"
        + ("" if reboot else f"\n{_REBOOT}"),
    )
    if reboot:
        _reboot(output)
    return 0


def _status(_args: argparse.Namespace, output: Output) -> int:
    from updater import status
    from updater.device import open_device
    from updater.policy import load_policy

    device = open_device()
    device = dataclasses.replace(
        device, config=dataclasses.replace(device.config, update=load_policy(device.config))
    )
    found = status.inspect(device)
    output.result(status.document(device, found), status.text(device, found))
    return 0


def _history(args: argparse.Namespace, output: Output) -> int:
    from recovery.state import StateStore

    events = StateStore().history.events()
    if args.last is not None:
        events = events[-args.last :] if args.last > 0 else ()
    lines = []
    for event in events:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
        change = f"{event.from_version or '?'} → {event.to_version}"
        lines.append(
            f"{when}  {event.event:<16} {change}  generation {event.generation}, "
            f"slot {event.slot}, asked by {event.requested_by or '?'}"
            + (f"\n    {event.reason}" if event.reason else "")
        )
    output.result(
        {"events": [fields(event) for event in events]}, "\n".join(lines) or "nothing yet"
    )
    return 0


def _rollback(args: argparse.Namespace, output: Output) -> int:
    from recovery.rollback import request_rollback
    from updater.device import open_device

    device = open_device()
    with device.store.lock("orbital system rollback"):
        generation = request_rollback(
            device.store,
            device.boot_control,
            requested_by(),
            tries=device.config.trial.tries,
        )
    output.result(
        {"generation": fields(generation), "rebooting": args.reboot},
        f"going back to {generation.version} in slot {generation.slot} "
        f"as generation {generation.number}" + ("" if args.reboot else f"\n{_REBOOT}"),
    )
    if args.reboot:
        _reboot(output)
    return 0


def _health(_args: argparse.Namespace, output: Output) -> int:
    from recovery import device, health

    results = health.run_checks(device.load().health)
    healthy = all(result.passed for result in results)
    lines = [
        f"{'passed' if result.passed else 'FAILED'}  {result.name}"
        + (f": {result.detail}" if result.detail else "")
        for result in results
    ]
    output.result(
        {"healthy": healthy, "checks": [fields(result) for result in results]},
        "\n".join(lines) or "no health checks are declared",
    )
    return 0 if healthy else 1


def _rescue(args: argparse.Namespace, output: Output) -> int:
    return _to_rescue(output, args.reason, "", not args.no_restart)


def _reset(args: argparse.Namespace, output: Output) -> int:
    return _to_rescue(output, "", "erase" if args.erase else "reset", not args.no_restart)


def _to_rescue(output: Output, reason: str, action: Action, restart: bool) -> int:
    from recovery import device
    from recovery.rescue.request import ask

    ask(device.load(), requested_by(), reason, action)
    what = {"": "the rescue system", "reset": "a factory reset", "erase": "erasing all data"}
    output.result(
        {"rescue": True, "action": action, "rebooting": restart},
        f"the next start is for {what[action]}" + ("" if restart else f"\n{_REBOOT}"),
    )
    if restart:
        _reboot(output)
    return 0


def _reboot(output: Output) -> None:
    output.reporter.message("rebooting")
    # Not `systemctl reboot`: it asks logind first, which a small product does not have.
    process.run(
        ["systemctl", "start", "reboot.target", "--job-mode=replace-irreversibly", "--no-block"],
        timeout=60,
    )
