"""Which mirror a build uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from imager.bootstrap import bootstrap
from imager.mirror import Mirror, find_mirror
from recovery.errors import FetchError, ToolError

DEB822 = """\
Types: deb
# URIs: http://commented.example/debian
URIs: http://main.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Types: deb-src
URIs: http://sources.example/debian
Suites: trixie
Components: main
"""


def apt(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def test_deb822_sources_name_main_and_security_archive(tmp_path: Path) -> None:
    found = find_mirror(apt(tmp_path, {"sources.list.d/debian.sources": DEB822}), {})
    assert found == Mirror("http://main.example/debian", "http://security.example/debian-security")


def test_one_line_sources_with_options_are_read(tmp_path: Path) -> None:
    text = (
        "# deb http://commented.example/debian stable main\n"
        "deb-src http://sources.example/debian stable main\n"
        "deb [arch=amd64 signed-by=/usr/share/x.gpg] http://main.example/debian stable main\n"
    )
    assert find_mirror(apt(tmp_path, {"sources.list": text}), {}) == Mirror(
        "http://main.example/debian"
    )


def test_third_party_archives_and_disabled_sources_are_not_debian(tmp_path: Path) -> None:
    files = {
        "sources.list.d/cloud.list": "deb http://cloud.example/apt cloud-sdk-bookworm main\n",
        "sources.list.d/off.sources": DEB822.replace("Types: deb\n", "Types: deb\nEnabled: no\n"),
    }
    with pytest.raises(ToolError, match="cannot find a Debian mirror") as caught:
        find_mirror(apt(tmp_path, files), {})
    assert "ORBITAL_MIRROR" in caught.value.resolution


def test_the_environment_wins_and_may_leave_security_to_the_machine(tmp_path: Path) -> None:
    directory = apt(tmp_path, {"sources.list.d/debian.sources": DEB822})
    one = find_mirror(directory, {"ORBITAL_MIRROR": "http://near.example/debian"})
    assert one == Mirror("http://near.example/debian", "http://security.example/debian-security")
    both = find_mirror(directory, {"ORBITAL_MIRROR": "http://a.example/d http://b.example/s"})
    assert both == Mirror("http://a.example/d", "http://b.example/s")
    # Only when asked for in so many words: updates of security are left out.
    assert find_mirror(directory, {"ORBITAL_MIRROR": "http://a.example/d -"}).security == ""


def test_an_unreachable_mirror_is_one_clear_error_without_output(tmp_path: Path) -> None:
    output = tmp_path / "base.tar"
    # A port of this machine where nobody listens.
    with pytest.raises(
        FetchError, match=r"cannot fetch Debian packages from http://127\.0\.0\.1:9/"
    ) as caught:
        bootstrap(
            ["base-files"],
            output,
            mirror=Mirror("http://127.0.0.1:9/debian"),
            epoch=0,
        )
    assert not output.exists()
    assert "Connection refused" in caught.value.details
    assert len(caught.value.details.splitlines()) < 6
    assert "ORBITAL_MIRROR" in caught.value.resolution
