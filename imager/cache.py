"""Build stages cached by the content of their inputs.

The directory it manages (``$ORBITAL_CACHE`` or ``~/.cache/orbital``)::

    stages/NAME/KEY-N/          result of a stage, never changed once it is there
    stages/NAME/KEY.turn        N in use (0 when absent); a refresh adds one
    stages/NAME/KEY-N.partial   being built, or left by a kill; nobody reads it
    stages/NAME/KEY-N.content   digest of the result, computed when first asked
    stages/NAME/KEY.lock        flock: shared while in use; pruning needs it alone
    stages/NAME/KEY.building    flock: held while building
    shared/NAME/                parts that results of stages are hard links to

KEY is the SHA-256 of the stage's inputs, contents of files included. A result
appears by one rename, so a power cut leaves a whole result or none.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from recovery.errors import SpaceError, ToolError
from recovery.reporter import Reporter, SilentReporter

# Results kept of every stage; older ones go when nobody uses them.
KEEP = 16

Input = str | int | bool | bytes | Path | None | list["Input"] | dict[str, "Input"]


def default_directory() -> Path:
    """$ORBITAL_CACHE, or orbital below the user's cache directory."""
    chosen = os.environ.get("ORBITAL_CACHE")
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "orbital"


class Cache:
    """Results of stages in one directory, shared safely by concurrent builds."""

    def __init__(self, directory: Path, reporter: Reporter | None = None) -> None:
        self.directory = directory.absolute()
        self._stages = self.directory / "stages"
        self._reporter: Reporter = reporter or SilentReporter()
        self._in_use: dict[Path, int] = {}

    def stage(
        self,
        name: str,
        inputs: Mapping[str, Input],
        build: Callable[[Path], None],
        *,
        refresh: bool = False,
    ) -> Path:
        """The directory that build fills from inputs, built only if it is not there yet.

        inputs must name everything the result depends on; a Path stands for
        the content of its file or tree. refresh builds again although the
        inputs are the same (the Debian mirror moved), and later calls use the
        new result.

        Raises SpaceError when the disk is full, and whatever build raises;
        then nothing is left behind.
        """
        key = _digest_inputs(self, name, inputs)
        area = self._stages / name
        _make_directory(area)
        # Shared, until this process ends: from here on nobody prunes the result.
        lock = self._open_lock(area / f"{key}.lock")
        fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            result = self._result(area, key)
            if result.is_dir() and not refresh:
                self._reporter.message(f"{name}: cached")
            else:
                result = self._build(name, area, key, build, refresh=refresh)
        except BaseException:
            os.close(lock)
            raise
        self._use(result, lock)
        self._prune(area)
        return result

    def _build(
        self, name: str, area: Path, key: str, build: Callable[[Path], None], *, refresh: bool
    ) -> Path:
        """Builds the result unless another process has done so in the meantime."""
        # A lock of its own: users of a result keep theirs, and must not hold up a builder.
        building = self._open_lock(area / f"{key}.building")
        try:
            fcntl.flock(building, fcntl.LOCK_EX)
            turn = _read_turn(area / f"{key}.turn") + (1 if refresh else 0)
            result = area / f"{key}-{turn}"
            if not result.is_dir():
                started = time.monotonic()
                self._reporter.stage(name)
                _build_into(result, name, build)
                self._reporter.message(f"{name}: {time.monotonic() - started:.1f} s")
            if refresh:
                (area / f"{key}.turn").write_text(str(turn))
            return result
        finally:
            os.close(building)

    def content(self, path: Path) -> str:
        """SHA-256 of the file's or the tree's content; remembered for results of stages."""
        absolute = path.absolute()
        if not absolute.is_relative_to(self._stages):
            return digest_path(absolute)
        parts = absolute.relative_to(self._stages).parts
        note = self._stages / parts[0] / "@".join((f"{parts[1]}.content", *parts[2:]))
        try:
            return note.read_text()
        except FileNotFoundError:
            digest = digest_path(absolute)
            temporary = note.with_name(f"{note.name}.{os.getpid()}")
            temporary.write_text(digest)
            temporary.rename(note)
            return digest

    def shared(self, name: str) -> Path:
        """A folder for parts that results share as hard links; parts without links are pruned."""
        directory = self.directory / "shared" / name
        _make_directory(directory)
        return directory

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of each stage: number of results and their bytes on disk."""
        found: dict[str, tuple[int, int]] = {}
        for area in sorted(self._stages.glob("*")):
            results = [path for path in area.iterdir() if path.is_dir()]
            found[area.name] = (len(results), sum(map(_tree_size, results)))
        return found

    def clean(self) -> int:
        """Removes every result that no build is using; returns how many."""
        removed = sum(self._prune(area, keep=0) for area in sorted(self._stages.glob("*")))
        self._prune_shared(age=0)
        return removed

    def _prune_shared(self, age: float) -> None:
        """Removes parts that no result is a link to. age: seconds a running build may need."""
        for part in (self.directory / "shared").glob("*/*"):
            try:
                info = part.stat()
            except FileNotFoundError:
                # Another process prunes as well.
                continue
            unused = stat.S_ISREG(info.st_mode) and info.st_nlink == 1
            if unused and time.time() - info.st_mtime > age:
                part.unlink(missing_ok=True)

    def _result(self, area: Path, key: str) -> Path:
        return area / f"{key}-{_read_turn(area / f'{key}.turn')}"

    def _open_lock(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _use(self, result: Path, lock: int) -> None:
        """Keeps the shared lock until this process ends, so that nobody prunes the result."""
        os.utime(result)
        if result in self._in_use:
            os.close(lock)
        else:
            self._in_use[result] = lock

    def _prune(self, area: Path, keep: int = KEEP) -> int:
        results = [path for path in area.iterdir() if path.is_dir()]
        results.sort(key=_last_use, reverse=True)
        removed = 0
        for result in results[keep:]:
            key = result.name.partition("-")[0]
            lock = self._open_lock(area / f"{key}.lock")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                if not result.is_dir():
                    continue
                # Out of sight first: a kill here leaves a .partial, which nobody reads.
                doomed = result.with_name(f"{result.name}.partial")
                shutil.rmtree(doomed, ignore_errors=True)
                if not result.name.endswith(".partial"):
                    result.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
                for note in area.glob(f"{result.name}.content*"):
                    note.unlink()
                removed += 1
            finally:
                os.close(lock)
        if removed:
            self._prune_shared(age=3600)
        return removed


def _last_use(result: Path) -> float:
    """When a result was used last; the beginning of time when another process has pruned it."""
    try:
        return result.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _build_into(result: Path, name: str, build: Callable[[Path], None]) -> None:
    partial = result.with_name(f"{result.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        build(partial)
        partial.rename(result)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise space_error(error, f"build {name}", partial) or error from error


def space_error(error: BaseException, purpose: str, where: Path) -> SpaceError | None:
    """A SpaceError if error means that the disk is full, otherwise None."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, ToolError) and "No space left on device" in error.details:
        full = True
    if not full:
        return None
    return SpaceError(
        f"cannot {purpose}: the disk is full",
        details=f"{where}: {error}",
        resolution="free space, for example with `orbital image cache --clean`, and run it again",
    )


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(
            f"cannot use the cache directory {path}",
            details=str(error),
            resolution="set ORBITAL_CACHE to a directory you can write to",
        ) from error


def _read_turn(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0


def _tree_size(directory: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))


def _digest_inputs(cache: Cache, name: str, inputs: Mapping[str, Input]) -> str:
    def canonical(value: Input) -> object:
        if isinstance(value, Path):
            return ["content", cache.content(value)]
        if isinstance(value, bytes):
            return ["bytes", hashlib.sha256(value).hexdigest()]
        if isinstance(value, list):
            return ["list", [canonical(item) for item in value]]
        if isinstance(value, dict):
            return ["map", {key: canonical(item) for key, item in value.items()}]
        return value

    document = [name, {key: canonical(value) for key, value in inputs.items()}]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_path(path: Path) -> str:
    """SHA-256 of a file's content, or of a tree: names, kinds, modes, contents and targets.

    Raises ToolError when path does not exist.
    """
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if not path.is_dir():
        raise ToolError(f"cannot read {path}: it does not exist")
    whole = hashlib.sha256()
    for entry in sorted(path.rglob("*")):
        if "__pycache__" in entry.parts:
            continue
        relative = entry.relative_to(path).as_posix()
        if entry.is_symlink():
            line = f"link {relative} {entry.readlink()}"
        elif entry.is_dir():
            line = f"directory {relative}"
        else:
            line = f"file {relative} {entry.stat().st_mode & 0o7777:o} {digest_path(entry)}"
        whole.update(line.encode("utf-8", "surrogateescape") + b"\0")
    return whole.hexdigest()
