"""Readers of what a network sends: TUF metadata and answers of a web server."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Key

from evidence.fuzz.records import folder
from imager.repository.create import create
from imager.repository.roles import TOP_ROLES, Periods
from recovery.errors import FetchError, OrbitalError
from updater.http import HttpSource, Limits
from updater.source import NotFoundError
from updater.trust import TrustedRepository

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
_FILES = {
    "timestamp": "metadata/timestamp.json",
    **{name: f"metadata/1.{name}.json" for name in ("root", "snapshot", "targets", "os")},
}
ROLES = ("root", "timestamp", "snapshot", "targets", "os")


class FixedKeys:
    """The same keys in every run: of their role's name."""

    def __init__(self) -> None:
        """Makes the keys."""
        self.keys: dict[str, list[Signer]] = {
            role: [_signer(f"{role} {number}") for number in range(3 if role == "root" else 1)]
            for role in (*TOP_ROLES, "os")
        }

    def public_keys(self, role: str) -> dict[str, Key]:
        """See imager.repository.roles.Keyring."""
        return {signer.public_key.keyid: signer.public_key for signer in self.keys.get(role, ())}

    def signers(self, role: str) -> list[Signer]:
        """See imager.repository.roles.Keyring."""
        return self.keys.get(role, [])

    def publishers(self) -> None:
        """Nothing is known of publishers."""
        return


def _signer(name: str) -> CryptoSigner:
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest()))


@functools.cache
def repository() -> tuple[bytes, dict[str, bytes]]:
    """An empty repository: the anchor, and its metadata by file name."""
    place = folder()
    try:
        anchor = create(place / "repository", FixedKeys(), periods=Periods(), now=NOW)
        files = {
            f"metadata/{path.name}": path.read_bytes()
            for path in (place / "repository/metadata").iterdir()
        }
    finally:
        shutil.rmtree(place)
    return anchor, files


class _Memory:
    """A source in memory."""

    name = "memory"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def open(self, path: str, max_size: int) -> Iterator[bytes]:
        """See updater.source.Source."""
        if path not in self.files:
            raise NotFoundError(f"cannot fetch {path} from memory")
        if len(self.files[path]) > max_size:
            raise FetchError(f"cannot fetch {path} from memory: too long")
        yield self.files[path]

    def open_range(self, path: str, offset: int, size: int) -> Iterator[bytes]:
        """See updater.source.Source."""
        yield self.files[path][offset : offset + size]

    def close(self) -> None:
        """See updater.source.Source."""


def tuf_metadata(data: bytes) -> None:
    """Metadata of one role, {"role": ..., "signed": ...}: once unsigned, once signed by its keys.

    The second is what whoever has stolen that role's keys can make. "raw" in
    place of "signed" is taken as it stands.
    """
    try:
        document = json.loads(data)
        role, raw = document["role"], document.get("raw", "")
        name = _file_name(role)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        name, raw, document = "metadata/timestamp.json", None, {}
    anchor, files = repository()
    if raw is None:
        _refresh(anchor, {**files, name: data})
        return
    if isinstance(raw, str) and raw:
        _refresh(anchor, {**files, name: raw.encode("utf-8", "surrogatepass")})
        return
    signed = document.get("signed")
    original = json.loads(files[name])
    _refresh(anchor, {**files, name: _json({**original, "signed": signed})})
    # Its keys vouch for it, and nobody above says which bytes it has.
    changed = {**files, name: _signed(role, signed)}
    for upper, below in (("snapshot", ("os", "targets")), ("timestamp", ("snapshot",))):
        if role in (upper, "root"):
            continue
        place = _file_name(upper)
        above = json.loads(changed[place])["signed"]
        for entry in below:
            if f"{entry}.json" in above["meta"]:
                above["meta"][f"{entry}.json"] = {"version": 1}
        changed[place] = _signed(upper, above)
    _refresh(anchor, changed)


def _file_name(role: str) -> str:
    """Where a role's metadata lies. Raises KeyError."""
    return _FILES[role]


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


def _signed(role: str, signed: Any) -> bytes:
    """The metadata with signatures of all keys of the role, as far as it can be signed."""
    signatures = []
    with contextlib.suppress(Exception):
        message = encode_canonical(signed).encode()  # type: ignore[union-attr]
        for signer in FixedKeys().signers(role):
            signatures.append(signer.sign(message).to_dict())
    return _json({"signatures": signatures, "signed": signed})


def _refresh(anchor: bytes, files: dict[str, bytes]) -> None:
    if "metadata/1.root.json" in files and files["metadata/1.root.json"] != anchor:
        files = {**files, "metadata/2.root.json": files["metadata/1.root.json"]}
    place = folder()
    try:
        (place / "root.json").write_bytes(anchor)
        now = (NOW + timedelta(hours=1)).timestamp()
        with TrustedRepository(
            _Memory(files), anchor=place / "root.json", directory=place / "tuf", built=0, now=now
        ) as trusted:
            trusted.refresh()
            trusted.role_of("os/gateway/board/releases.json")
            trusted.signed("os/gateway/board/releases.json")
            trusted.target("os/gateway/board/releases.json")
    except OrbitalError:
        return
    finally:
        shutil.rmtree(place, ignore_errors=True)


class _Server:
    """Answers each connection with the next of some byte strings, whatever it is asked."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.answers: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(1)
                connection.recv(65536)
                connection.sendall(self.answers.pop(0) if self.answers else b"")
                connection.shutdown(socket.SHUT_WR)
                # Until the other side is done; else what was sent may be dropped by a reset.
                while connection.recv(65536):
                    pass


@functools.cache
def _server() -> _Server:
    return _Server()


def http_answer(data: bytes) -> None:
    """Answers of a server, one a connection, divided by a line "--next--"; for file and part."""
    server = _server()
    limits = Limits(
        connect=1, silence=0.5, rate_window=0.5, first_contact=0, patience=0, longest_pause=0
    )
    for ranged in (False, True):
        server.answers = data.split(b"\n--next--\n")
        source = HttpSource(f"http://127.0.0.1:{server.port}/r", limits)
        size = 0
        try:
            blocks = source.open_range("x", 3, 100) if ranged else source.open("x", 4096)
            for block in blocks:
                size += len(block)
            if ranged:
                assert size == 100, "a part of another size was taken"
        except FetchError as error:
            str(error).encode("utf-8")
        finally:
            source.close()
        assert size <= 4096, "more was handed on than was asked for"
