"""Root images: real erofs and dm-verity, and what is published of them."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Literal

import pytest
import zstandard

from imager.builddir import Published, encode_index, open_build, write_build
from imager.cache import Cache
from imager.lock import DebianPackage, format_lock, parse_lock
from imager.pyc import compile_python
from imager.root import RootFacts, build_root, verify_root
from imager.sbom import make_sbom
from imager.segments import SEGMENT_SIZE, cut
from imager.tools import Tools
from imager.tree import Tree
from manifests.catalogue import load_product
from manifests.index import Stream, chunk_name
from recovery.errors import ManifestError, ToolError
from recovery.reporter import SilentReporter

BUILT = 1_700_000_000


def tree() -> Tree:
    content = Tree()
    content.file("usr/bin/tool", bytes(range(256)) * 64, 0o4755)
    content.file("etc/empty", b"")
    content.symlink("bin", "usr/bin")
    content.directory("var/tmp", 0o1777)
    return content


def make(directory: Path, tools: Tools, name: str = "thing_1_board") -> tuple[Path, RootFacts]:
    directory.mkdir()
    path = directory / "root.img"
    return path, build_root(tree(), path, tools, name=name, built=BUILT)


def test_the_same_tree_gives_the_same_bytes_in_any_folder(tmp_path: Path, tools: Tools) -> None:
    one, facts = make(tmp_path / "one", tools)
    two, _ = make(tmp_path / "elsewhere", tools)
    assert one.read_bytes() == two.read_bytes()
    _, other = make(tmp_path / "other", tools, "thing_2_board")
    assert other.root_hash != facts.root_hash
    assert sorted(path.name for path in one.parent.iterdir()) == ["root.img"]


def test_the_superblock_names_the_image_by_its_root_hash(tmp_path: Path, tools: Tools) -> None:
    path, facts = make(tmp_path / "one", tools)
    data = path.read_bytes()
    assert facts.hash_offset % 4096 == 0
    assert facts.size == len(data)
    superblock = data[facts.hash_offset :]
    assert superblock[:8] == b"verity\0\0"
    assert superblock[16:32] == bytes.fromhex(facts.root_hash)[:16]
    shown = tools.run("veritysetup", "dump", f"--hash-offset={facts.hash_offset}", path).stdout
    assert str(uuid.UUID(facts.root_hash[:32])) in shown
    assert facts.salt in shown


@pytest.mark.parametrize("place", ["file system", "hash tree"])
def test_one_changed_byte_is_noticed(
    tmp_path: Path, tools: Tools, place: Literal["file system", "hash tree"]
) -> None:
    path, facts = make(tmp_path / "one", tools)
    offset = 5000 if place == "file system" else facts.hash_offset + 4096 + 7
    with path.open("r+b") as out:
        out.seek(offset)
        byte = out.read(1)[0]
        out.seek(offset)
        out.write(bytes([byte ^ 1]))
    with pytest.raises(ToolError, match="cannot complete veritysetup"):
        verify_root(path, facts, tools)


@pytest.mark.parametrize("compression", ["none", "lz4hc", "zstd"])
def test_the_file_system_holds_the_tree(
    tmp_path: Path, tools: Tools, compression: Literal["none", "lz4hc", "zstd"]
) -> None:
    path = tmp_path / "root.img"
    build_root(tree(), path, tools, name="x", built=BUILT, compression=compression)
    tools.run("fsck.erofs", "--preserve-perms", f"--extract={tmp_path / 'out'}", path)
    assert (tmp_path / "out/usr/bin/tool").read_bytes() == bytes(range(256)) * 64
    assert (tmp_path / "out/bin").readlink() == Path("usr/bin")
    status = (tmp_path / "out/usr/bin/tool").stat()
    assert (status.st_mtime, status.st_mode & 0o7777) == (BUILT, 0o4755)


def test_segments_join_to_the_file_and_chunks_are_named_by_content(
    tmp_path: Path, tools: Tools
) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"".join(bytes([n]) * (SEGMENT_SIZE // 2) for n in range(5)))
    stream, chunks = cut(source, Cache(tmp_path / "cache"), tools)
    assert [segment.size for segment in stream.segments] == [
        SEGMENT_SIZE, SEGMENT_SIZE, SEGMENT_SIZE // 2,
    ]  # fmt: skip
    joined = b""
    for segment in stream.segments:
        stored = (chunks / chunk_name(segment.stored_sha256)).read_bytes()
        assert hashlib.sha256(stored).hexdigest() == segment.stored_sha256
        assert len(stored) == segment.stored_size
        # The size in the frame is what bounds the device's memory.
        assert zstandard.frame_content_size(stored) == segment.size
        piece = zstandard.ZstdDecompressor().decompress(stored)
        assert hashlib.sha256(piece).hexdigest() == segment.sha256
        joined += piece
    assert joined == source.read_bytes()
    assert (stream.size, stream.sha256) == (len(joined), hashlib.sha256(joined).hexdigest())


def test_only_changed_segments_are_compressed_again(tmp_path: Path, tools: Tools) -> None:
    cache = Cache(tmp_path / "cache")
    source = tmp_path / "file"
    source.write_bytes(bytes(SEGMENT_SIZE) + b"old")
    first, _ = cut(source, cache, tools)
    # Only a segment that is taken from the store can carry this.
    store = cache.shared("segments")
    kept = store / f"{first.segments[0].sha256}.9"
    inode = kept.stat().st_ino
    source.write_bytes(bytes(SEGMENT_SIZE) + b"new")
    second, chunks = cut(source, cache, tools)
    assert second.segments[0] == first.segments[0]
    assert second.segments[1] != first.segments[1]
    again = chunks / chunk_name(second.segments[0].stored_sha256)
    assert again.stat().st_ino == inode


def test_python_is_compiled_without_times_and_repeats(tmp_path: Path, tools: Tools) -> None:
    def compiled(cache: str) -> dict[str, bytes]:
        content = Tree()
        content.file("usr/bin/python3.13", b"")
        content.file("usr/lib/python3/dist-packages/one.py", "X = {'a', 'b', 'c'}\n")
        content.file("usr/lib/python3/dist-packages/broken.py", "def (:\n")
        compile_python(
            content, ("usr/lib/python3/**/*.py",), Cache(tmp_path / cache), tools, SilentReporter()
        )
        return {path: content.read(path) for path in content.glob("**/*.pyc")}

    one = compiled("one")
    path = "usr/lib/python3/dist-packages/__pycache__/one.cpython-313.pyc"
    assert list(one) == [path]
    # PEP 552: flag 1 and not 2 is a hash that is never checked.
    assert int.from_bytes(one[path][4:8], "little") == 0b01
    assert b"/usr/lib/python3/dist-packages/one.py" in one[path]
    assert str(tmp_path).encode() not in one[path]
    assert compiled("two") == one


def test_another_python_is_not_compiled_for(tmp_path: Path, tools: Tools) -> None:
    content = Tree()
    content.file("usr/bin/python3.11", b"")
    content.file("usr/lib/python3/one.py", "")
    compile_python(content, ("usr/lib/python3/*.py",), Cache(tmp_path), tools, SilentReporter())
    assert not content.glob("**/*.pyc")


PACKAGES = (
    DebianPackage("zlib1g", "1:1.3+really1.3.1-1", "amd64", "zlib", "ab" * 32),
    DebianPackage("bash", "5.2-1", "amd64", "bash", "cd" * 32),
)


def test_a_lock_reads_back_sorted() -> None:
    text = format_lock(PACKAGES)
    assert text.splitlines()[0].startswith("bash\t5.2-1\tamd64\tbash\t")
    assert parse_lock(text + text) == tuple(sorted(PACKAGES))


def test_the_bill_lists_every_package_with_its_url_and_repeats() -> None:
    product = load_product("gateway", "qemu-x86_64")
    one = make_sbom(product, root=PACKAGES, boot=PACKAGES[:1], built=BUILT)
    assert one == make_sbom(product, root=PACKAGES[::-1], boot=PACKAGES[:1], built=BUILT)
    document = json.loads(one)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    purls = [item["purl"] for item in document["components"] if "purl" in item]
    assert "pkg:deb/debian/zlib1g@1%3A1.3%2Breally1.3.1-1?arch=amd64&distro=trixie" in purls
    names = [item["name"] for item in document["components"]]
    assert names == ["bash", "zlib1g", "zlib1g", "interface-manager", "routing", "orbital"]
    references = [item["bom-ref"] for item in document["components"]]
    assert len(set(references)) == len(references)
    other = json.loads(make_sbom(product, root=PACKAGES[:1], boot=(), built=BUILT))
    assert other["serialNumber"] != document["serialNumber"]


def test_the_bill_tells_the_rescue_systems_packages_from_the_images() -> None:
    product = load_product("gateway", "qemu-x86_64")
    document = json.loads(
        make_sbom(product, root=PACKAGES[:1], boot=(), rescue=PACKAGES, built=BUILT)
    )
    parts = [
        (item["name"], prop["value"])
        for item in document["components"]
        for prop in item.get("properties", ())
        if prop["name"] == "orbital:part"
    ]
    assert parts == [("zlib1g", "root"), ("bash", "rescue"), ("zlib1g", "rescue")]


def publish(output: Path, source: Path, sbom: bytes = b"{}") -> Path:
    """Writes a build directory whose files are all `source`."""
    empty = Stream(0, hashlib.sha256().hexdigest(), SEGMENT_SIZE, ())
    product = load_product("gateway", "qemu-x86_64")
    published = Published(product, "uki", RootFacts("00", 0, "00", 0), empty, empty, sbom, BUILT)
    names = ("root.img", "boot.img", "interface.json", "device.json")
    files = dict.fromkeys(names, source)
    return write_build(output, "name", published=published, files=files, chunks=[]).path


def test_a_build_directory_is_replaced_whole(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("first")
    path = publish(tmp_path / "out", source)
    (path / "extra").write_text("of the first build")
    source.write_text("second")
    assert publish(tmp_path / "out", source, b"other") == path
    assert (path / "root.img").read_text() == "second"
    assert not (path / "extra").exists()
    assert [item.name for item in (tmp_path / "out").iterdir()] == ["name"]
    index = open_build(path).index
    assert index.sbom_sha256 == hashlib.sha256(b"other").hexdigest()
    assert encode_index(index) == (path / "index.json").read_bytes()


def test_a_build_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("first")
    path = publish(tmp_path / "out", source)
    source.unlink()
    with pytest.raises(ToolError, match="cannot write"):
        publish(tmp_path / "out", source)
    assert (path / "root.img").read_text() == "first"
    assert [item.name for item in (tmp_path / "out").iterdir()] == ["name"]


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    # No process has this number: it is above every limit of Linux.
    abandoned = tmp_path / "out" / f".name.{(1 << 22) + 1}.partial"
    abandoned.mkdir(parents=True)
    source = tmp_path / "source"
    source.write_text("x")
    publish(tmp_path / "out", source)
    assert not abandoned.exists()


def test_an_incomplete_build_directory_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("x")
    path = publish(tmp_path / "out", source)
    (path / "interface.json").unlink()
    with pytest.raises(ManifestError, match="not a complete build directory") as caught:
        open_build(path)
    assert "interface.json" in caught.value.details
