"""What a cycle of the soak in QEMU does, and where the device may be after it (pure).

What runs is an OS version with a set of packages. A cut leaves one of the sets on the way from
before to after, never anything else; without a cut, the end.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["good", "ill", "rollback", "packages"]

# Each of the good ones may follow the other: the publisher of the lab permits the way down.
GOOD = ("1.0", "2.0")
# Fails a health check.
ILL = "3.0"
PACKAGE = "counter"
GOOD_PACKAGES = ("1.0", "1.1")
ILL_PACKAGE = "1.2"

WEIGHTS: Mapping[Kind, int] = {"good": 26, "ill": 9, "rollback": 15, "packages": 50}
_CUT = 0.5
# Of the starts after a cut, this many are cut, too.
_CUT_AGAIN = 0.25
# Within these seconds of such a start: about as long as it takes.
_START_SECONDS = 40.0
# Beyond the undisturbed length, so that a cut right after the end occurs, too.
_BEYOND = 1.2


@dataclass(frozen=True)
class Runs:
    """An OS version and its packages ("counter 1.0"), sorted."""

    version: str
    packages: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " + ".join([self.version, *self.packages])


@dataclass(frozen=True)
class Standing:
    """What is committed, and what the device could go back to. refused: the package's version
    that fails has failed here: an update of the OS no longer tries it."""

    now: Runs
    back: Runs | None
    refused: bool = False


@dataclass(frozen=True)
class Step:
    """One command in the guest. after: what is committed when it has worked. works: it must."""

    command: str
    after: Runs
    works: bool = True


@dataclass(frozen=True)
class Cycle:
    """kind, with how many commands: "packages 2". cuts: seconds after the begin, after a start."""

    kind: Kind
    steps: tuple[Step, ...]
    before: Runs
    cuts: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """What has one length: the kind, with the number of commands."""
        return f"{self.kind} {len(self.steps)}" if self.kind == "packages" else self.kind

    @property
    def target(self) -> Runs:
        """Where it ends when nobody cuts the power."""
        return self.steps[-1].after

    @property
    def possible(self) -> tuple[Runs, ...]:
        """Where it may end with a cut."""
        return (self.before, *(step.after for step in self.steps))


@dataclass(frozen=True)
class Found:
    """The device at rest, by its records.

    running: whether the committed generation is what runs, with its records usable. kept: versions
    that the console called committed within the cycle. codes: how the commands ended; () after
    a restart. active: whether the service of an installed package runs. sizes: bytes by path.
    """

    standing: Standing
    running: bool
    healthy: bool
    open: str
    active: bool
    kept: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)


def draw(
    dice: random.Random, standing: Standing, source: str, lengths: Mapping[str, Sequence[float]]
) -> Cycle:
    """The next cycle. lengths: seconds of undisturbed ones, by name; without one it is not cut."""
    weights = dict(WEIGHTS)
    if standing.back is None:
        del weights["rollback"]
    kind = dice.choices(list(weights), weights=list(weights.values()))[0]
    cycle = Cycle(kind, _steps(dice, kind, standing, source), standing.now)
    known = lengths.get(cycle.name, ())
    if not known or dice.random() >= _CUT:
        return cycle
    # The last ones: the machine is not always as fast.
    cuts = [dice.uniform(0.5, statistics.median(known[-3:]) * _BEYOND)]
    while dice.random() < _CUT_AGAIN:
        cuts.append(dice.uniform(0.5, _START_SECONDS))
    return Cycle(kind, cycle.steps, standing.now, tuple(round(cut, 1) for cut in cuts))


def _steps(dice: random.Random, kind: Kind, standing: Standing, source: str) -> tuple[Step, ...]:
    now = standing.now
    if kind == "rollback":
        assert standing.back is not None
        return (Step("orbital system rollback --reboot", standing.back),)
    if kind == "packages":
        return _changes(dice, now, source)
    wanted = ILL if kind == "ill" else next(v for v in GOOD if v != now.version)
    after = now if kind == "ill" else Runs(wanted, _brought(standing))
    return (Step(f"orbital system update --source {source} --to {wanted} --reboot", after),)


def _brought(standing: Standing) -> tuple[str, ...]:
    """The packages after an update of the OS, which brings along the newest that has not failed
    here: the one that fails is tried in the trial, and reverted to the present one."""
    packages = standing.now.packages
    return (f"{PACKAGE} {GOOD_PACKAGES[-1]}",) if packages and standing.refused else packages


def _changes(dice: random.Random, now: Runs, source: str) -> tuple[Step, ...]:
    """Installation, an update that may fail, removal: one, two or all three of them."""
    steps: list[Step] = []

    def add(verb: str, version: str, *, works: bool = True) -> None:
        committed = steps[-1].after if steps else now
        chosen = f"{PACKAGE}={version} --source {source}" if version else PACKAGE
        packages = (f"{PACKAGE} {version}",) if version else ()
        after = Runs(now.version, packages) if works else committed
        steps.append(Step(f"orbital package {verb} {chosen}", after, works))

    if not now.packages:
        add("install", dice.choice(GOOD_PACKAGES))
    if now.packages or dice.random() < 0.6:
        installed = (steps[-1].after if steps else now).packages[0].split()[1]
        other = next(version for version in GOOD_PACKAGES if version != installed)
        if dice.random() < 0.4:
            add("update", ILL_PACKAGE, works=False)
        else:
            add("update", other)
    if dice.random() < 0.5:
        add("remove", "")
    return tuple(steps)


def script(cycle: Cycle) -> str:
    """The commands for a shell; each prints its exit code in a line of its own."""
    return "\n".join(f"{step.command}; echo code=$?" for step in cycle.steps)


def codes(output: str) -> tuple[int, ...]:
    """The exit codes that the script printed."""
    found = [line for line in output.splitlines() if line.startswith("code=")]
    return tuple(int(line.removeprefix("code=")) for line in found)


# Prints what `read` reads. No program of the device: Python is slow to start under emulation.
LOOK = f"""\
systemctl is-active orbital-health.service boot-complete.target orbital.{PACKAGE}.count.service
for file in /run/orbital/boot.json /usr/lib/orbital/device.json /state/orbital/state.json \
/state/orbital/generations/*.json; do
    echo "@$file"; cat "$file"
done
echo @sizes; du -sb /state/orbital/* /state/var
"""


def read(text: str) -> Found:
    """What `LOOK` printed. Raises ValueError or KeyError when a record is missing or damaged."""
    units, *parts = text.split("\n@")
    files = dict(part.split("\n", 1) for part in parts)
    record = json.loads(files["/state/orbital/state.json"])
    boot = json.loads(files["/run/orbital/boot.json"])
    version = json.loads(files["/usr/lib/orbital/device.json"])["version"]

    def generation(number: int) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(files[f"/state/orbital/generations/{number}.json"])
        return found

    def runs(found: Mapping[str, Any]) -> Runs:
        packages = [f"{item['name']} {item['version']}" for item in found["packages"]]
        return Runs(found["version"], tuple(sorted(packages)))

    committed, previous = generation(record["committed"]), record["previous"]
    refused = any(
        (item["package"], item["version"]) == (PACKAGE, ILL_PACKAGE)
        for item in record["quarantined"]
    )
    image = (boot["slot"], boot["root_hash"], version)
    health, complete, service = units.splitlines()
    return Found(
        Standing(
            runs(committed),
            runs(generation(previous)) if previous is not None else None,
            refused=refused,
        ),
        running=image == (committed["slot"], committed["root_hash"], committed["version"])
        and not boot["volatile"],
        healthy=health == complete == "active",
        open=open_in(record),
        active=service == "active",
        sizes={
            path.removeprefix("/state/"): int(size)
            for size, path in (line.split("\t", 1) for line in files["sizes"].splitlines())
        },
    )


def open_in(record: Mapping[str, Any]) -> str:
    """What a state record has open: "trial", "probation", "change", or ""."""
    names = [name for name in ("trial", "probation", "change") if record.get(name) is not None]
    return ", ".join(names)


def judge(cycle: Cycle, found: Found, *, cut: bool) -> str:
    """What is wrong, or ""."""
    now = found.standing.now
    if not found.running:
        return f"{now} is committed and does not run"
    if not found.healthy:
        return f"{now} runs and is not healthy"
    if found.open:
        return f"still open: {found.open}"
    if now.packages and not found.active:
        return f"the service of {now.packages[0]} does not run"
    if not cut and now != cycle.target:
        return f"{now} runs, not {cycle.target}: exit codes {found.codes}"
    if now not in cycle.possible:
        return f"{now} runs, which is none of {', '.join(map(str, cycle.possible))}"
    if ILL in found.kept:
        return f"{ILL}, which fails its checks, was committed"
    if found.kept and found.kept[-1] != now.version:
        return f"{found.kept[-1]} was committed, {now} runs"
    if not cut and cycle.kind == "packages":
        expected = tuple(step.works for step in cycle.steps)
        if tuple(code == 0 for code in found.codes) != expected:
            return f"exit codes {found.codes}, must work: {expected}"
    return ""
