"""The kinds of text that several documents use, each with what an error says is expected."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from manifests.versions import VERSION_PATTERN


def matching(pattern: str, expected: str) -> Meta:
    """Text with a pattern; expected says what it is, in errors and in editors."""
    return Meta(
        pattern=pattern,
        extra={"expected": expected},
        # Shown by the YAML language server instead of the pattern.
        extra_json_schema={"patternErrorMessage": f"expected {expected}"},
    )


Name = Annotated[
    str,
    matching(
        r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$",
        "a name of lower case letters, digits, - and _ (at most 63)",
    ),
]
Version = Annotated[str, matching(VERSION_PATTERN, 'a version such as "1.4" or "1.4.2-rc1"')]
Summary = Annotated[str, matching(r"^\S.{0,118}\S$", "one line of text (2 to 120 characters)")]
HostName = Annotated[
    str,
    matching(
        r"^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$",
        "a host name of letters, digits and - (at most 63)",
    ),
]
DebianPackage = Annotated[str, matching(r"^[a-z0-9][a-z0-9+.-]+$", "the name of a Debian package")]
Module = Annotated[str, matching(r"^[A-Za-z0-9_-]+$", 'a kernel module such as "virtio_blk"')]
KernelArgument = Annotated[
    str, matching(r"^[^\s\"']+$", "one kernel argument without blanks or quotes")
]
Unit = Annotated[
    str,
    matching(
        r"^[A-Za-z0-9:_.@\\-]+\.(service|socket|target|timer|path|mount|slice)$",
        'a systemd unit such as "systemd-networkd.service"',
    ),
]
FileName = Annotated[str, matching(r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", "a file name without a path")]
Soname = Annotated[
    str, matching(r"^[A-Za-z0-9_.+-]+\.so(\.[0-9]+)*$", 'a library such as "libc.so.6"')
]
TimeOfDay = Annotated[str, matching(r"^([01][0-9]|2[0-3]):[0-5][0-9]$", 'a time such as "02:30"')]
Url = Annotated[
    str,
    matching(
        r"^(https?|file)://[^\s]+$", "an address that starts with https://, http:// or file://"
    ),
]
CapabilityName = Annotated[
    str,
    matching(r"^[a-z]+(\.[a-z]+)+$", 'a capability such as "net.client" (see capabilities.yaml)'),
]
ProgramPath = Annotated[
    str, matching(r"^/usr/[^\s]+$", 'the full path of a program below /usr, such as "/usr/bin/wg"')
]
UsrPath = Annotated[
    str,
    matching(r"^usr/[A-Za-z0-9_.+@/-]+$", "a path below usr/ without a leading slash"),
]
SourcePath = Annotated[str, matching(r"^[^/].*$", "a path relative to the manifest's folder")]
Line = Annotated[str, matching(r"^[^\x00-\x1f\x7f]*$", "one line of text")]
InterfaceName = Annotated[
    str,
    matching(
        r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$",
        'a D-Bus name such as "org.example.Tunnel1"',
    ),
]
InterfaceVersion = Annotated[
    str, matching(r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$", 'MAJOR.MINOR such as "1.2"')
]
