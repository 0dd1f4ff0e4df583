"""Unpacking and configuring Debian packages without running anything of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from imager.bootstrap import EXCLUDED
from imager.configure.accounts import make_accounts
from imager.configure.base import configure
from imager.configure.links import enable_at_installation, link_alternatives
from imager.configure.pam import configure_pam
from imager.configure.scripts import alternatives, enabled_units, unexplained
from imager.configure.tmpfiles import apply_tmpfiles
from imager.deb import read_deb
from imager.tree import Entry, Tree
from imager.unpack import read_debs, unpack
from recovery.errors import ToolError
from tests.imager.debs import make_deb

LINKS = {"bin": Entry("symlink", target="usr/bin"), "usr/bin": Entry("directory")}
PASSWD = "root:*:0:0:root:/root:/bin/bash\nmail:*:8:8:mail:/var/mail:/usr/sbin/nologin\n"
GROUP = "root:*:0:\nmail:*:8:\nvideo:*:44:\n"
ENABLE = """\
#!/bin/sh
set -e
# Automatically added by dh_installsystemd/13.24.2
if [ "$1" = "configure" ] ; then
\tdeb-systemd-helper unmask 'thing.service' >/dev/null || true

\t# was-enabled defaults to true, so new installations run enable.
\tif deb-systemd-helper --quiet was-enabled 'thing.service'; then
\t\t# Enables the unit on first installation.
\t\tdeb-systemd-helper enable 'thing.service' >/dev/null || true
\tfi
fi
# End automatically added section
exit 0
"""
DISABLED = ENABLE.replace(
    "\tdeb-systemd-helper unmask", "\tif deb-systemd-helper debian-installed 'thing.service'; then"
)


def text(content: str) -> Entry:
    return Entry("file", content=content.encode())


def unpacked(tmp_path: Path, *archives: bytes, excluded: tuple[str, ...] = ()) -> Tree:
    return unpack(read_debs(archives, tmp_path / "parts"), excluded)


def accounts(**sysusers: str) -> Tree:
    tree = Tree()
    tree.file("usr/share/base-passwd/passwd.master", PASSWD)
    tree.file("usr/share/base-passwd/group.master", GROUP)
    for name, lines in sysusers.items():
        tree.file(f"usr/lib/sysusers.d/{name}.conf", lines)
    make_accounts(tree, 20_000 * 86_400)
    return tree


def test_a_file_in_bin_of_an_older_package_goes_below_usr(tmp_path: Path) -> None:
    old = make_deb("aaa", {"bin": Entry("directory"), "bin/tool": text("tool")})
    tree = unpacked(tmp_path, old, make_deb("base-files", LINKS))
    assert tree.read("usr/bin/tool") == b"tool"
    link = tree.get("bin")
    assert link is not None and link.target == "usr/bin"
    # As dpkg keeps it; what is left out of images is found by this list.
    assert tree.read("var/lib/dpkg/info/aaa.list") == b"/.\n/bin\n/bin/tool\n"


def test_modes_and_owners_come_from_the_package_and_documentation_does_not(tmp_path: Path) -> None:
    files = {
        "usr/bin/wall": Entry("file", 0o2755, 0, 5, content=b"w"),
        "usr/share/doc/x/copyright": text("c"),
    }
    tree = unpacked(tmp_path, make_deb("x", files), excluded=EXCLUDED)
    assert tree.get("usr/share/doc/x/copyright") is None
    entry = tree.get("usr/bin/wall")
    assert entry is not None and (entry.mode, entry.uid, entry.gid) == (0o2755, 0, 5)


def test_two_packages_with_one_file_are_refused_unless_one_replaces_the_other(
    tmp_path: Path,
) -> None:
    one, two = {"usr/lib/f": text("one")}, {"usr/lib/f": text("two")}
    with pytest.raises(ToolError, match="cannot unpack bbb: aaa has /usr/lib/f as well"):
        unpacked(tmp_path / "x", make_deb("aaa", one), make_deb("bbb", two))
    replaces = "Replaces: zzz, bbb (<< 2), ccc:any\n"
    for first, second in (("aaa", "bbb"), ("ccc", "ddd")):
        newer = replaces if first == "aaa" else "Replaces: ccc\n"
        fields = {first: newer, second: ""} if first == "aaa" else {first: "", second: newer}
        tree = unpacked(
            tmp_path / first,
            make_deb(first, one, fields=fields[first]),
            make_deb(second, two, fields=fields[second]),
        )
        assert tree.read("usr/lib/f") == (b"one" if first == "aaa" else b"two")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    for name in ("x", "aaa", "ccc"):
        (tmp_path / name).mkdir()


@pytest.mark.parametrize("cut", [3, 70, 200, 400])
def test_a_damaged_archive_is_one_clear_error(tmp_path: Path, cut: int) -> None:
    archive = make_deb("x", {"usr/lib/f": text("content" * 100)})
    with pytest.raises(ToolError, match="cannot read a Debian package: it is damaged"):
        read_deb(archive[:cut], tmp_path)


def test_a_package_whose_script_nobody_has_read_is_refused(tmp_path: Path) -> None:
    script = "#!/bin/sh\nset -e\nadduser --system thing\n"
    debs = read_debs([make_deb("thing", postinst=script)], tmp_path / "parts")
    with pytest.raises(ToolError, match="cannot install the Debian package thing") as caught:
        configure(unpack(debs), debs, 0)
    assert caught.value.details == "adduser --system thing"
    assert "base.debian.without_scripts" in caught.value.resolution


def test_a_package_may_be_unpacked_without_what_its_script_does(tmp_path: Path) -> None:
    unit = text("[Install]\nWantedBy=multi-user.target\n")
    archives = [
        make_deb("base-passwd", {"usr/share/base-passwd/passwd.master": text(PASSWD),
                                 "usr/share/base-passwd/group.master": text(GROUP)}),
        make_deb("thing", {"usr/lib/systemd/system/thing.service": unit},
                 postinst=f"{ENABLE}adduser --system thing\n"),
    ]  # fmt: skip
    debs = read_debs(archives, tmp_path / "parts")
    tree = unpack(debs)
    configure(tree, debs, 0, ["thing"])
    # What is understood is done.
    assert "etc/systemd/system/multi-user.target.wants/thing.service" in tree
    assert tree.read("etc/passwd").decode() == PASSWD


def test_sections_of_debhelper_are_understood_and_unknown_ones_are_not() -> None:
    assert unexplained(ENABLE) == ""
    other = ENABLE.replace("dh_installsystemd/", "dh_somethingnew/")
    assert "deb-systemd-helper enable" in unexplained(other)


def test_a_unit_is_enabled_as_its_package_says() -> None:
    tree = Tree()
    unit = "[Unit]\n[Install]\nWantedBy=multi-user.target\nAlias=other.service\n"
    tree.file("usr/lib/systemd/system/thing.service", unit)
    assert enabled_units(DISABLED) == []
    enable_at_installation(tree, enabled_units(ENABLE))
    for link in ("multi-user.target.wants/thing.service", "other.service"):
        entry = tree.get(f"etc/systemd/system/{link}")
        assert entry is not None and entry.target == "/usr/lib/systemd/system/thing.service"


def test_the_alternative_of_highest_priority_that_is_there_is_linked() -> None:
    script = (
        "update-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5 \\\n"
        "  --slave /usr/share/man/awk.1 awk.1 /usr/share/man/mawk.1 \\\n"
        "  --slave /usr/bin/nawk nawk /usr/bin/mawk || true\n"
        "update-alternatives --install /usr/bin/awk awk /usr/bin/busybox 3\n"
        "update-alternatives --install /usr/bin/awk awk /usr/bin/gawk 10\n"
        "update-alternatives --remove awk /usr/bin/mawk\n"
    )
    tree = Tree()
    for name in ("mawk", "busybox"):
        tree.file(f"usr/bin/{name}", name, 0o755)
    link_alternatives(tree, alternatives(script))
    assert tree.read("usr/bin/awk") == tree.read("usr/bin/nawk") == b"mawk"
    entry = tree.get("usr/bin/awk")
    assert entry is not None and entry.target == "/etc/alternatives/awk"
    assert tree.glob("usr/share/**") == []


def test_users_of_sysusers_get_locked_accounts_and_known_numbers() -> None:
    tree = accounts(
        a='# comment with "\nu! systemd-network - "Network Management"\nu mail 8 -\n',
        b='u messagebus - "Bus" /nonexistent\ng render -\ng video 44 -\n',
    )
    assert tree.read("etc/passwd").decode() == PASSWD + (
        "systemd-network:x:998:998:Network Management:/:/usr/sbin/nologin\n"
        "messagebus:x:997:997:Bus:/nonexistent:/usr/sbin/nologin\n"
    )
    assert tree.read("etc/group").decode() == GROUP + (
        "systemd-network:x:998:\nmessagebus:x:997:\nrender:x:992:\n"
    )
    assert tree.read("etc/shadow") == (
        b"systemd-network:!*:20000:::::1:\nmessagebus:!*:20000::::::\n"
    )
    shadow = tree.get("etc/shadow")
    assert shadow is not None and shadow.mode == 0


def test_the_number_of_a_user_does_not_depend_on_other_packages() -> None:
    def number(tree: Tree, name: str) -> str:
        lines = tree.read("etc/passwd").decode().splitlines()
        return next(line.split(":")[2] for line in lines if line.startswith(f"{name}:"))

    alone = number(accounts(z="u zebra - -\n"), "zebra")
    many = accounts(a="".join(f"u user{n} - -\n" for n in range(20)), z="u zebra - -\n")
    assert number(many, "zebra") == alone
    assert 300 <= int(alone) < 900


def test_sysusers_lines_that_are_not_supported_are_refused() -> None:
    with pytest.raises(
        ToolError, match=r"cannot make the users of /usr/lib/sysusers.d/a\.conf: m "
    ):
        accounts(a="m mail video\n")


def test_tmpfiles_outside_var_and_run_are_made_and_nothing_else() -> None:
    tree = Tree()
    tree.directory("root", 0o755)
    tree.file("etc/kept", "old")
    lines = (
        "d /etc/credstore 0700 root root\nL+ /etc/mtab - - - - ../proc/self/mounts\n"
        "L /etc/kept - - - - other\nd- /root :0700 root :root -\nd /run/x 0755 user user\n"
        "f^ /etc/hosts - - - - network.hosts\nd /var/lib/x 0755\nr! /forcefsck\n"
    )
    tree.file("usr/lib/tmpfiles.d/a.conf", lines)
    apply_tmpfiles(tree, ["a.conf", "absent.conf"])
    made = {path: (entry.kind, entry.mode) for path, entry in tree.items() if "usr" not in path}
    assert made == {
        "etc": ("directory", 0o755), "etc/credstore": ("directory", 0o700),
        "etc/kept": ("file", 0o644), "etc/mtab": ("symlink", 0o777), "root": ("directory", 0o755),
    }  # fmt: skip
    tree.file("usr/lib/tmpfiles.d/b.conf", "d /etc/x 0700 daemon daemon\n")
    with pytest.raises(ToolError, match=r"cannot apply a line of /usr/lib/tmpfiles\.d/b\.conf"):
        apply_tmpfiles(tree, ["b.conf"])


def test_pam_jumps_over_the_modules_that_follow_and_the_refusal() -> None:
    tree = Tree()
    template = "$auth_primary\nauth requisite pam_deny.so\n$auth_additional\n# end\n"
    tree.file("usr/share/pam/common-auth", template)
    tree.file(
        "usr/share/pam-configs/unix",
        "Name: Unix\nDefault: yes\nPriority: 256\nAuth-Type: Primary\n"
        "Auth:\n\t[success=end default=ignore]\tpam_unix.so try_first_pass\n"
        "Auth-Initial:\n\t[success=end default=ignore]\tpam_unix.so\n",
    )
    tree.file(
        "usr/share/pam-configs/ldap",
        "Name: L\nDefault: yes\nPriority: 128\nAuth-Type: Primary\n"
        "Auth:\n\t[success=end default=ignore]\tpam_ldap.so use_first_pass\n",
    )
    tree.file(
        "usr/share/pam-configs/off",
        "Name: O\nDefault: no\nPriority: 500\nAuth-Type: Primary\nAuth:\n\trequired\tpam_off.so\n",
    )
    configure_pam(tree)
    assert tree.read("etc/pam.d/common-auth").decode() == (
        "auth\t[success=2 default=ignore]\tpam_unix.so\n"
        "auth\t[success=1 default=ignore]\tpam_ldap.so use_first_pass\n"
        "auth requisite pam_deny.so\n# end\n"
    )
