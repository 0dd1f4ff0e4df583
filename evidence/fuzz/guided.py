"""Coverage-guided fuzzing of one target with atheris: `python -m evidence.fuzz.guided NAME ...`.

A process for each target, since libFuzzer ends it. All that follows NAME goes
to libFuzzer, whose own mutations are used besides ours for documents and lines.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Never returns."""
    name, *options = arguments
    atheris = importlib.import_module("atheris")
    # Only what is imported below is measured: find its modules before they are loaded.
    with atheris.instrument_imports(include=list(_modules(name)), enable_loader_override=False):
        targets = importlib.import_module("evidence.fuzz.targets")
    run = importlib.import_module("evidence.fuzz.run")
    mutate = importlib.import_module("evidence.fuzz.mutate").mutate
    target = targets.find(name)
    seeds = target.seeds()

    def once(data: bytes) -> None:
        outcome = run.judge(target, data)
        if outcome not in ("", "refused"):
            raise AssertionError(outcome)

    def change(data: bytes, size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if target.form == "bytes" or chance.random() < 0.3:
            return bytes(atheris.Mutate(data, size))
        return bytes(mutate(target.form, data, seeds, chance)[:size])

    run.judge_quietly(target)
    atheris.Setup([sys.argv[0], *options], once, custom_mutator=change)
    # libFuzzer has its own limits of memory, and needs more for itself as it learns.
    with run.limits(target, memory=False):
        atheris.Fuzz()


def _modules(name: str) -> tuple[str, ...]:
    # The table imports what it is about, so it cannot be asked.
    if name.startswith("delta-"):
        return ("delta", "updater", "manifests")
    return ("recovery", "updater", "manifests", "imager", *(["tuf"] if name == "tuf" else []))


if __name__ == "__main__":
    main(sys.argv[1:])
