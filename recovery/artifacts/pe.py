"""A UKI: an EFI program whose signature says what all of it is.

Microsoft, "PE Format": DOS header, PE32+ headers, sections, the attribute certificate table
at the end. The signed digest covers all but the checksum, the entry of the directory that
says where the signatures are, and these themselves; they are checked by themselves.
"""

from __future__ import annotations

import hmac
import struct

from recovery.artifacts import authenticode
from recovery.artifacts.content import Artifact, Checked, DamageError

_DOS_SIZE, _FILE_HEADER, _SECTION = 64, 24, 40
_FARTHEST_HEADER = 1 << 16
_MOST_SECTIONS = 96
_PE32_PLUS = 0x20B
# Places in the optional header of PE32+.
_IMAGE_SIZE, _HEADERS_SIZE, _CHECKSUM, _DIRECTORIES, _CERTIFICATES = 56, 60, 64, 108, 144
_SMALLEST_OPTIONAL = _CERTIFICATES + 8
# WIN_CERTIFICATE: length, revision 2.0, WIN_CERT_TYPE_PKCS_SIGNED_DATA.
_ENTRY = struct.Struct("<IHH")
_PKCS7 = (0x0200, 0x0002)
_MOST_SIGNATURES = 8
# What the stub in a UKI looks for.
_NEEDED = frozenset((b".linux", b".initrd", b".cmdline"))
_UNSIGNED = "it has no signature, so only its headers could be checked"


def check(artifact: Artifact, *, must_be_signed: bool = False) -> Checked:
    """The whole file. Raises DamageError, OSError."""
    (header,) = struct.unpack("<I", artifact.take(0, _DOS_SIZE)[60:])
    if artifact.take(0, 2) != b"MZ" or not _DOS_SIZE <= header <= _FARTHEST_HEADER:
        raise DamageError("has a damaged header")
    file_header = artifact.take(header, _FILE_HEADER)
    sections, optional_size = struct.unpack("<6xH12xH2x", file_header)
    if file_header[:4] != b"PE\0\0" or not 1 <= sections <= _MOST_SECTIONS:
        raise DamageError("has a damaged header")
    at = header + _FILE_HEADER
    if not _SMALLEST_OPTIONAL <= optional_size <= _FARTHEST_HEADER:
        raise DamageError("has a damaged header")
    optional = artifact.take(at, optional_size)
    (kind,) = struct.unpack_from("<H", optional)
    image_size, headers_size = struct.unpack_from("<II", optional, _IMAGE_SIZE)
    (directories,) = struct.unpack_from("<I", optional, _DIRECTORIES)
    start, size = struct.unpack_from("<II", optional, _CERTIFICATES)
    table_end = at + optional_size + sections * _SECTION
    if kind != _PE32_PLUS or directories <= 4 or not table_end <= headers_size <= artifact.size:
        raise DamageError("has a damaged header")
    table = artifact.take(at + optional_size, sections * _SECTION)
    end = _sections_end(table, headers_size, image_size, start or artifact.size)
    if not start and not size:
        _check_unsigned(artifact, end, must_be_signed)
        return Checked(artifact.size, _UNSIGNED)
    if start % 8 or start < end or start + size != artifact.size:
        raise DamageError("has a damaged header")
    checksum, entry = at + _CHECKSUM, at + _CERTIFICATES
    covered = ((0, checksum), (checksum + 4, entry), (entry + 8, start))
    digests: dict[str, bytes] = {}
    for signed in _signatures(artifact, start):
        name = signed.algorithm
        if name not in digests:
            digests[name] = artifact.digest(*covered, algorithm=name)
        if not hmac.compare_digest(digests[name], signed.digest):
            raise DamageError("is not what its signature says")
    return Checked(artifact.size)


def _sections_end(table: bytes, first: int, image_size: int, limit: int) -> int:
    """Where the sections' data end in the file. first, limit: where they may lie."""
    address = end = 0
    taken: list[tuple[int, int]] = []
    names: set[bytes] = set()
    for at in range(0, len(table), _SECTION):
        virtual_size, virtual, size, start = struct.unpack_from("<4I", table, at + 8)
        if virtual < address or virtual + virtual_size > image_size:
            raise DamageError("has a damaged header")
        address = virtual + virtual_size
        if size:
            names.add(table[at : at + 8].rstrip(b"\0"))
            taken.append((start, start + size))
    if not names >= _NEEDED:
        raise DamageError("has a damaged header")
    for start, stop in sorted(taken):
        if start < max(first, end) or stop > limit:
            raise DamageError("is cut short, or has a damaged header")
        end = stop
    return end


def _check_unsigned(artifact: Artifact, end: int, must_be_signed: bool) -> None:
    """One that was signed and has lost the word of it is damaged. end: of its sections."""
    if must_be_signed:
        raise DamageError("is not signed, and this firmware starts nothing else")
    at = -(-end // 8) * 8
    if at + _ENTRY.size <= artifact.size:
        length, *kind = _ENTRY.unpack(artifact.take(at, _ENTRY.size))
        if tuple(kind) == _PKCS7 and at + length <= artifact.size:
            raise DamageError("has a damaged header")


def _signatures(artifact: Artifact, at: int) -> list[authenticode.Signed]:
    """All in the table, which reaches from here to the end of the file."""
    found: list[authenticode.Signed] = []
    while at < artifact.size:
        length, *kind = _ENTRY.unpack(artifact.take(at, _ENTRY.size))
        if tuple(kind) != _PKCS7 or not 0 < length - _ENTRY.size <= authenticode.LONGEST + 8:
            raise DamageError("has a damaged signature")
        data = artifact.take(at + _ENTRY.size, length - _ENTRY.size)
        try:
            found.append(authenticode.read_signature(_without_padding(data)))
        except ValueError as error:
            raise DamageError(f"has a damaged signature: {error}") from error
        at += -(-length // 8) * 8
        if len(found) > _MOST_SIGNATURES:
            raise DamageError("has too many signatures")
    if not found:
        raise DamageError("has a damaged signature")
    return found


def _without_padding(data: bytes) -> bytes:
    """Programs that sign count the padding to 8 bytes into the length, or do not."""
    if data[:2] != b"\x30\x82":
        return data
    size = 4 + int.from_bytes(data[2:4], "big")
    if size < len(data) < size + 8 and not any(data[size:]):
        return data[:size]
    return data
