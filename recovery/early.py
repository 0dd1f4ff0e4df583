"""PID 1 between the initramfs and systemd: state, generation, /etc and /var, then exec systemd.

Everything here runs before any service, on the slowest moment of the slowest
machine: it imports little (see `recovery.value`) and loads the rest only when
something is wrong. An exception ends PID 1, the kernel panics and restarts
(`panic=-1`): for a trial a failed try, and the loader counts.

Order: the attempt is durable before the generation runs; the /etc layer is
whole before it is mounted; `boot.json` tells the rest of the boot.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from recovery import decide, mounts
from recovery.boot import (
    BootReport,
    RunningImage,
    boot_id,
    command_line,
    running_image,
    write_report,
)
from recovery.generations import Generation
from recovery.layer import copy_tree, overlay_options, prepare_layer
from recovery.packages.boot import activate_at_boot
from recovery.partitions import find_partition
from recovery.shape import mend
from recovery.state import StateStore

INIT = "/usr/lib/systemd/systemd"
# The initramfs moves these here; only another kind of boot leaves them to us.
KERNEL_FILE_SYSTEMS = {"proc": "proc", "sys": "sysfs", "dev": "devtmpfs", "run": "tmpfs"}
PARTITION_WAIT_SECONDS = 10
REPAIR_SECONDS = 900
TRIAL_FLAG = "run/orbital/trial"
PROBATION_FLAG = "run/orbital/probation"


def main() -> None:
    """Never returns: becomes systemd, restarts the machine, or raises (and the kernel panics)."""
    try:
        start(Path("/"))
    except BaseException as error:
        say(f"cannot start: {error}")
        raise
    # Python ignores SIGPIPE and may set LC_CTYPE; systemd and its services inherit neither.
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    environment = {key: value for key, value in os.environ.items() if key != "LC_CTYPE"}
    os.execve(INIT, [INIT, *sys.argv[1:]], environment)


def start(root: Path) -> None:
    """Everything before systemd."""
    for name, kind in KERNEL_FILE_SYSTEMS.items():
        if not os.path.ismount(root / name):
            mounts.mount(kind, root / name, kind, mounts.NOSUID)
    image = running_image(root)
    take_loads_back(root)
    notes: list[str] = []
    if mount_state(root, notes):
        try:
            mend(root / "state", notes)
            run(image, root, notes, volatile=False)
            return
        except Exception as error:
            # Whoever can write the disk must not be able to end PID 1: nothing would
            # count the starts of a committed generation.
            notes.append(f"cannot use the state: {first_line(error)}")
            leave_state(root)
    if loader_is_counting(root):
        raise OSError("the state partition cannot be used in a trial: " + "; ".join(notes))
    if ask_for_rescue(root, notes):
        mounts.restart()
    # Committed: stay reachable without a memory rather than not at all.
    mounts.mount("tmpfs", root / "state", "tmpfs", mounts.NOSUID | mounts.NODEV, "mode=0755")
    run(image, root, notes, volatile=True)


def take_loads_back(root: Path) -> None:
    """On boards with systemd-boot: the firmware has counted this start, and it has come so far."""
    if not (root / "sys/firmware/efi").is_dir():
        return
    from recovery.bootcontrol.loads import take_back
    from recovery.efivars import DIRECTORY

    folder = root / DIRECTORY
    if not folder.is_dir():
        return
    try:
        if not os.path.ismount(folder):
            mounts.mount("efivarfs", folder, "efivarfs", mounts.NOSUID | mounts.NODEV)
    except OSError as error:
        say(f"cannot read the firmware's variables: {error.strerror}")
    take_back(root)


def run(image: RunningImage, root: Path, notes: list[str], *, volatile: bool) -> None:
    """Chooses the generation and makes the system that systemd finds.

    volatile: what is mounted on /state will be forgotten.
    """
    state = root / "state"
    store = StateStore(state / "orbital")
    choice, generation = choose(store, image, root)
    if choice.give_up and not volatile:
        leave(store, generation, choice.give_up, notes, root)
    layer = prepare_layer(store.root, generation.etc_layer, parent_layer(store, generation))
    etc = root / "etc"
    mounts.mount("overlay", etc, "overlay", 0, overlay_options(etc, layer))
    bind_var(state / "var", root)
    activate_at_boot(store, generation, root, notes)
    report = BootReport(
        boot_id=boot_id(root),
        slot=image.slot,
        generation=generation.number,
        trial=choice.trial,
        volatile=volatile,
        notes=tuple(notes),
        root_hash=image.root_hash,
    )
    write_report(report, root)
    arm(choice, root)
    say(
        f"generation {generation.number}, version {generation.version}, slot {image.slot}"
        + (", on trial" if choice.trial else "")
        + (", state is volatile" if volatile else "")
        + "".join(f"; {note}" for note in notes)
    )


def leave_state(root: Path) -> None:
    """Takes the state partition and what was mounted from it away again."""
    for name in ("var", "etc", "state"):
        if os.path.ismount(root / name):
            try:
                mounts.unmount(root / name)
            except OSError as error:
                say(f"cannot unmount {name}: {error.strerror}")


def first_line(error: BaseException) -> str:
    """What went wrong, on one line."""
    return (str(error) or repr(error)).splitlines()[0]


def mount_state(root: Path, notes: list[str]) -> bool:
    """Mounts the state partition on /state, repairing its file system if it must."""
    label = command_line(root).get("orbital.state", "state")
    deadline = time.monotonic() + PARTITION_WAIT_SECONDS
    while True:
        try:
            device = find_partition(label, root)
            break
        except Exception as error:
            if time.monotonic() >= deadline:
                notes.append(str(error).splitlines()[0])
                return False
            time.sleep(0.05)
    for repair in ("", "-p", "-y"):
        if repair:
            notes.append(check_filesystem(device, repair))
        try:
            mounts.mount(device, root / "state", "ext4", mounts.NOSUID | mounts.NODEV)
            return True
        except OSError as error:
            notes.append(f"cannot mount {device}: {error.strerror}")
    return False


def check_filesystem(device: Path, mode: str) -> str:
    """Runs e2fsck: "-p" repairs what is safe, "-y" everything. Returns what to note.

    A superblock that is torn is made whole first: e2fsck would refuse it.
    """
    from recovery import process, superblock
    from recovery.errors import ToolError

    try:
        superblock.reseal(device)
    except OSError as error:
        return f"cannot read {device}: {error.strerror}"
    try:
        check = process.start(["/usr/sbin/e2fsck", "-f", mode, device])
    except ToolError as error:
        return error.brief
    deadline = time.monotonic() + REPAIR_SECONDS
    while check.poll() is None and time.monotonic() < deadline:
        ping_watchdog()
        time.sleep(0.5)
    if check.poll() is None:
        check.kill()
        return f"e2fsck {mode} did not end within {REPAIR_SECONDS} s"
    return f"e2fsck {mode} ended with code {check.returncode}"


def ping_watchdog() -> None:
    """Keeps the watchdog, armed by the initramfs, quiet during a long repair; it stays armed."""
    try:
        fd = os.open("/dev/watchdog0", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, b".")
    finally:
        os.close(fd)


def loader_is_counting(root: Path) -> bool:
    """Whether this boot is a try that leads back if it ends; False when nobody can say.

    A slot that is counted while the other one cannot start would end here for ever.
    """
    from recovery.bootcontrol.open import open_boot_control
    from recovery.device import load
    from recovery.errors import OrbitalError
    from recovery.slots import other_slot

    try:
        boot_control = open_boot_control(load(root), root)
        running = boot_control.current_slot()
        way_back = boot_control.slot_state(other_slot(running)).bootable
        return way_back and boot_control.slot_state(running).tries_left is not None
    except OrbitalError as error:
        say(str(error))
        return False


def ask_for_rescue(root: Path, notes: list[str]) -> bool:
    """Lets rescue make a state partition again that cannot be used; whether the next start is its.

    Once: what rescue could not repair it will not repair at the next start either.
    """
    from recovery.device import load
    from recovery.errors import OrbitalError
    from recovery.starts import ask_once

    why = "the state partition cannot be used: " + (notes[-1] if notes else "")
    try:
        asked = ask_once(load(root), root, why)
    except OrbitalError as error:
        say(str(error))
        return False
    if asked:
        say(f"{why}; asks for rescue")
    return asked


def choose(store: StateStore, image: RunningImage, root: Path) -> tuple[decide.Choice, Generation]:
    """Decides which generation runs and makes the decision durable before anything follows it."""
    record, known = store.read(), store.generations.all()
    now = int(time.time())
    choice = decide.choose_generation(image, record, known, boot_id=boot_id(root), now=now)
    generation = next((g for g in known if g.number == choice.generation), None)
    unknown = generation is None
    if generation is None:
        generation = found_image(choice, image, root, now)
    try:
        if unknown:
            store.generations.write(generation)
        if record is None:
            tell_recovery(store, choice, generation, boot_id(root), now)
        if choice.record is not None:
            store.save(choice.record)
    except OSError as error:
        # A trial must not start uncounted: it ends here, as a failed try. Nothing
        # counts the starts of a committed generation, so to end here for a full
        # or failing state partition would be to end here for ever.
        if choice.trial:
            raise
        say(f"cannot record this boot: {error.strerror or error}")
    return choice, generation


def found_image(choice: decide.Choice, image: RunningImage, root: Path, now: int) -> Generation:
    """The generation of an image that no record knows: a factory image, or a lost state."""
    from recovery.device import load

    config = load(root)
    return Generation(
        number=choice.generation,
        slot=image.slot,
        system=config.system,
        version=config.version,
        root_hash=image.root_hash,
        parent=None,
        created=now,
        origin="factory",
        requested_by="factory",
    )


def tell_recovery(
    store: StateStore, choice: decide.Choice, generation: Generation, boot: str, now: int
) -> None:
    """Notes a first boot, or that the state record had to be made again."""
    from recovery.history import Event

    lost = choice.recovered or bool(store.history.events())
    store.history.record_once(
        Event(
            event="state-recovered" if lost else "factory",
            generation=generation.number,
            from_version="",
            to_version=generation.version,
            slot=generation.slot,
            reason="the state record was absent or damaged" if lost else "first boot",
            requested_by=generation.requested_by,
            time=now,
            boot_id=boot,
        )
    )


def parent_layer(store: StateStore, generation: Generation) -> int | None:
    """The /etc layer that the generation's own one starts from, if it has to be made."""
    if generation.parent is None:
        return None
    parent = store.generations.load(generation.parent)
    return parent.etc_layer if parent is not None else generation.parent


def leave(
    store: StateStore, generation: Generation, reason: str, notes: list[str], root: Path
) -> None:
    """Gives this generation up and restarts; returns when there is no way back."""
    from recovery import plan
    from recovery.observe import observe
    from recovery.steps import apply

    try:
        boot_control, view = observe(store, generation, volatile=False, root=root)
        verdict = decide.give_up(view, reason)
        if isinstance(verdict, decide.GiveUp):
            apply(plan.give_up(view, verdict.reason, int(time.time())), store, boot_control)
            say(f"gives up generation {generation.number}: {verdict.reason}")
            mounts.restart()
        notes.append(verdict.reason)
    except Exception as error:  # the boot goes on; userspace decides the same with more means
        notes.append(str(error).splitlines()[0])


def bind_var(var: Path, root: Path) -> None:
    """Binds the state partition's var on /var, filled at the first boot."""
    if not var.is_dir():
        fresh = var.with_name(f"{var.name}.new")
        if fresh.exists():
            import shutil

            shutil.rmtree(fresh)
        factory = root / "usr/share/factory/var"
        if factory.is_dir():
            copy_tree(factory, fresh)
        else:
            fresh.mkdir(mode=0o755)
        # Not synced file by file: a cut before the next sync at worst fills it again.
        os.sync()
        fresh.rename(var)
    mounts.mount(var, root / "var", "none", mounts.BIND)


def arm(choice: decide.Choice, root: Path) -> None:
    """Tells the units of this boot what to expect; a trial gets a deadline that nothing stops."""
    probation = choice.record.probation if choice.record is not None else None
    if probation is not None and not choice.trial:
        (root / PROBATION_FLAG).touch()
    if not choice.trial:
        return
    from recovery.device import load

    (root / TRIAL_FLAG).touch()
    units = root / "run/systemd/system"
    wants = units / "sysinit.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    seconds = load(root).trial.deadline_seconds
    (units / "orbital-deadline.timer").write_text(
        "[Unit]\nDescription=Deadline of the generation on trial\n"
        "DefaultDependencies=no\nIgnoreOnIsolate=yes\n\n"
        f"[Timer]\nOnBootSec={seconds}\nAccuracySec=1\nUnit=orbital-trial-failed.service\n"
    )
    (wants / "orbital-deadline.timer").symlink_to("../orbital-deadline.timer")


def say(text: str) -> None:
    """One line on the console."""
    line = f"orbital: {text}\n".encode(errors="replace")
    try:
        fd = os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        os.write(2, line)
        return
    try:
        os.write(fd, line)
    finally:
        os.close(fd)
