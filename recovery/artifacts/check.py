"""Which check belongs to which kind of boot artifact."""

from __future__ import annotations

from recovery.artifacts.content import Artifact, Checked

# By boot control (`recovery.device`). The Raspberry Pi's files lie in a FAT without any hash.
KINDS = {"systemd-boot": "uki", "grub": "cpio", "u-boot": "fit"}


def check(kind: str, artifact: Artifact, *, must_be_signed: bool = False) -> Checked:
    """What is known of the artifact. kind: as in the index of an image.

    must_be_signed: the firmware starts nothing else. Raises DamageError, OSError.
    """
    if kind == "uki":
        from recovery.artifacts import pe

        return pe.check(artifact, must_be_signed=must_be_signed)
    if kind == "cpio":
        from recovery.artifacts import cpio

        return cpio.check(artifact)
    if kind == "fit":
        from recovery.artifacts import fit

        return fit.check(artifact)
    return Checked(artifact.size, "nothing is known of its kind")
