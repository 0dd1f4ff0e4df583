"""What Orbital's units run: settle, check, commit, watch. `/usr/lib/orbital/recover ACTION`.

health         what does this boot mean (`recovery.decide`); a trial's health checks
commit         after boot-complete.target: the commit point of a trial
probation      watches a fresh commit until its quiet time is over
migrate NAME   state of a package that came with a trial, before its services start
trial-failed   a trial missed its deadline or could not be judged

Effects only: every decision is in `decide`, every order of writes in `plan`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from recovery import blame, decide, durable, evidence, plan, watch
from recovery.audit import Audit
from recovery.boot import BootReport, load_report, running_record
from recovery.bootcontrol.open import open_boot_control
from recovery.decide import View
from recovery.device import DeviceConfig, HealthCheck
from recovery.device import load as load_config
from recovery.early import PROBATION_FLAG, TRIAL_FLAG, say
from recovery.errors import OrbitalError, StateError
from recovery.generations import Generation
from recovery.observe import view_with
from recovery.packages.host import PackageHost
from recovery.slots import BootControl
from recovery.state import STATE_ROOT, Quarantine, Stage, StateStore
from recovery.steps import apply
from recovery.systemd import ServiceManager, Systemd
from recovery.trial import next_number
from recovery.upkeep import keep_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from recovery.audit import Result

LOCK_WAIT_SECONDS = 60.0
WATCH_PAUSE_SECONDS = 5.0
WATCH_DEADLINE_SECONDS = 30
_REPAIRS_AT_MOST = 5
# What a generation may be to give itself up.
_LEAVABLE = (decide.RunTrial, decide.InProbation, decide.GiveUp, decide.Stranded)

log = logging.getLogger("orbital")


class Agent:
    """This boot of this device; gathers what every action needs."""

    def __init__(
        self,
        config: DeviceConfig,
        store: StateStore,
        boot_control: BootControl,
        report: BootReport,
        *,
        root: Path,
        manager: ServiceManager,
        host: PackageHost | None = None,
    ) -> None:
        """host: None for the device's own, made when packages are to be judged."""
        self.config = config
        self.store = store
        self.boot_control = boot_control
        self.report = report
        self.root = root
        self.manager = manager
        self._host = host

    @property
    def running(self) -> Generation:
        """What runs now. Raises StateError when its record is lost."""
        return running_record(self.report, self.store.load(), self.store.generations.all())

    @property
    def host(self) -> PackageHost:
        """The running system, as packages need it."""
        if self._host is None:
            from recovery.packages.system import SystemHost

            self._host = SystemHost(self.root, "orbital recovery")
        return self._host

    def view(self) -> View:
        """What is durable at this moment."""
        record, generations = self.store.load(), self.store.generations.all()
        return view_with(
            record,
            generations,
            self.boot_control,
            running_record(self.report, record, generations),
            boot_id=self.report.boot_id,
            volatile=self.report.volatile,
        )

    def lock(self, what: str) -> contextlib.AbstractContextManager[None]:
        """The right to change the device."""
        return self.store.lock(f"orbital recovery: {what}", LOCK_WAIT_SECONDS)

    def settle(self) -> decide.Final:
        """Finishes what earlier boots left open; returns what this boot is. Holds the lock."""
        with self.lock("settle"):
            if not self.report.volatile:
                self.boot_control.tidy()
                self.store.tidy()
            for _ in range(_REPAIRS_AT_MOST):
                view = self.view()
                verdict = decide.assess(view)
                if not isinstance(verdict, decide.REPAIRS):
                    return verdict
                kept = evidence.gather(self.root) if isinstance(verdict, decide.FellBack) else ""
                steps = plan.repair(verdict, view, self.config.trial, _now(), kept)
                apply(steps, self.store, self.boot_control)
                name = type(verdict).__name__
                self.audit(f"os.{name}", "done", verdict.reason, verdict.generation)
                self.manager.say(f"generation {verdict.generation}: {name}: {verdict.reason}")
        raise StateError("cannot settle this boot: repairs do not end")

    def health(self) -> int:
        """Settles, then judges a trial. Returns the exit code: 0 lets boot-complete be reached."""
        if code := self.judge():
            return code
        volatile, say = self.report.volatile, self.manager.say
        keep_up(self.config, self.root, self.store.root.parent, volatile=volatile, say=say)
        return 0

    def judge(self) -> int:
        """The verdict of this boot, carried out."""
        verdict = self.settle()
        log.info("%s: %s", type(verdict).__name__, verdict.reason)
        if isinstance(verdict, decide.GiveUp | decide.Stranded):
            return self.leave(verdict.reason)
        if isinstance(verdict, decide.InProbation):
            self.watch()
        affirm = isinstance(verdict, decide.Settled) and verdict.affirm
        if not isinstance(verdict, decide.RunTrial) and not affirm:
            return 0
        if not affirm:
            self.note("userspace", "")
        failed = run_checks(self.config.health)
        if affirm:
            return self.affirm(failed)
        failed = failed or self.judge_packages()
        if failed:
            return self.leave(failed)
        # What was found healthy is durable before it counts, the files of its services as well.
        durable.sync_filesystem(self.store.root)
        self.note("health", "")
        return 0

    def judge_packages(self) -> str:
        """The packages of a trial: those that fail go back to what they were, in this trial.

        Returns why the trial as a whole has failed, or "".
        """
        tries = len(self.running.packages) + 1
        for _ in range(tries):
            enabled = [entry.name for entry in self.running.packages if entry.enabled]
            failures = self.host.check(enabled) if enabled else {}
            if not failures:
                return ""
            if not self.revert(failures):
                break
        return "; ".join(f"package {name}: {why}" for name, why in sorted(failures.items()))

    def revert(self, failures: Mapping[str, str]) -> bool:
        """Takes failed packages back to the committed generation's; False if that cannot be."""
        with self.lock("revert packages"):
            view = self.view()
            committed = view.find(view.record.committed)
            if committed is None or not isinstance(decide.assess(view), decide.RunTrial):
                return False
            trial = view.running
            depends = {
                entry.name: sorted(self.host.manifest(entry.digest).needs)
                for entry in trial.packages
            }
            number = next_number(view.record, self.store)
            made = blame.reverted(trial, committed, failures, depends, number)
            if made is None:
                return False
            versions = {entry.name: entry.version for entry in trial.packages}
            blamed = tuple(
                Quarantine(versions[name], why, _now(), trial.number, name)
                for name, why in sorted(failures.items())
            )
            apply(plan.revert_in_trial(view, made, blamed, _now()), self.store, self.boot_control)
            back = [
                entry.name for entry in made.packages if versions.get(entry.name) != entry.version
            ]
            for item in blamed:
                self.audit("package.revert", "done", f"{item.package}: {item.reason}")
                self.manager.say(f"reverts package {item.package} {item.version}: {item.reason}")
            self.host.stop(back)
            self.host.activate(made)
            self.host.start(back)
        return True

    def affirm(self, failed: str) -> int:
        """A committed generation that the loader still counts: it may stop, if it is healthy."""
        if failed:
            self.manager.say(f"unhealthy, but committed: {failed}")
            return 1
        slot, control = self.running.slot, self.boot_control
        with self.lock("affirm"):
            if not control.slot_state(slot).bootable:  # The loader had no other to start.
                control.set_active(slot, self.config.trial.tries)
            control.mark_successful(slot)
        return 0

    def note(self, stage: Stage, detail: str) -> None:
        """Writes how far the trial has come."""
        with self.lock("note"):
            steps = plan.note_attempt(self.view(), stage, detail, _now())
            apply(steps, self.store, self.boot_control)

    def leave(self, reason: str) -> int:
        """The running generation has failed: go back, or stay if there is nothing to go back to."""
        with self.lock("give up"):
            view = self.view()
            # Judged again under the lock: while the checks ran, somebody may have
            # committed this generation or armed another one. Then it is not ours to leave.
            current = decide.assess(view)
            if not isinstance(current, _LEAVABLE):
                log.info("stays: %s: %s", type(current).__name__, current.reason)
                return 1
            verdict = decide.give_up(view, reason)
            if isinstance(verdict, decide.Stranded):
                apply(plan.stranded(view, verdict.reason, _now()), self.store, self.boot_control)
                self.manager.say(f"generation {verdict.generation} is unhealthy: {verdict.reason}")
                return 1
            apply(plan.give_up(view, reason, _now()), self.store, self.boot_control)
            self.audit("os.give-up", "failed", reason)
        self.manager.say(f"gives up generation {verdict.generation}, restarts: {reason}")
        self.manager.restart()
        return 1

    def commit(self) -> int:
        """The commit point of the running trial, when it has been found healthy in this boot."""
        with self.lock("commit"):
            view = self.view()
            if not isinstance(decide.assess(view), decide.RunTrial):
                return 0
            if not self.passed(view):
                raise StateError("cannot commit: the running trial has not passed its checks")
            apply(plan.commit(view, self.config.trial, _now()), self.store, self.boot_control)
            record = self.store.load()
            self.audit("os.commit", "done")
        running = self.running
        self.manager.say(f"committed generation {running.number}, version {running.version}")
        (self.root / TRIAL_FLAG).unlink(missing_ok=True)
        if record.probation is not None:
            self.watch()
        return 0

    def watch(self) -> None:
        """Lets the probation be watched in this boot.

        Early boot has said so where it knew of the probation. It knows of none that begins later:
        with the commit, or when `settle` finishes one that was cut.
        """
        flag = self.root / PROBATION_FLAG
        if not flag.exists():
            flag.touch()
            self.manager.start_watch()

    def audit(self, what: str, result: Result, detail: str = "", generation: int = 0) -> None:
        """One entry of the audit trail, about the running generation or the one named."""
        running = self.running
        subject = f"generation {generation or running.number}"
        if not generation or generation == running.number:
            subject += f", {running.system} {running.version}"
        Audit(self.store.root).note(
            what,
            subject,
            result,
            who="orbital recovery",
            detail=detail,
            boot_id=self.report.boot_id,
        )

    def passed(self, view: View) -> bool:
        """Whether the trial was found healthy in this very boot."""
        trial = view.record.trial
        last = trial.attempts[-1] if trial is not None and trial.attempts else None
        return last is not None and (last.boot_id, last.stage, last.detail) == (
            self.report.boot_id,
            "health",
            "",
        )

    def trial_failed(self) -> int:
        """The deadline is over, or the judge itself failed: a trial that is still open goes."""
        view = self.view()
        if not isinstance(decide.assess(view), decide.RunTrial | decide.GiveUp):
            return 0
        trial = view.record.trial
        noted = decide.verdict_of(trial) if trial is not None else ""
        stage = trial.attempts[-1].stage if trial is not None and trial.attempts else "early"
        came = {
            "early": "its health checks never began",
            "userspace": "its health checks did not end",
            "health": "it was healthy, but boot-complete.target was not reached",
        }[stage]
        seconds = self.config.trial.deadline_seconds
        waiting = ", ".join(self.manager.pending_jobs())
        reason = noted or f"not committed {seconds} s after its start: {came}" + (
            f"; still starting: {waiting}" if waiting else ""
        )
        return self.leave(reason) and 0

    def probation(self) -> int:
        """Watches until the quiet time of this boot is over, or something fails."""
        self.settle()
        started = time.monotonic()
        before: dict[str, watch.ServiceState] | None = None
        while True:
            view = self.view()
            verdict = decide.assess(view)
            probation = view.record.probation
            if isinstance(verdict, decide.GiveUp):
                return self.leave(verdict.reason)
            if not isinstance(verdict, decide.InProbation) or probation is None:
                return 0
            services = self.manager.services()
            before = services if before is None else before
            failed = watch.crash_loop(before, services) or self.still_healthy()
            if failed:
                return self.leave(f"on probation: {failed}")
            if time.monotonic() - started >= probation.seconds:
                break
            time.sleep(min(WATCH_PAUSE_SECONDS, max(0.1, probation.seconds / 4)))
        with self.lock("probation"):
            view = self.view()
            if isinstance(decide.assess(view), decide.InProbation):
                apply(plan.probation_passed(view, _now()), self.store, self.boot_control)
                self.store.generations.prune(self.store.load().referenced())
        (self.root / PROBATION_FLAG).unlink(missing_ok=True)
        self.manager.say(f"generation {self.running.number} has passed its probation")
        return 0

    def still_healthy(self) -> str:
        """Runs the checks again with a short deadline; "" when all passed."""
        limit = WATCH_DEADLINE_SECONDS
        return run_checks(
            [
                dataclasses.replace(check, deadline_seconds=min(check.deadline_seconds, limit))
                for check in self.config.health
            ]
        )


def run_checks(checks: Sequence[HealthCheck]) -> str:
    """Names what failed, or "". Imported late: most boots have nothing to check."""
    from recovery import health

    return health.failures(health.run_checks(checks))


def open_agent(root: Path = Path("/")) -> Agent:
    """The agent of the running device. Raises OrbitalError."""
    config = load_config(root)
    return Agent(
        config,
        StateStore(root / STATE_ROOT.relative_to("/")),
        open_boot_control(config, root),
        load_report(root),
        root=root,
        manager=Systemd(),
    )


def _now() -> int:
    return int(time.time())


ACTIONS: dict[str, Callable[[Agent], int]] = {
    "health": Agent.health,
    "commit": Agent.commit,
    "probation": Agent.probation,
    "trial-failed": Agent.trial_failed,
}


def main(arguments: Sequence[str]) -> None:
    """Runs one action and exits with its code; an error is logged and exits with its own."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    migrating = len(arguments) == 2 and arguments[0] == "migrate"
    if not migrating and (len(arguments) != 1 or arguments[0] not in ACTIONS):
        log.error("cannot tell what to do; actions: %s", ", ".join((*ACTIONS, "migrate NAME")))
        sys.exit(2)
    try:
        if migrating:
            from recovery.packages.migrating import migrate

            migrate(arguments[1])
            sys.exit(0)
        sys.exit(ACTIONS[arguments[0]](open_agent()))
    except (OrbitalError, OSError) as error:
        log.error("%s", error)
        say(f"recovery {arguments[0]}: {str(error).splitlines()[0]}")
        sys.exit(getattr(error, "exit_code", 1))
