"""Takes 2 MiB every tenth of a second and never gives them back."""

from __future__ import annotations

import time

time.sleep(8)  # Healthy at first.
kept: list[bytearray] = []
while True:
    kept.append(bytearray(b"x" * (2 << 20)))
    time.sleep(0.1)
