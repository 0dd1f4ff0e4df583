"""What the soak in QEMU needs, made once and kept in WORK/lab: releases, packages, factory disk.

Kept, and never made anew: the machine's disk is an overlay of the factory disk, and its slots hold
these very releases.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from evidence.soak.cycles import GOOD, GOOD_PACKAGES, ILL, ILL_PACKAGE, PACKAGE
from qemu.faulty import patient
from qemu.lab import Lab
from qemu.variants import service

# Of quiet after a commit: what a cycle waits for.
PROBATION_SECONDS = 5
_MADE = "made"
_FAILING = {"kind": "exec", "command": ["/usr/bin/false"], "deadline_seconds": 5}


def open_lab(work: Path) -> Lab:
    """The lab of a soak, with everything on offer."""
    lab = Lab(work / "lab")
    lab.directory.mkdir(parents=True, exist_ok=True)
    product = patient(lab.product)
    trial = msgspec.structs.replace(product.manifest.trial, probation_seconds=PROBATION_SECONDS)
    lab.product = replace(product, manifest=msgspec.structs.replace(product.manifest, trial=trial))
    if (lab.directory / _MADE).exists():
        lab.factory = lab.directory / "factory.img"
        lab.variables = lab.directory / "variables.fd"
        return lab
    first, second = GOOD
    lab.offer(first, allow_downgrade_from=(second,))
    lab.offer(second, delta_from=(first,))
    lab.offer(ILL, fault="unhealthy")
    for version in GOOD_PACKAGES:
        lab.offer_package(PACKAGE, version=version)
    lab.offer_package(PACKAGE, version=ILL_PACKAGE, services=service(PACKAGE, health=_FAILING))
    lab.factory  # noqa: B018
    lab.variables  # noqa: B018
    (lab.directory / _MADE).touch()
    return lab
