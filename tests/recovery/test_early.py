"""Early boot for real: mounts, the state partition, /etc layers, /var; in a namespace of its own.

A device is a tree of directories with a made-up /proc and /sys, whose one
partition is a loop device over an ext4 file. Each boot runs in a new mount
namespace, so that what it mounted is gone with it, as with the power.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery import device, early, process
from recovery.boot import BootReport, load_report
from recovery.bootcontrol.open import BOOT_DIRECTORY
from recovery.bootcontrol.systemd_boot import entry_name, entry_text
from recovery.errors import ToolError
from recovery.history import History
from recovery.state import StateStore
from tests.recovery.builders import CONFIG
from tests.recovery.loaders import make_esp

REPOSITORY = Path(__file__).resolve().parents[2]

# In the child: early boot's own code, then a shell command in the device.
CHILD = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from recovery import early
early.PARTITION_WAIT_SECONDS = 0
early.KERNEL_FILE_SYSTEMS = {}
early.start(Path(sys.argv[2]))
sys.exit(subprocess.run(["/bin/sh", "-ec", sys.argv[3]], cwd=sys.argv[2]).returncode)
"""


def can_mount() -> bool:
    """Whether this machine lets us make mount namespaces, loop devices and overlays."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        return False
    try:
        return process.run(["unshare", "-m", "true"], check=False).returncode == 0
    except ToolError:
        return False


pytestmark = pytest.mark.skipif(not can_mount(), reason="needs root, namespaces and loop devices")


class FakeDevice:
    """A device below root whose state partition is the loop device."""

    def __init__(self, root: Path, loop: str) -> None:
        self.root, self.loop = root, loop

    def boot(
        self, command: str = "true", *, slot: str = "a", version: str = "1.0", boot_id: str = "one"
    ) -> subprocess.CompletedProcess[str]:
        """One start: early boot, then the command, with the device as its directory."""
        root = self.root
        shutil.rmtree(root / "run/systemd", ignore_errors=True)
        for flag in (early.TRIAL_FLAG, early.PROBATION_FLAG):
            (root / flag).unlink(missing_ok=True)
        (root / "run/orbital/slot").write_text(f"{slot}\n")
        (root / "proc/cmdline").write_text(f"orbital.roothash=hash-of-{version} quiet\n")
        (root / "proc/sys/kernel/random/boot_id").write_text(f"{boot_id}\n")
        (root / "etc/version").write_text(f"{version}\n")
        words = [sys.executable, "-ISB", "-c", CHILD, str(REPOSITORY), str(root), command]
        return subprocess.run(
            ["unshare", "-m", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def in_state(self, command: str) -> str:
        """Runs a command in the mounted state partition, without any boot."""
        script = f"mount {self.loop} {self.root}/state; cd {self.root}/state; {command}"
        return process.run(["unshare", "-m", "sh", "-ec", script]).stdout

    def report(self) -> BootReport:
        """What the last boot said in /run."""
        return load_report(self.root)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDevice]:
    """A device that has never been started."""
    root = tmp_path / "root"
    for folder in (
        "etc/ssl",
        "var",
        "state",
        "dev",
        "run/orbital",
        "proc/sys/kernel/random",
        "proc/self",
        "usr/lib/orbital",
        "usr/share/factory/var/lib/gateway",
    ):
        (root / folder).mkdir(parents=True)
    (root / "etc/hostname").write_text("factory\n")
    (root / "etc/ssl/old.pem").write_text("image\n")
    (root / "proc/self/mountinfo").write_text("")
    (root / "usr/share/factory/var/lib/gateway/seed").write_text("seed\n")
    (root / "usr/lib/orbital/device.json").write_bytes(device.encode(CONFIG))
    make_esp(root / BOOT_DIRECTORY)
    image = tmp_path / "state.img"
    with image.open("wb") as out:
        out.truncate(16 << 20)
    process.run(["mkfs.ext4", "-q", image])
    loop = process.run(["losetup", "--find", "--show", image]).stdout.strip()
    name = Path(loop).name
    (root / f"sys/class/block/{name}").mkdir(parents=True)
    (root / f"sys/class/block/{name}/uevent").write_text(f"DEVNAME={name}\nPARTNAME=state\n")
    os.mknod(root / "dev" / name, 0o60600, os.stat(loop).st_rdev)  # noqa: PTH116
    try:
        yield FakeDevice(root, loop)
    finally:
        process.run(["losetup", "--detach", loop])


def record_trial(fake: FakeDevice) -> None:
    """Puts version 2.0 in slot b on trial, as an installation would have recorded it."""
    program = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from recovery.generations import Generation
from recovery.state import StateStore, Trial
from recovery.value import replace
store = StateStore(Path("orbital"))
store.generations.write(Generation(2, "b", "gateway", "2.0", "hash-of-2.0", 1, 0, "update", "me"))
trial = Trial(generation=2, tries=2, armed_boot="one")
store.save(replace(store.load(), next_generation=3, trial=trial))
"""
    (fake.root / "program.py").write_text(program)
    fake.in_state(f"{sys.executable} -ISB {fake.root}/program.py {REPOSITORY}")
    entries = fake.root / BOOT_DIRECTORY / "loader/entries"
    (entries / "orbital-b+1-1.conf").write_text(entry_text("b", 2))


def store_copy(fake: FakeDevice, tmp_path: Path) -> StateStore:
    """What is on the state partition, copied out."""
    target = tmp_path / "copy"
    fake.in_state(f"rm -rf {target}; cp -a orbital {target}")
    return StateStore(target)


def test_the_first_boot_makes_generation_1_and_fills_var(fake: FakeDevice, tmp_path: Path) -> None:
    done = fake.boot("cat var/lib/gateway/seed etc/hostname; echo changed > etc/hostname")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "seed\nfactory\n"
    assert fake.report() == BootReport(
        "one", "a", 1, trial=False, volatile=False, root_hash="hash-of-1.0"
    )
    store = store_copy(fake, tmp_path)
    record = store.load()
    assert (record.committed, record.next_generation, record.trial) == (1, 2, None)
    made = store.generations.load(1)
    assert made is not None
    assert (made.version, made.root_hash, made.origin) == ("1.0", "hash-of-1.0", "factory")
    assert [event.event for event in History(store.root).events()] == ["factory"]
    # The image is untouched, and the change is there at the next boot.
    assert (fake.root / "etc/hostname").read_text() == "factory\n"
    again = fake.boot("cat etc/hostname", boot_id="two")
    assert again.stdout == "changed\n", again.stderr


def test_a_trial_gets_its_parents_etc_and_cannot_change_it(
    fake: FakeDevice, tmp_path: Path
) -> None:
    first = fake.boot(
        "echo mine > etc/owner; rm etc/ssl/old.pem; rm -r etc/ssl; mkdir etc/ssl;"
        " ln -s owner etc/link; chown 7:8 etc/owner; chmod 600 etc/owner"
    )
    assert first.returncode == 0, first.stderr
    record_trial(fake)
    trial = fake.boot(
        "cat etc/version etc/owner; ls etc/ssl; stat -c '%u:%g %a' etc/owner; readlink etc/link;"
        " echo theirs > etc/owner; rm etc/hostname",
        slot="b",
        version="2.0",
        boot_id="two",
    )
    assert trial.returncode == 0, trial.stderr
    assert trial.stdout == "2.0\nmine\n7:8 600\nowner\n"
    assert fake.report() == BootReport(
        "two", "b", 2, trial=True, volatile=False, root_hash="hash-of-2.0"
    )
    assert (fake.root / "run/orbital/trial").exists()
    timer = (fake.root / "run/systemd/system/orbital-deadline.timer").read_text()
    assert f"OnBootSec={CONFIG.trial.deadline_seconds}\n" in timer
    attempts = store_copy(fake, tmp_path).load().trial
    assert attempts is not None
    assert [(item.boot_id, item.stage) for item in attempts.attempts] == [("two", "early")]
    # Back in the old slot: /etc as it was.
    back = fake.boot("cat etc/version etc/owner etc/hostname", boot_id="three")
    assert back.stdout == "1.0\nmine\nfactory\n", back.stderr


def test_a_cut_copy_of_etc_is_made_again(fake: FakeDevice) -> None:
    assert fake.boot("echo mine > etc/owner").returncode == 0
    record_trial(fake)
    fake.in_state("mkdir -p orbital/etc/2.new/upper; echo half > orbital/etc/2.new/upper/owner")
    done = fake.boot("cat etc/owner", slot="b", version="2.0")
    assert done.stdout == "mine\n", done.stderr


def test_a_damaged_state_file_system_is_repaired(fake: FakeDevice) -> None:
    assert fake.boot("echo mine > etc/owner").returncode == 0
    with open(fake.loop, "r+b") as disk:  # the primary superblock: mounting fails, e2fsck helps
        disk.seek(1024)
        disk.write(b"\0" * 1024)
        disk.flush()
        os.fdatasync(disk.fileno())
    done = fake.boot("cat etc/owner", boot_id="two")
    assert done.stdout == "mine\n", done.stderr
    assert not fake.report().volatile
    assert any("e2fsck" in note for note in fake.report().notes)


def destroy_state(fake: FakeDevice) -> None:
    """Nothing of the file system is left."""
    with open(fake.loop, "r+b") as disk:
        disk.write(b"\xff" * (16 << 20))
        disk.flush()
        os.fdatasync(disk.fileno())


def test_a_committed_device_without_its_state_stays_reachable(fake: FakeDevice) -> None:
    assert fake.boot().returncode == 0
    destroy_state(fake)
    done = fake.boot("cat etc/hostname; echo x > var/x; echo y > etc/y", boot_id="two")
    assert done.returncode == 0, done.stderr
    assert fake.report().volatile
    assert "state is volatile" in done.stderr + done.stdout or fake.report().notes


def test_a_trial_without_its_state_is_a_failed_try(fake: FakeDevice) -> None:
    assert fake.boot().returncode == 0
    record_trial(fake)
    destroy_state(fake)
    done = fake.boot(slot="b", version="2.0", boot_id="two")
    assert done.returncode != 0
    assert "the state partition cannot be used in a trial" in done.stderr


def test_a_trial_that_may_not_go_on_and_has_no_way_back_stays_up(
    fake: FakeDevice, tmp_path: Path
) -> None:
    assert fake.boot().returncode == 0
    record_trial(fake)
    entries = fake.root / BOOT_DIRECTORY / "loader/entries"
    (entries / entry_name("a", None)).unlink()  # nothing to go back to
    for number in range(4):
        done = fake.boot(slot="b", version="2.0", boot_id=f"boot-{number}")
        assert done.returncode == 0, done.stderr
    assert "nothing to go back to" in "".join(fake.report().notes)
    trial = store_copy(fake, tmp_path).load().trial
    assert trial is not None
    assert len(trial.attempts) == trial.tries + 1
