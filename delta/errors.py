"""The one error of the decoders."""

from __future__ import annotations


class DeltaError(Exception):
    """A payload that cannot be decoded. The message says what was expected.

    Internal to the updater, which then fetches the frame in full; no user reads it but in a log.
    """
