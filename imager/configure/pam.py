"""The common files of /etc/pam.d, as pam-auth-update(8) makes them from packages' profiles."""

from __future__ import annotations

import re
from dataclasses import dataclass

from imager.tree import Tree

_PROFILES = "usr/share/pam-configs"
_TEMPLATES = "usr/share/pam"
# Of each common file: the type of its lines, its name in the template, interactive or not.
_FILES = {
    "common-account": ("account", "account"),
    "common-auth": ("auth", "auth"),
    "common-password": ("password", "password"),
    "common-session": ("session", "session"),
    "common-session-noninteractive": ("session", "session_nonint"),
}


@dataclass(frozen=True)
class _Profile:
    priority: int
    fields: dict[str, list[str]]

    def value(self, name: str) -> str:
        return (self.fields.get(name) or [""])[0]


def configure_pam(tree: Tree) -> None:
    """Writes the common files, with every profile that is on by default."""
    profiles = [_profile(tree.read(path).decode()) for path in tree.glob(f"{_PROFILES}/*")]
    chosen = [profile for profile in profiles if profile.value("Default") == "yes"]
    chosen.sort(key=lambda profile: -profile.priority)
    for name, (kind, variable) in _FILES.items():
        template = f"{_TEMPLATES}/{name}"
        if template not in tree:
            continue
        text = tree.read(template).decode()
        for block in ("Primary", "Additional"):
            lines = _block(chosen, kind, block, interactive=not variable.endswith("nonint"))
            if not lines and block == "Primary":
                # Jumps over the refusal that follows.
                lines = [f"{kind}\t[default=1]\t\t\tpam_permit.so"]
            marker = f"${variable}_{block.lower()}\n"
            text = text.replace(marker, "".join(f"{line}\n" for line in lines))
        tree.file(f"etc/pam.d/{name}", text)


def _block(chosen: list[_Profile], kind: str, block: str, *, interactive: bool) -> list[str]:
    field = kind.capitalize()
    groups = [
        profile.fields.get(f"{field}-Initial" if number == 0 else field)
        or profile.fields.get(field, [])
        for number, profile in enumerate(
            profile
            for profile in chosen
            if profile.value(f"{field}-Type") == block
            and (interactive or profile.value("Session-Interactive-Only") != "yes")
        )
    ]
    lines = [line for group in groups for line in group]
    # "end" jumps over the lines of this block that follow, and over the refusal.
    return [
        f"{kind}\t" + line.replace("success=end", f"success={len(lines) - number}")
        for number, line in enumerate(lines)
    ]


def _profile(text: str) -> _Profile:
    fields: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line[:1].isspace() and name:
            fields[name].append(line.strip())
        elif found := re.match(r"([\w-]+):\s*(.*)", line):
            name = found[1]
            fields[name] = [found[2]] if found[2] else []
    return _Profile(int((fields.get("Priority") or ["0"])[0]), fields)
