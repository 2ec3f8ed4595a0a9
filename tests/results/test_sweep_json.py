"""The file that says what a sweep is."""

import errno
import os
from pathlib import Path

import pytest

from mupcheck.results.files import StoreError, write_text


def test_a_text_takes_the_place_of_the_file_and_not_of_a_link_to_it(tmp_path):
    link = tmp_path / "link.txt"
    link.symlink_to("sub/real.txt")
    for text in ("first\n", "µP\n"):
        write_text(link, text)
        assert link.is_symlink() and (tmp_path / "sub" / "real.txt").read_bytes() == text.encode()
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["real.txt"]


def test_a_text_that_cannot_be_written_is_named_as_given_and_leaves_the_old_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text("kept.txt", "old")
    (tmp_path / "folder").mkdir()
    for path in ("folder", "kept.txt/below"):
        with pytest.raises(StoreError, match=rf"^cannot write {path}: .*; give another file$"):
            write_text(path, "new")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(StoreError, match=r"^cannot write kept.txt: No space left on device; give another file$"):
        write_text("kept.txt", "new")
    assert Path("kept.txt").read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "kept.txt"]
