"""python-tuf's client, without the HTTP library that it loads and we do not use.

`tuf.ngclient` loads its own fetcher with it, and that requests, urllib3, chardet and a file of
authorities: more than a fourth of the processor time of a small update. We always give it a fetcher
of ours, so something else stands for requests while it is loaded.
"""

from __future__ import annotations

import sys
from types import ModuleType


class _Missing:
    """Whatever is taken from the stand-in. Its own fetcher cannot be used."""

    def __init__(self, *_: object, **__: object) -> None:
        raise NotImplementedError("python-tuf's own fetcher is not loaded: give it another")


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> type[_Missing]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing


def _load() -> None:
    if "requests" in sys.modules:
        import tuf.ngclient
    else:
        sys.modules["requests"] = _StandIn("requests")
        try:
            import tuf.ngclient  # noqa: F401
        finally:
            del sys.modules["requests"]


_load()

from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig  # noqa: E402

__all__ = ["FetcherInterface", "Updater", "UpdaterConfig"]
