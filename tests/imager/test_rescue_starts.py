"""The start record in the initramfs's shell, as busybox runs it, against `recovery.starts`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imager.cache import Cache, default_directory
from imager.debian import prepare_base
from manifests.catalogue import load_product
from recovery.process import run
from recovery.starts import Starts, parse, plain_reason, to_bytes

pytestmark = pytest.mark.build

INIT = Path("imager/initramfs/init")
IMAGE = "0123456789abcdef" * 2
WISH = Starts(rescue=True, reason="asked by root: a test", asked=1, loads=4, image=IMAGE, starts=7)
RECORDS = st.builds(
    Starts,
    rescue=st.booleans(),
    action=st.sampled_from(["", "reset", "erase"]),
    reason=st.text().map(plain_reason),
    asked=st.integers(0, 9),
    image=st.sampled_from(["", IMAGE]),
    starts=st.integers(0, 99),
    rescued=st.integers(0, 99),
    loads=st.integers(0, 9),
)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with busybox's programs, as /bin of the initramfs."""
    folder = tmp_path_factory.mktemp("bin")
    base = prepare_base(load_product("gateway", "qemu-x86_64"), Cache(default_directory())).tree()
    busybox = folder / "busybox"
    busybox.write_bytes(base.read("usr/bin/busybox"))
    busybox.chmod(0o755)
    for name in ("dd", "hexdump", "mkdir", "mount", "sh", "sleep"):
        (folder / name).symlink_to("busybox")
    return folder


def functions(shell: Path, work: Path, code: str) -> str:
    """Runs code with the functions of the initramfs; returns what it prints."""
    text = INIT.read_text()
    head, _, _ = text.partition("\nmount_kernel_file_systems\nread_command_line\n")
    kept = [line for line in head.splitlines() if not line.startswith("trap ")]
    script = "\n".join(kept)
    script = script.replace("PATH=/bin\n", f"PATH={shell}\n").replace(
        "STARTS_FILE=/run/orbital/starts", f"STARTS_FILE={work}/starts"
    )
    stubs = 'step() { echo "step $1"; }\nrestart() { echo restart; exit 0; }\n'
    path = work / "script"
    path.write_text(f"{script}\n{stubs}{code}\n")
    return run([shell / "sh", path], timeout=60).stdout


def shown(record: Starts) -> str:
    action = record.action
    return (
        f"[{'rescue' if record.rescue else ''}][{action}][{record.reason}][{record.asked}]"
        f"[{record.loads}]"
        f"[{record.image}][{record.starts}][{record.rescued}]"
    )


SHOW = 'echo "[$next][$action][$reason][$asked][$loads][$image][$starts][$rescued]"'


def parsed(shell: Path, work: Path, sectors: list[bytes]) -> list[str]:
    """What the shell reads in each sector; one start of the shell for all."""
    code = ""
    for number, data in enumerate(sectors):
        (work / f"sector{number}").write_bytes(data)
        code += f"parse_starts {work}/sector{number}; {SHOW}\n"
    return functions(shell, work, code).splitlines()


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture],
          deadline=None)  # fmt: skip
@given(records=st.lists(RECORDS, min_size=1, max_size=10))
def test_every_record_is_read_and_written_alike(
    shell: Path, tmp_path: Path, records: list[Starts]
) -> None:
    sectors = [to_bytes(record) for record in records]
    assert parsed(shell, tmp_path, sectors) == [shown(record) for record in records]
    code = "".join(
        f"parse_starts {tmp_path}/sector{n}\nrender_starts\n"
        f'echo -n "$starts_text" > {tmp_path}/out{n}\n'
        for n in range(len(records))
    )
    functions(shell, tmp_path, code)
    written = [(tmp_path / f"out{n}").read_bytes() for n in range(len(records))]
    assert written == sectors


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture],
          deadline=None)  # fmt: skip
@given(
    changes=st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), min_size=1, max_size=20),
    noise=st.binary(min_size=512, max_size=512),
)
def test_damage_reads_alike(
    shell: Path, tmp_path: Path, changes: list[tuple[int, int]], noise: bytes
) -> None:
    sectors = [noise, bytes(512), b"\xff" * 512]
    for place, value in changes:
        data = bytearray(to_bytes(WISH))
        data[place] = value
        sectors.append(bytes(data))
    assert parsed(shell, tmp_path, sectors) == [shown(parse(data)) for data in sectors]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"orbital_asked=1\n", b"orbital_asked=01\n"),
        (b"orbital_loads=4\n", b"orbital_loads=10\n"),
        (b"orbital_loads=4\n", b""),
        (b"orbital_starts=7\n", b"orbital_starts=\n"),
        (b"orbital_starts=7\n", b"orbital_starts=07\n"),
        (b"orbital_rescued=0\n", b"orbital_rescued=100\n"),
        (b"orbital_action=\n", b"orbital_action=format\n"),
        (b"orbital_reason=asked", b"orbital_reason= asked"),
        (b"orbital_reason=asked", b"orbital_reason=\\asked"),
        (b"orbital_reason=asked", b"orbital_reason=\xe4sked"),
        (b"orbital_next=rescue\n", b"orbital_next=rescue\norbital_next=rescue\n"),
        (b"orbital_end=1\n", b""),
        (b"# GRUB", b"# grub"),
    ],
)
def test_a_record_that_is_not_exactly_as_written_is_the_empty_one(
    shell: Path, tmp_path: Path, old: bytes, new: bytes
) -> None:
    data = to_bytes(WISH)
    assert old in data
    changed = data.replace(old, new).rstrip(b"#").ljust(512, b"#")
    assert parse(changed) == Starts()
    assert parsed(shell, tmp_path, [data, changed]) == [shown(WISH), shown(Starts())]


@given(text=st.text(max_size=200))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture],
          deadline=None)  # fmt: skip
def test_any_reason_becomes_one_that_the_record_can_hold(
    shell: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "reason").write_bytes(text.encode("utf-8", "surrogateescape").replace(b"\0", b""))
    code = f'plain_reason "$(busybox cat {tmp_path}/reason)"; echo -n "$plain"'
    plain = functions(shell, tmp_path, code)
    assert plain == plain_reason(plain)
    if text == plain_reason(text):
        assert plain == text


def consult(shell: Path, work: Path, record: bytes, root: str = IMAGE * 2) -> tuple[str, Starts]:
    """One start of the image: what the initramfs says, and the record after it."""
    disk = work / "environment"
    disk.write_bytes(bytes(524288) + record + bytes(512))
    said = functions(
        shell,
        work,
        f"starts_label=environment slots=root-a,root-b roothash={root} oneshot=\n"
        f"find_partition() {{ found={disk}; }}\n"
        f"consult_starts; echo goes on",
    )
    data = disk.read_bytes()
    assert data[:524288] == bytes(524288)
    assert data[-512:] == bytes(512)
    return said, parse(data[524288:])


def test_an_ordinary_start_is_counted(shell: Path, tmp_path: Path) -> None:
    said, after = consult(shell, tmp_path, bytes(512))
    assert (said, after) == ("goes on\n", Starts(image=IMAGE, starts=1))
    said, after = consult(shell, tmp_path, to_bytes(after))
    assert (said, after) == ("goes on\n", Starts(image=IMAGE, starts=2))
    said, after = consult(shell, tmp_path, to_bytes(after), root="f" * 64)
    assert (said, after) == ("goes on\n", Starts(image="f" * 32, starts=1))


def test_after_eight_starts_that_did_not_end_well_rescue_is_asked_for_three_times(
    shell: Path, tmp_path: Path
) -> None:
    record = Starts(image=IMAGE, starts=8)
    for asked in (1, 2, 3):
        said, record = consult(shell, tmp_path, to_bytes(record))
        assert said.endswith("restart\n")
        assert (record.rescue, record.asked, record.starts) == (True, asked, 8)
        assert record.reason == f"8 starts of the image {IMAGE} in a row did not end well"
    said, record = consult(shell, tmp_path, to_bytes(record))
    assert said == "goes on\n"
    # Found by the model check: else a slot that never starts would never ask again.
    assert record == Starts(image=IMAGE, starts=1)


def test_a_wish_or_an_open_action_restarts_into_rescue(shell: Path, tmp_path: Path) -> None:
    for wish in (Starts(rescue=True, reason="asked by x"), Starts(action="reset")):
        said, after = consult(shell, tmp_path, to_bytes(wish))
        assert said.endswith("restart\n")
        assert (after.rescue, after.action, after.asked) == (True, wish.action, 1)
        assert after.reason == wish.reason


def test_a_start_that_reaches_the_initramfs_takes_the_loaders_count_back(
    shell: Path, tmp_path: Path
) -> None:
    _, after = consult(shell, tmp_path, to_bytes(Starts(loads=4, rescued=1)))
    assert after == Starts(image=IMAGE, starts=1, rescued=1)
    _, after = consult(shell, tmp_path, to_bytes(Starts(rescue=True, loads=5)))
    assert (after.asked, after.loads) == (1, 0)


def test_the_pis_firmware_is_asked_with_the_number_of_the_partition(
    shell: Path, tmp_path: Path
) -> None:
    """restart() passes it on (imager/restart.py); without the partition it is an ordinary boot."""
    disk = tmp_path / "environment"
    for label, said in (("rescue", "restart with 2\n"), ("absent", "goes on with\n")):
        disk.write_bytes(bytes(524288) + to_bytes(WISH) + bytes(512))
        output = functions(
            shell,
            tmp_path,
            f"starts_label=environment slots=root-a,root-b roothash={IMAGE * 2}"
            f" oneshot=partition:{label}\n"
            f"find_partition() {{ found={disk} number=2;"
            " if [ $1 = absent ]; then found='' number=''; fi; }\n"
            'restart() { echo "restart with $argument"; exit; }\n'
            "consult_starts; echo goes on with $argument",
        )
        assert output.endswith(said)
        assert parse(disk.read_bytes()[524288:]).asked == WISH.asked + 1


def test_a_disk_that_cannot_be_written_boots_as_ever(shell: Path, tmp_path: Path) -> None:
    disk = tmp_path / "environment"
    disk.write_bytes(bytes(524288) + to_bytes(WISH) + bytes(512))
    said = functions(
        shell,
        tmp_path,
        f"starts_label=environment slots=root-a,root-b roothash={IMAGE * 2} oneshot=\n"
        f"find_partition() {{ found={disk}; }}\n"
        'dd() { case "$*" in *seek=*) return 1 ;; *) busybox dd "$@" ;; esac; }\n'
        f"consult_starts; echo goes on",
    )
    assert said == "goes on\n"
