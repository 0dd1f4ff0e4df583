"""Where updates come from and when: the image's policy, overridden by /etc/orbital/update.json.

```json
{"source": "https://updates.example.org/gateway", "automatic": true,
 "window_start": "22:00", "window_end": "04:00", "reboot": true,
 "budget_update": "60MiB", "budget_month": "200MiB", "prefer": "bytes"}
```

Every key is optional. /etc belongs to the generation: a change is copied to
the next one and comes back with a rollback.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from manifests.decoding import decode_json
from manifests.sizes import Size
from recovery.device import DeviceConfig, Preference, UpdatePolicy
from recovery.errors import ManifestError
from updater import window

OVERRIDE = Path("etc/orbital/update.json")


class _Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: str | None = None
    automatic: bool | None = None
    window_start: str | None = None
    window_end: str | None = None
    reboot: bool | None = None
    budget_update: str | None = None
    budget_month: str | None = None
    prefer: Preference | None = None


def load_policy(config: DeviceConfig, root: Path = Path("/")) -> UpdatePolicy:
    """The policy that holds on this device.

    Raises ManifestError when the override is not valid: a typing error must
    not silently turn updates off, or on.
    """
    path = root / OVERRIDE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return config.update
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}") from error
    try:
        override = decode_json(data, _Override)
    except msgspec.MsgspecError as error:
        raise ManifestError(
            f"cannot use {path}: {error}",
            resolution="correct the file, or remove it to use the image's own policy",
        ) from error
    image = config.update
    policy = UpdatePolicy(
        source=image.source if override.source is None else override.source,
        automatic=image.automatic if override.automatic is None else override.automatic,
        window_start=image.window_start if override.window_start is None else override.window_start,
        window_end=image.window_end if override.window_end is None else override.window_end,
        reboot=image.reboot if override.reboot is None else override.reboot,
        budget_update=_size(path, "budget_update", override.budget_update, image.budget_update),
        budget_month=_size(path, "budget_month", override.budget_month, image.budget_month),
        prefer=image.prefer if override.prefer is None else override.prefer,
    )
    window.parse(policy.window_start, policy.window_end)
    return policy


def _size(path: Path, key: str, text: str | None, default: int) -> int:
    """Bytes that a key asks for. Raises ManifestError when it is not a size."""
    if text is None:
        return default
    try:
        return Size.parse(text)
    except ValueError as error:
        raise ManifestError(
            f"cannot use {path}: {key} is not a size: {text!r}",
            resolution="write a number and B, KiB, MiB or GiB, for instance 60MiB; 0B is no limit",
        ) from error
