"""Parsers of the harness, fed in pieces of every size."""

from __future__ import annotations

import base64
import itertools
import socket
import struct
import subprocess
import uuid
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu import gpt, protocol
from qemu.console import Transcript
from qemu.credentials import shell_credentials, smbios_options
from qemu.errors import DeadlineExpired, MachineError, MachineExited
from qemu.qmp import LineSplitter, Qmp

BOOT = "8d0f5d3c-0000-4000-8000-000000000000"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data cut at those places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def answer(session: str, number: int, code: int, output: bytes) -> bytes:
    body = base64.encodebytes(output)
    return (
        f"BEGIN {session} {number}\n".encode() + body + f"END {session} {number} {code}\n".encode()
    )


@given(st.binary(max_size=400), st.lists(st.integers(0, 2000), max_size=8))
def test_shell_answers_survive_any_cutting(output: bytes, cuts: list[int]) -> None:
    data = f"\nHELLO s.1 {BOOT}\n".encode() + answer("s.1", 7, 3, output)
    decoder = protocol.Decoder()
    found = [message for piece in pieces(data, cuts) for message in decoder.feed(piece)]
    assert found == [protocol.Hello("s.1", BOOT), protocol.Answer("s.1", 7, 3, output)]


def test_half_an_answer_of_a_killed_shell_is_dropped() -> None:
    decoder = protocol.Decoder()
    half = b"BEGIN s.1 7\nAAAA\nBB"
    data = half + f"\nHELLO s.2 {BOOT}\n".encode() + answer("s.2", 8, 0, b"ok")
    assert list(decoder.feed(data)) == [
        protocol.Hello("s.2", BOOT),
        protocol.Answer("s.2", 8, 0, b"ok"),
    ]


def test_an_end_without_its_begin_is_no_answer() -> None:
    decoder = protocol.Decoder()
    assert list(decoder.feed(b"BEGIN s.1 7\nAAAA\nEND s.1 8 0\nEND s.2 7 0\n")) == []


def test_a_damaged_output_is_no_answer() -> None:
    assert list(protocol.Decoder().feed(b"BEGIN s.1 7\nA*A=\nEND s.1 7 0\n")) == []


def test_the_agent_in_a_real_shell_answers_and_ignores_other_sessions(tmp_path: Path) -> None:
    """agent.sh itself, with a socket in place of the virtio port."""
    host, guest = socket.socketpair()
    agent = (Path(protocol.__file__).with_name("agent.sh")).read_text()
    start = agent.index('exec 3<>"$port"')
    body = (
        agent[start:]
        .replace('exec 3<>"$port" || exit 75', "exec 3<&0")
        .replace("/run/orbital-test", str(tmp_path / "work"))
    )
    assert body.count("exec 3<&0") == 1
    with subprocess.Popen(["sh", "-c", body], stdin=guest.fileno()) as process:
        guest.close()
        host.settimeout(20)
        decoder = protocol.Decoder()
        messages: list[protocol.Message] = []

        def expect(count: int) -> list[protocol.Message]:
            while len(messages) < count:
                messages.extend(decoder.feed(host.recv(4096)))
            return messages

        hello = expect(1)[0]
        assert isinstance(hello, protocol.Hello)
        host.sendall(protocol.request("old.1", 1, b"echo wrong\n", 5))
        host.sendall(protocol.request(hello.session, 2, b"printf 'a\\nb'; exit 9", 5))
        host.sendall(protocol.WHO)
        host.sendall(protocol.request(hello.session, 3, b"sleep 20", 1))
        assert expect(4)[1:] == [
            protocol.Answer(hello.session, 2, 9, b"a\nb"),
            hello,
            protocol.Answer(hello.session, 3, 124, b""),
        ]
        host.close()
        assert process.wait(10) == 0


@given(st.text(alphabet="ab\n", max_size=50), st.lists(st.integers(0, 100), max_size=6))
def test_lines_survive_any_cutting(text: str, cuts: list[int]) -> None:
    splitter = LineSplitter()
    data = text.encode()
    found = [line for piece in pieces(data, cuts) for line in splitter.feed(piece)]
    assert found == data.split(b"\n")[:-1]


@given(st.lists(st.integers(0, 200), max_size=6))
def test_a_console_search_does_not_see_terminal_control(cuts: list[int]) -> None:
    data = b"\x1b[2J\x1b[01;01H[ \x1b[0;32m  OK  \x1b[0m] Reached \x1b[?25htarget\r\nnext\r\n"
    transcript = Transcript()
    for piece in pieces(data, cuts):
        transcript.feed(piece.decode(), 0)
    assert transcript.text == "[   OK  ] Reached target\nnext\n"
    assert transcript.search(r"^next$", since=5)


def test_a_console_search_ignores_what_lies_before_its_mark() -> None:
    transcript = Transcript()
    transcript.feed("login: ", 0)
    mark = len(transcript.text)
    assert transcript.search("login", mark) is None
    transcript.feed("\nlogin: ", 1)
    assert transcript.search("login", mark)


def test_the_console_log_has_the_second_in_which_a_line_began(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        transcript = Transcript(log)
        transcript.feed("slow", 1.5)
        transcript.feed(" line\n\nfast\n", 20)
        transcript.feed("no end", 21)
        transcript.flush()
    assert (tmp_path / "log").read_text().splitlines() == [
        "[    1.500] slow line",
        "[   20.000] fast",
        "[   21.000] no end",
    ]


class _FakeQemu:
    """QEMU's side of a control socket, by hand."""

    def __init__(self, tmp_path: Path, *answers: bytes) -> None:
        ours, theirs = socket.socketpair()
        self.socket = ours
        ours.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
        ours.sendall(b'{"return": {}, "id": 1}\r\n' + b"".join(answers))
        self.qmp = Qmp(theirs, tmp_path / "qmp.log")


def test_qmp_keeps_events_that_nobody_waited_for(tmp_path: Path) -> None:
    fake = _FakeQemu(
        tmp_path,
        b'{"event": "RESET", "data": {"guest": true}, "timestamp": {}}\r\n{"even',
        b't": "STOP"}\r\n{"return": 5, "id": 2}\r\n',
    )
    assert fake.qmp.execute("anything") == 5
    assert fake.qmp.wait_event("STOP", 5).data == {}
    reset = fake.qmp.wait_event("RESET", 5, accept=lambda data: bool(data["guest"]))
    assert reset.data == {"guest": True}
    with pytest.raises(DeadlineExpired, match="event RESET"):
        fake.qmp.wait_event("RESET", 0.05, since=fake.qmp.mark)


def test_qmp_refusals_carry_qemus_words(tmp_path: Path) -> None:
    error = b'{"error": {"class": "GenericError", "desc": "no such disk"}, "id": 2}\r\n'
    fake = _FakeQemu(tmp_path, error)
    with pytest.raises(MachineError, match="cannot complete eject: no such disk"):
        fake.qmp.execute("eject", {"device": "x"})


def test_qmp_notices_that_qemu_is_gone(tmp_path: Path) -> None:
    fake = _FakeQemu(tmp_path)
    fake.socket.close()
    with pytest.raises(MachineExited):
        fake.qmp.execute("cont")
    with pytest.raises(MachineExited):
        fake.qmp.wait_event("RESET", 30)


def table(labels: list[str]) -> bytearray:
    """A disk of 64 KiB with a GPT."""
    entries = b""
    for index, label in enumerate(labels):
        first = 64 + 8 * index
        entries += struct.pack(
            "<16s16sQQQ72s",
            uuid.UUID(int=1).bytes_le,
            uuid.UUID(int=100 + index).bytes_le,
            first,
            first + 7,
            0,
            label.encode("utf-16-le"),
        )
    entries = entries.ljust(128 * 128, b"\0")
    header = struct.pack(
        "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, 127, 40, 120, bytes(16), 2,
        128, 128, zlib.crc32(entries),
    )  # fmt: skip
    header = header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:]
    disk = bytearray(64 << 10)
    disk[512 : 512 + 92] = header
    disk[1024 : 1024 + len(entries)] = entries
    return disk


def read_table(disk: bytearray) -> tuple[gpt.Partition, ...]:
    return gpt.read_partitions(lambda offset, length: bytes(disk[offset : offset + length]))


def test_partitions_are_read_with_their_place() -> None:
    found = read_table(table(["esp", "root-a"]))
    assert found[1] == gpt.Partition(
        number=2,
        label="root-a",
        type=str(uuid.UUID(int=1)),
        id=str(uuid.UUID(int=101)),
        offset=72 * 512,
        size=8 * 512,
    )
    assert gpt.by_label(found, "esp").number == 1


@pytest.mark.parametrize(
    ("place", "reason"), [(512, "has no GPT"), (520, "header's checksum"), (1030, "entries' check")]
)
def test_a_damaged_partition_table_is_refused(place: int, reason: str) -> None:
    disk = table(["esp"])
    disk[place] ^= 0xFF
    with pytest.raises(MachineError, match=reason):
        read_table(disk)


def test_a_label_that_is_not_unique_is_refused() -> None:
    with pytest.raises(MachineError, match="has 2 of that label"):
        gpt.by_label(read_table(table(["x", "x"])), "x")


def test_the_shells_credentials_fit_into_smbios() -> None:
    options = smbios_options(shell_credentials())
    # SMBIOS 2.x: a structure table is at most 64 KiB; QEMU puts each string into it.
    assert sum(len(option) for option in options) < 16 << 10
    values = [option for option in options if option != "-smbios"]
    prefix = "type=11,value=io.systemd.credential.binary:"
    assert all(value.startswith(prefix) for value in values)
    decoded = {
        name: base64.b64decode(text, validate=True)
        for name, _, text in (value.removeprefix(prefix).partition("=") for value in values)
    }
    assert decoded == shell_credentials()
