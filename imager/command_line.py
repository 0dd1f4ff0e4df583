"""The kernel command line: what an image tells its kernel and its initramfs. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from imager.modules import canonical
from manifests.board import Architecture, Board
from recovery.errors import ManifestError
from recovery.slots import SLOTS

# The longest command line that kernels of all our architectures take (arm: 1024 + NUL).
_COMMAND_LINE_LIMITS: dict[Architecture, int] = {"armhf": 1023}
_COMMAND_LINE_LIMIT = 2047


def command_line(
    board: Board, *, root_hash: str, hash_offset: int, extra: Sequence[str] = ()
) -> str:
    """The kernel command line; it is signed, and it is what makes the root image trusted.

    root_hash: hex. hash_offset: bytes from the start of the slot to the
    verity superblock. extra: the system's own arguments. Keys that start with
    ``orbital.`` are read by `imager/initramfs/init` and `recovery.early`.

    Raises ManifestError when an argument could be taken for two, or when the
    whole is too long for the architecture.
    """
    labels = board.slot_labels
    words = [
        f"orbital.roothash={root_hash}",
        f"orbital.hashoffset={hash_offset}",
        f"orbital.slots={','.join(labels[slot] for slot in SLOTS)}",
        f"orbital.state={board.state_partition.label}",
    ]
    record, rescue = board.environment_partition, board.rescue_partition
    if record and rescue:
        words.append(f"orbital.starts={record.label}")
        # Whom the initramfs asks for rescue, beside the record: what does not read it.
        if board.boot_control == "systemd-boot":
            words.append("orbital.oneshot=efi")
        elif board.boot_control == "tryboot":
            words.append(f"orbital.oneshot=partition:{rescue.label}")
    return _line(board, words, extra)


def rescue_command_line(board: Board, extra: Sequence[str] = ()) -> str:
    """The kernel command line of the rescue system: its root is in its initramfs.

    extra: the system's own arguments. Raises as `command_line`.
    """
    # Huge pages take memory for a few small programs, and make the kernel keep 44 MiB free for
    # them (mm/khugepaged.c, set_recommended_min_free_kbytes).
    return _line(board, ["orbital.rescue=1", "transparent_hugepage=never"], extra)


def _line(board: Board, words: list[str], extra: Sequence[str]) -> str:
    if board.watchdog:
        watchdog = board.watchdog
        words.append(
            f"orbital.watchdog={canonical(watchdog.driver)}:"
            f"{watchdog.timeout_parameter}={watchdog.timeout_seconds}"
        )
    # panic=-1: restart at once, so that a panic is a failed try. gpt: use the backup
    # partition table when a power cut tore the primary (imager/device/launch/grow).
    # gpt_auto: our layout is not that of systemd's generator, which must not mount by type.
    words += ["gpt", "systemd.gpt_auto=0", "panic=-1", f"console={board.console}", "ro"]
    words += [*board.kernel.command_line, *extra]
    for word in words:
        if not word or any(char.isspace() or not char.isprintable() for char in word):
            raise ManifestError(
                f"cannot use the kernel argument {word!r}: white space or control characters in it",
                resolution="write each argument as one item of the list",
            )
    line = " ".join(words)
    limit = _COMMAND_LINE_LIMITS.get(board.architecture, _COMMAND_LINE_LIMIT)
    if len(line.encode()) > limit:
        raise ManifestError(
            f"cannot use a kernel command line of {len(line.encode())} bytes",
            details=f"{board.architecture} kernels take {limit}: {line}",
            resolution="remove kernel arguments from the board or the system",
        )
    return line
