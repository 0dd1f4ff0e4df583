"""Users of package services: JSON user records that systemd and libnss-systemd read. Pure.

Fixed numbers instead of DynamicUser=: the bus policy needs them before the
service starts, and state keeps its owner. Records and links below /run/userdb:
nss-systemd(8), "CONFIGURATION OF USERS AND GROUPS" in systemd-userdbd.service(8).
"""

from __future__ import annotations

import json

_LONGEST = 31


def user_name(package: str, service: str, uid: int) -> str:
    """The user's name: unique by its number, at most 31 characters."""
    return f"p{uid}-{package}-{service}"[:_LONGEST].rstrip("-_")


def records(name: str, uid: int) -> dict[str, str]:
    """Files below /run/userdb, by name: the user's and its group's record."""
    user = {
        "userName": name,
        "uid": uid,
        "gid": uid,
        "disposition": "system",
        "locked": True,
        "homeDirectory": "/",
        "shell": "/usr/sbin/nologin",
    }
    group = {"groupName": name, "gid": uid, "disposition": "system"}
    return {
        f"{name}.user": json.dumps(user, sort_keys=True) + "\n",
        f"{name}.group": json.dumps(group, sort_keys=True) + "\n",
    }


def links(name: str, uid: int) -> dict[str, str]:
    """Links below /run/userdb, by name: lookups by number."""
    return {f"{uid}.user": f"{name}.user", f"{uid}.group": f"{name}.group"}


def is_ours(file: str) -> bool:
    """Whether a file below /run/userdb was made from these functions."""
    stem, _, kind = file.rpartition(".")
    if kind not in ("user", "group"):
        return False
    number = stem.removeprefix("p").partition("-")[0]
    return len(number) == 5 and number.isdigit() and number.startswith("5")
