"""The running system goes from one package set to another, and back."""

from __future__ import annotations

from collections.abc import Callable

from recovery.errors import OrbitalError
from recovery.generations import Generation
from recovery.packages.host import Activation, PackageHost
from recovery.reporter import Reporter
from updater.packages.study import Study


class Unhealthy(Exception):
    """The new set was activated and does not work.

    failures: why, by package. judged: services were started and their checks
    failed, so it is the version that is bad; not when an image could not be
    mounted.
    """

    def __init__(self, failures: dict[str, str], *, judged: bool) -> None:
        super().__init__("; ".join(f"{name}: {why}" for name, why in sorted(failures.items())))
        self.failures = failures
        self.judged = judged


def switch(
    host: PackageHost,
    new: Generation,
    known: Study,
    reporter: Reporter,
    *,
    prepare: Callable[[Generation], None],
    judge: bool = True,
) -> Activation:
    """Stops what changes, activates the new set, migrates, starts, checks.

    judge: a check that fails is a reason to go back. Raises Unhealthy,
    OrbitalError or OSError; the caller then goes back.
    """
    reporter.stage("stop services")
    host.stop(known.affected)
    # Nothing writes to the state layers any more: they may be copied.
    prepare(new)
    reporter.stage("activate")
    activation = host.activate(new)
    failures = {name: why for name, why in activation.failures.items() if name in known.affected}
    if failures:
        raise Unhealthy(failures, judged=False)
    for step in known.migrations:
        reporter.stage(f"migrate the state of {step.entry.name}")
        host.migrate(step.entry, step.source, step.target)
    reporter.stage("start services")
    host.start(known.start)
    failures = host.check(known.start) if judge else {}
    if failures:
        raise Unhealthy(failures, judged=True)
    return activation


def restore(host: PackageHost, old: Generation, known: Study) -> str:
    """Brings the old set back; returns why that failed, or "".

    Tries every step whatever the one before says: half a set back is better
    than none.
    """
    problems = []
    steps: tuple[Callable[[], object], ...] = (
        lambda: host.stop(known.affected),
        lambda: host.activate(old),
        lambda: host.start(known.start_old),
    )
    for step in steps:
        try:
            step()
        except (OrbitalError, OSError) as error:
            problems.append(str(error).splitlines()[0])
    return "; ".join(problems)
