"""The table of what boards were seen to keep."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemu.promises import BEGIN, END, Evidence, main, read, summary


def test_only_what_was_kept_reaches_the_table(tmp_path: Path) -> None:
    path = tmp_path / "artifacts/promises.jsonl"
    one, other = Evidence(path, "board-b"), Evidence(path, "board-a")
    with one.of("good update", "1.0 to 2.0"):
        pass
    with pytest.raises(AssertionError), other.of("panic", "3.0"):
        raise AssertionError
    with other.of("hang", "3.1"):
        pass
    assert [(item.board, item.promise) for item in read(path)] == [
        ("board-b", "good update"),
        ("board-a", "hang"),
    ]
    assert len(summary(read(path))) == 4

    document = tmp_path / "README.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    main([str(path), "--write", str(document)])
    lines = document.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    rows = [line.split(" | ")[0] for line in lines if line.startswith("| board")]
    assert rows == ["| board", "| board-a", "| board-b"]
    assert "old" not in lines
    assert lines[5].count("not run") == 6


def test_a_promise_that_nobody_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such promise"):  # noqa: SIM117
        with Evidence(tmp_path / "file", "board").of("flies", ""):
            pass


def test_a_document_without_markers_is_left_alone(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text("text\n")
    with pytest.raises(ValueError, match="promises: begin"):
        main([str(tmp_path / "none"), "--write", str(document)])
    assert document.read_text() == "text\n"
