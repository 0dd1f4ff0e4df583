"""Prints what checking documents found; shared by `orbital board` and `orbital manifest`."""

from __future__ import annotations

from collections.abc import Sequence

from manifests.checking import Checked
from orbital.output import Output, error_document
from recovery.errors import ManifestError


def print_checked(outcomes: Sequence[Checked], output: Output) -> int:
    """Prints one outcome a line and returns the exit code."""
    documents: list[dict[str, object]] = []
    lines: list[str] = []
    for outcome in outcomes:
        document: dict[str, object] = {
            "file": str(outcome.path),
            "kind": outcome.kind,
            "ok": outcome.error is None,
        }
        if outcome.error is None:
            lines.append(f"{outcome.path}: {outcome.kind}: valid")
        else:
            document["error"] = error_document(outcome.error)
            lines.extend(str(outcome.error).replace("\n", "\n  ").splitlines())
        documents.append(document)
    output.result({"documents": documents}, "\n".join(lines))
    bad = any(outcome.error is not None for outcome in outcomes)
    return ManifestError.exit_code if bad else 0
