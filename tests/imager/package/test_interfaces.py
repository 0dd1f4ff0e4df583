"""Provided D-Bus interfaces: strict definitions, and what their versions promise to callers."""

from __future__ import annotations

from pathlib import Path

import pytest

from imager.package.interfaces import interface_findings
from imager.package.introspection import check_type, compare, parse_definitions
from imager.tree import Tree
from manifests.package_convert import definition_path
from recovery.packages import model
from tests.imager.package.bench import SERVICE, Bench

NAME = "org.example.Demo1"
FIRST = """
  <method name="Up"><arg type="s" direction="in"/><arg type="b" direction="out"/></method>
  <signal name="Changed"><arg type="a{sv}"/></signal>
  <property name="State" type="s" access="read"/>
"""
DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN" '
    '"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">'
)


def _document(members: str, name: str = NAME) -> str:
    return f'{DOCTYPE}<node><interface name="{name}">{members}</interface></node>'


def _package(bench: Bench, package: str, interface: str, members: str) -> Path:
    more = SERVICE + (
        f"provides:\n  - {{interface: {NAME}, version: '{interface}', service: main,\n"
        "     bus_name: org.example.Demo, definition: demo.xml}\n"
    )
    files = {"usr/lib/demo/serve": "x"}
    folder = bench.package(
        version=package, kind="feature", more=more, files=files, executable=[*files]
    )
    (folder / "demo.xml").write_text(_document(members))
    return folder


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("Up", "Rise"), "method Up is gone"),
        (('type="s" direction="in"', 'type="u" direction="in"'), "method Up was (s) -> (b) and is"),
        (('type="b" direction="out"', 'type="i" direction="out"'), "and is (s) -> (i)"),
        (("a{sv}", "s"), "signal Changed was (a{sv}) and is (s)"),
        (('name="State" type="s"', 'name="State" type="u"'), "property State was (s, read)"),
        (('access="read"', 'access="write"'), "property State was (s, read) and is (s, write)"),
    ],
)
def test_what_breaks_callers_needs_a_new_major(
    bench: Bench, change: tuple[str, str], reason: str
) -> None:
    first = bench.build(_package(bench, "1.0", "1.0", FIRST)).opk.path
    changed = FIRST.replace(*change)
    for version in ("1.0", "1.1"):
        problems = bench.problems(_package(bench, "1.1", version, changed), previous=first)
        assert "breaks callers of version 1.0 (in 1.0)" in problems
        assert reason in problems
        assert "make it 2.0, or undo it" in problems
    bench.build(_package(bench, "1.2", "2.0", changed), previous=first)


@pytest.mark.parametrize(
    ("added", "what"),
    [
        (FIRST + '<method name="Down"/>', "method Down"),
        (FIRST.replace('access="read"', 'access="readwrite"'), "property State was"),
    ],
)
def test_what_is_added_needs_a_new_minor(bench: Bench, added: str, what: str) -> None:
    first = bench.build(_package(bench, "1.0", "1.3", FIRST)).opk.path
    problems = bench.problems(_package(bench, "1.1", "1.3", added), previous=first)
    assert f"adds to version 1.3 (in 1.0): {what}" in problems
    assert "make it 1.4" in problems
    bench.build(_package(bench, "1.2", "1.4", added), previous=first)


def test_versions_do_not_go_back(bench: Bench) -> None:
    first = bench.build(_package(bench, "1.0", "1.10", FIRST)).opk.path
    problems = bench.problems(_package(bench, "1.1", "1.9", FIRST), previous=first)
    assert "goes back behind version 1.10" in problems
    bench.build(_package(bench, "1.2", "1.10", FIRST), previous=first)


def test_names_of_arguments_and_annotations_are_free() -> None:
    plain = parse_definitions(_document(FIRST).encode())[NAME]
    annotated = FIRST.replace(
        '<method name="Up">',
        '<method name="Up"><annotation name="org.freedesktop.DBus.Deprecated" value="true"/>',
    ).replace('direction="in"', 'direction="in" name="which"')
    changes = compare(plain, parse_definitions(_document(annotated).encode())[NAME])
    assert (changes.breaking, changes.added) == ((), ())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (_document(FIRST, "org.example.Other1"), "its definition defines org.example.Other1, not"),
        ("<node/>", "its definition defines nothing, not it"),
        ("<node>", "not well-formed XML"),
        (None, "is not in the package"),
    ],
)
def test_a_definition_must_define_its_interface(content: str | None, problem: str) -> None:
    provided = model.Provided(NAME, "1.0", "org.example.Demo", "main", definition_path(NAME))
    manifest = model.Package(
        "demo", "1.0", "feature", "publisher", "all", "A demo", provides=(provided,)
    )
    tree = Tree()
    if content is not None:
        tree.file(definition_path(NAME), content)
    found = [str(finding) for finding in interface_findings(manifest, tree, None)]
    assert len(found) == 1
    assert found[0].startswith(f"provides {NAME} 1.0: ")
    assert problem in found[0]


def test_a_required_interface_must_be_provided(bench: Bench) -> None:
    provider = bench.build(_package(bench, "1.0", "1.2", FIRST)).opk.path
    text = f"""
        depends: [{{package: demo}}]
        requires:
          - {{interface: NAME, package: demo, versions: 'VERSIONS'}}
        {SERVICE.strip()}
    """
    files = {"usr/lib/demo/two": "x"}

    def user(name: str, interface: str, versions: str) -> Path:
        more = text.replace("NAME", interface).replace("VERSIONS", versions)
        more = "\n".join(line.removeprefix("        ") for line in more.splitlines()) + "\n"
        return bench.package(
            name, kind="feature", more=more.replace("/usr/lib/demo/serve", "/usr/lib/demo/two"),
            files=files, executable=[*files],
        )  # fmt: skip

    bench.build(user("fine", NAME, ">=1.1, <2"), against=[provider])
    later = bench.problems(user("later", NAME, ">=2"), against=[provider])
    assert "provides version 1.2, which is not >=2" in later
    other = bench.problems(user("other", "org.example.Other1", "*"), against=[provider])
    assert "demo 1.0 does not provide it" in other


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("<node>", "not well-formed"),
        ("", "not well-formed"),
        ('<!DOCTYPE node [<!ENTITY a "b">]><node/>', "declarations of its own"),
        ('<!DOCTYPE node [<!ENTITY a SYSTEM "/etc/passwd">]><node>&a;</node>', "of its own"),
        ("<interface/>", "does not belong into <the document>"),
        ("<node><method name='x'/></node>", "does not belong into <node>"),
        ("<node><interface name='x'/></node>", "not the name of an interface"),
        ("<node>text</node>", "text 'text' where none belongs"),
        (_document('<method name="a-b"/>'), "not the name of a method"),
        (_document('<method name="A"/><method name="A"/>'), "defined twice"),
        (_document('<property name="A" type="s"/>'), "has the access ''"),
        (_document('<property name="A" type="ss" access="read"/>'), "not one complete type"),
        (_document('<signal name="A"><arg type="s" direction="in"/></signal>'), "direction 'in'"),
        (_document('<method name="A"><arg/></method>'), "not one complete type"),
        (_document("") + " " * (1 << 20), "at most 1 MiB"),
    ],
)
def test_definitions_are_read_strictly(document: str, problem: str) -> None:
    with pytest.raises(ValueError, match=r"line|well-formed|MiB") as caught:
        parse_definitions(document.encode())
    assert problem in str(caught.value)


@pytest.mark.parametrize("good", ["y", "a{sv}", "(ia(ss)v)", "aaas", "a{s(a{oh}x)}"])
def test_types_of_the_specification_are_known(good: str) -> None:
    check_type(good)


@pytest.mark.parametrize(
    "bad",
    ["", "ss", "a", "()", "(s", "a{vs}", "{sv}", "a{s}", "a{svs}", "z", "a" * 40 + "s", "(s))"],
)
def test_other_types_are_not(bad: str) -> None:
    with pytest.raises(ValueError, match="type"):
        check_type(bad)
