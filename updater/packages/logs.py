"""What services of a package said: the journal, by unit."""

from __future__ import annotations

import json

from recovery import process
from recovery.errors import RefusedError
from recovery.generations import PackageEntry
from recovery.packages.model import Package


def command(
    entry: PackageEntry, manifest: Package, service: str | None, lines: int, *, follow: bool
) -> list[str]:
    """The journalctl command. Raises RefusedError when the package has no such service. Pure."""
    names = [item.name for item in manifest.services]
    if service is not None and service not in names:
        raise RefusedError(
            f"cannot show logs: package {entry.name} has no service {service}",
            resolution=f"its services: {', '.join(names) or 'none'}",
        )
    unit = f"orbital.{entry.name}.{service or '*'}"
    return [
        "journalctl",
        "--quiet",
        "--no-pager",
        f"--lines={lines}",
        # A service's own lines, those of its check, and systemd's about both.
        f"--unit={unit}.service",
        *([f"--unit={unit}.*.service"] if service is not None else []),
        *(["--follow"] if follow else []),
    ]


def read(words: list[str]) -> list[dict[str, object]]:
    """The entries as records: time in microseconds since the epoch, unit, priority, message."""
    done = process.run([*words, "--output=json"], timeout=60)
    found = []
    for line in done.stdout.splitlines():
        entry = json.loads(line)
        message = entry.get("MESSAGE", "")
        if isinstance(message, list):
            # journalctl's form of bytes that are not text.
            message = bytes(message).decode("utf-8", "replace")
        found.append(
            {
                "time": int(entry.get("__REALTIME_TIMESTAMP", 0)),
                "unit": entry.get("_SYSTEMD_UNIT") or entry.get("UNIT", ""),
                "priority": int(entry.get("PRIORITY", 6)),
                "message": message,
            }
        )
    return found


def show(words: list[str]) -> int:
    """Lets journalctl write to the terminal; returns its exit code (0 after Ctrl-C)."""
    child = process.start(words, stdout=None, stderr=None)
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        return 0
