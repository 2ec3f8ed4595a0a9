"""Bytes of the standard library, of text and of a hub."""

import sys
import types
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from token_files import write_files, write_tokens

from mupcheck.training.data import byte_files, stdlib
from mupcheck.training.data import hub as hub_source
from mupcheck.training.data import text as text_source
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.data.sources import open_corpus

# --- stdlib and text --------------------------------------------------------------------------------------------------


def test_stdlib_is_source_text_and_the_same_each_time():
    corpus, again = open_corpus("stdlib"), open_corpus("stdlib")
    assert corpus.hash == again.hash
    assert (corpus.vocab_size, corpus.train.dtype) == (256, np.uint8)
    # 8.8 to 9.9 MB in CPython 3.11 to 3.13; distributions leave out parts such as tkinter
    assert 5e6 < len(corpus.train) + len(corpus.held_out) < 2e7
    assert b"import sys" in corpus.train.tobytes()
    assert 0.1 <= len(corpus.held_out) / (len(corpus.train) + len(corpus.held_out)) <= 0.2


def test_stdlib_does_not_depend_on_its_place_nor_on_what_is_left_out(tmp_path, monkeypatch):
    def opened(place: str, files: dict[str, bytes]) -> Corpus:
        monkeypatch.setattr(stdlib.sysconfig, "get_path", lambda _: str(write_files(tmp_path / place, files)))
        return open_corpus("stdlib")

    sources = {f"package/module{i}.py": b"%03d\n" % i for i in range(50)}
    left_out = (
        "test/a.py", "unittest/test/a.py", "lib2to3/tests/a.py", "idlelib/idle_test/a.py", "encodings/utf_8.py",
        "site-packages/a.py", "pydoc_data/topics.py", "html/entities.py", "_sysconfigdata__linux_.py", "a.so",
    )  # fmt: skip
    corpus = opened("here", sources)
    assert opened("there", sources | dict.fromkeys(left_out, b"left out")).hash == corpus.hash
    assert opened("negative control", sources | {"testing.py": b"kept"}).hash != corpus.hash
    with pytest.raises(ValueError, match=r"no library sources in .*; try text:PATH or synthetic"):
        opened("sourceless", {"module.pyc": b"binary"})


def test_text_is_held_out_by_file_and_nothing_is_lost_or_shared(tmp_path):
    files = {f"sub{i % 3}/{i:02d}.txt": bytes([64 + i]) * (100 + i) for i in range(40)}
    corpus = open_corpus(f"text:{write_files(tmp_path, files)}")
    held_out = set(corpus.held_out.tobytes())
    # each side is its whole files, sorted by relative name
    for part, is_held_out in ((corpus.train, False), (corpus.held_out, True)):
        expected = [files[name] for name in sorted(files) if (files[name][0] in held_out) is is_held_out]
        assert part.tobytes() == b"".join(expected)
    # a tenth, and at most one file more; neither the first nor the last ones
    total = sum(map(len, files.values()))
    assert 0 <= len(corpus.held_out) - total / 10 < 140
    in_order = [files[name][0] for name in sorted(files)]
    assert held_out not in (set(in_order[: len(held_out)]), set(in_order[-len(held_out) :]))
    # one more file hardly changes what is held out
    more = open_corpus(f"text:{write_files(tmp_path, {'aaa.txt': b'!' * 100})}")
    assert len(held_out - set(more.held_out.tobytes())) <= 1


@pytest.mark.parametrize("sizes", [[1000], [300, 700], [10] * 9 + [910]])
def test_the_tail_is_held_out_where_files_are_few_or_uneven(tmp_path, sizes):
    text = bytes(32 + i % 89 for i in range(1000))
    cuts = np.cumsum([0, *sizes])
    write_files(tmp_path, {f"{i}.txt": text[a:b] for i, (a, b) in enumerate(pairwise(cuts))})
    corpus = open_corpus(f"text:{tmp_path}")
    if len(sizes) < 10:
        assert (corpus.train.tobytes(), corpus.held_out.tobytes()) == (text[:900], text[900:])
    assert len(corpus.held_out) <= 200


def test_hidden_files_are_left_out(tmp_path):
    corpus = open_corpus(f"text:{write_files(tmp_path, {'a.txt': b'x' * 100, '.DS_Store': b'y', '.git/b': b'z'})}")
    assert set(corpus.train.tobytes() + corpus.held_out.tobytes()) == {ord("x")}


def test_the_hash_changes_with_one_byte_and_not_with_the_place(tmp_path):
    text = bytearray(b"to be or not to be " * 20)
    here, there = tmp_path / "here.txt", tmp_path / "sub" / "there.txt"
    there.parent.mkdir()
    here.write_bytes(text)
    there.write_bytes(text)
    corpus = open_corpus(f"text:{here}")
    assert corpus.hash == open_corpus(f"text:{there}").hash
    assert len(corpus.hash) == 16
    assert int(corpus.hash, 16)
    for at in (0, 200, len(text) - 1):
        changed = text.copy()
        changed[at] ^= 1
        there.write_bytes(changed)
        assert open_corpus(f"text:{there}").hash != corpus.hash


# --- hf ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch) -> Callable[..., list[tuple]]:
    """Install a fake `datasets` that streams rows, or fails; returns the calls it got."""

    def install(rows=(), error: Exception | None = None) -> list[tuple]:
        calls = []

        def load_dataset(*args, **options):
            calls.append((args, options))
            if error:
                raise error
            return iter(rows)

        monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
        return calls

    return install


def test_hf_streams_the_text_field_up_to_a_bound(hub, monkeypatch):
    monkeypatch.setattr(hub_source, "HF_BYTES", 1000)
    read = []
    calls = hub(rows=({"text": "é" * 10, "id": read.append(i)} for i in range(10**5)))
    corpus = open_corpus("hf:owner/name:config")
    assert calls == [(("owner/name", "config"), {"split": "train", "streaming": True})]
    assert len(read) < 60
    everything = corpus.train.tobytes() + corpus.held_out.tobytes()
    assert everything == ("é" * 10 + "\n").encode() * 47 + ("é" * 6).encode() + b"\xc3"
    assert len(corpus.held_out) == 100


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("Couldn't reach 'a/b' on the Hub\n(OfflineModeIsEnabled)"), r"a/b' on the Hub \(Offline"),
        (FileNotFoundError("Dataset 'a/b' doesn't exist"), "doesn't exist"),
        (ValueError("BuilderConfig 'c' not found"), "'c' not found"),
        (RuntimeError("Dataset scripts are no longer supported"), "scripts"),
    ],
)
def test_hf_says_in_one_line_what_the_hub_said(hub, error, said):
    hub(error=error)
    with pytest.raises(ValueError, match=f"^hf:a/b cannot be read: .*{said}.*; check the name and the network"):
        open_corpus("hf:a/b")


def test_hf_without_datasets_or_without_text_is_refused(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"try pip install 'mupcheck\[datasets\]'"):
        open_corpus("hf:a/b")
    hub(rows=[{"body": "x", "label": 1}])
    with pytest.raises(ValueError, match="its fields are body, label"):
        open_corpus("hf:a/b")
    hub(rows=[])
    with pytest.raises(ValueError, match="hf:a/b is empty"):
        open_corpus("hf:a/b")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "vocab_size", "said"),
    [
        ("", None, "stdlib, synthetic, text:PATH, tokens:GLOB, hf:NAME"),
        ("shakespeare", None, "'shakespeare' is not one of stdlib, synthetic, text:PATH, tokens:GLOB, hf:NAME"),
        ("csv:a.csv", None, "is not one of"),
        ("text:", None, "is not one of"),
        ("stdlib:3.12", None, "is not one of"),
        ("{}/full.txt", None, "is not one of .*; try text:.*full.txt"),
        ("text:{}/none.txt", None, "none.txt does not exist"),
        ("text:{}/" + "n" * 300, None, "does not exist"),
        ("text:~nobody-of-that-name/a", None, "does not exist"),
        ("text:/dev/null", None, "neither a file nor a folder"),
        ("text:{}/empty.txt", None, "is empty"),
        ("text:{}/folder", None, "the folder has no files"),
        ("text:{}/full.txt", 300, "vocab_size=300 does not fit text:.* which is bytes; leave it out or give 256"),
        ("stdlib", 65, "vocab_size=65 does not fit stdlib"),
        ("synthetic", 1, "give 2 to 65536"),
        ("tokens:{}/*.bin", None, "needs a vocab_size; try --vocab-size 50257"),
        ("tokens:{}/none*.bin", 300, "no file matches .*none"),
        ("tokens:{}/folder", 300, "no file matches"),
        ("tokens:{}/odd.bin", 300, "odd.bin has 3 bytes, not whole uint16 tokens"),
        ("tokens:{}/empty.txt", 300, "empty.txt is empty"),
        ("tokens:{}/wide.bin", 300, "looks like uint32 tokens, not uint16; try .dtype=uint32"),
        ("tokens:{}/narrow.bin?dtype=uint32", 300, "looks like uint16 tokens, not uint32; try .dtype=uint16"),
        ("tokens:{}/narrow.bin", 50, "holds token 99, not below vocab_size=50; give"),
        ("tokens:{}/narrow.bin?dtype=int64", 300, "dtype 'int64' is not one of uint16, uint32"),
    ],
)
def test_bad_input_is_one_line_that_says_what_was_given(tmp_path, source, vocab_size, said):
    write_files(tmp_path, {"full.txt": b"text", "empty.txt": b"", "folder/.keep": b"x", "odd.bin": b"abc"})
    write_tokens(tmp_path / "wide.bin", np.arange(100), "<u4")
    write_tokens(tmp_path / "narrow.bin", np.arange(100), "<u2")
    with pytest.raises(ValueError, match=said) as caught:
        open_corpus(source.format(tmp_path), vocab_size=vocab_size)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_named_and_what_is_no_file_left_out(tmp_path, monkeypatch):
    write_files(tmp_path, {"a.txt": b"x" * 100, "closed/b.txt": b"y"})
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "none")
    assert len(open_corpus(f"text:{tmp_path}").train) == 91

    # root may read everything, so permissions would not do
    def refuse(function):
        def wrapper(path, *rest):
            if Path(path).parent.name == "closed" or Path(path).name == "closed":
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *rest)

        return wrapper

    for owner, name, closed in ((Path, "read_bytes", "closed/b.txt"), (byte_files.os, "scandir", "closed")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse(getattr(owner, name)))
            with pytest.raises(ValueError, match=f"cannot read .*{closed}: Permission denied"):
                open_corpus(f"text:{tmp_path}")


def test_text_too_large_to_read_whole_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_source, "MAX_TEXT_BYTES", 99)
    with pytest.raises(ValueError, match="has 100 bytes; text is read whole, up to 99; try tokens:GLOB"):
        open_corpus(f"text:{write_files(tmp_path, {'a.txt': b'x' * 100})}")
