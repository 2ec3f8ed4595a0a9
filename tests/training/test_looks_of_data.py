"""Data that is not what it seems: each kind is refused with what it looks like, and no real tokens or text are."""

import gzip
import json
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from token_files import write_files, write_tokens

from mupcheck.training.data import looks, tokens
from mupcheck.training.data.sources import open_corpus

GPT2, LLAMA3 = 50257, 128_256
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8 + b"IEND\xaeB`\x82"


def zipf(vocab_size: int, count: int = 20_000, seed: int = 0) -> np.ndarray:
    """Token ids whose frequencies fall as those of a tokenizer's do, in an order that frequency does not give."""
    rng = np.random.default_rng(seed)
    ranks = np.minimum(np.exp(rng.random(count) * np.log(vocab_size)).astype(np.int64), vocab_size - 1)
    return rng.permutation(vocab_size)[ranks]


# --- tokens -----------------------------------------------------------------------------------------------------------


def npy(path: Path, ids) -> None:
    with path.open("wb") as file:
        np.save(file, ids.astype(np.uint16))


def archived(path: Path, ids) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tokens.bin", ids.astype("<u2").tobytes())


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (npy, "is a NumPy .npy file; np.load"),
        (archived, r"is a zip archive \(.zip, .npz, .pt\); unpack it"),
        (lambda path, ids: np.savez(path.open("wb"), ids), "is a zip archive"),
        (lambda path, ids: path.write_bytes(gzip.compress(ids.astype("<u2").tobytes())), "is a gzip file; unpack it"),
        (lambda path, ids: path.write_bytes(lzma.compress(ids.astype("<u2").tobytes())), "is an xz file; unpack it"),
        (lambda path, ids: pq.write_table(pa.table({"ids": ids}), path), "is a Parquet file; export"),
        (lambda path, ids: path.write_text(json.dumps({"ids": ids.tolist()})), "looks like text: .*ids.*; try text:"),
        (lambda path, ids: path.write_text("Ein schöner Tag, αβγ. " * 100, encoding="utf-8"), "looks like text"),
        (lambda path, ids: write_tokens(path, ids, "<i8"), r"looks like int64 tokens.*'<i8'\).astype\(np.uint16\)"),
        (lambda path, ids: write_tokens(path, ids, "<f4"), "looks like float32 tokens"),
        (lambda path, ids: write_tokens(path, ids, "<f8"), "looks like float64 tokens"),
        (lambda path, ids: write_tokens(path, ids, "<u4"), "looks like uint32 tokens, not uint16; try .dtype=uint32"),
    ],
)
@pytest.mark.parametrize("vocab_size", [64, GPT2])
def test_what_is_no_uint16_is_refused_with_what_it_looks_like(tmp_path, write, said, vocab_size):
    write(tmp_path / "a.bin", zipf(vocab_size))
    with pytest.raises(ValueError, match=f"a.bin {said}") as caught:
        open_corpus(f"tokens:{tmp_path}/a.bin", vocab_size=vocab_size)
    assert "\n" not in str(caught.value)


def test_int64_of_a_large_vocabulary_is_refused_as_uint32_too(tmp_path):
    # a token and a 0, again and again: every value is below the vocabulary
    path = write_tokens(tmp_path / "a.bin", zipf(LLAMA3), "<i8")
    with pytest.raises(ValueError, match="looks like int64 tokens, which are not read; write them as uint32: "):
        open_corpus(f"tokens:{path}", vocab_size=LLAMA3)
    with pytest.raises(ValueError, match="looks like int64 tokens"):
        open_corpus(f"tokens:{path}?dtype=uint32", vocab_size=GPT2)


def test_uint16_of_a_vocabulary_above_65536_is_refused_by_its_look_its_name_and_its_header(tmp_path):
    write_tokens(tmp_path / "a.bin", zipf(LLAMA3) % 2**16)
    write_tokens(tmp_path / "b.bin", zipf(LLAMA3) % 2**16, header=(20240520, 20_000))
    for source in ("a.bin", "a.bin?dtype=uint16", "b.bin"):
        with pytest.raises(ValueError, match="uint16 holds ids below 65,536, and a vocabulary of 128,256 has larger"):
            open_corpus(f"tokens:{tmp_path}/{source}", vocab_size=LLAMA3)


def test_uint32_tokens_above_65536_read_as_uint16_are_seen(tmp_path):
    # vocab_size 65,536 lets every half of them pass
    path = write_tokens(tmp_path / "a.bin", zipf(LLAMA3), "<u4")
    with pytest.raises(ValueError, match="looks like uint32 tokens"):
        open_corpus(f"tokens:{path}", vocab_size=2**16)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize(
    ("vocab_size", "ids"),
    [
        (GPT2, zipf(GPT2)),
        (2**16, zipf(2**16)),
        (300, zipf(300)),
        (16, zipf(16)),
        (2, zipf(2)),
        (GPT2, np.full(5000, 8224)),  # two blanks each
        (GPT2, np.full(5000, 1)),
        (GPT2, np.zeros(5000)),
        (GPT2, np.where(np.random.default_rng(1).random(20_000) < 0.9, 0, zipf(GPT2))),
        (GPT2, np.concatenate([zipf(GPT2), np.zeros(20_000)])),  # padded to a length
        (GPT2, np.arange(20_000)),
        (GPT2, np.tile([464, 0, 0], 5000)),
        (GPT2, np.tile([464, 0], 5000)),
        (2, np.tile([1, 0, 0, 0], 5000)),
        (2**16, np.tile([50_000, 40_000, 30_000], 20)),
        (GPT2, np.concatenate([[35615, 8], zipf(GPT2)])),  # begins as gzip does
        (GPT2, np.concatenate([[19280, 1027], zipf(GPT2)])),  # begins as zip does
        (GPT2, np.concatenate([[16720, 12626], zipf(GPT2)])),  # begins as Parquet does
        (GPT2, [1, 2]),
    ],
)
def test_real_tokens_are_taken(tmp_path, dtype, vocab_size, ids):
    path = write_tokens(tmp_path / "a.bin", ids, dtype)
    corpus = open_corpus(f"tokens:{path}?dtype={dtype}", vocab_size=vocab_size)
    assert [*corpus.train[:], *corpus.held_out[:]] == list(ids)


def test_a_large_file_is_known_by_sampled_blocks(tmp_path, monkeypatch):
    # 2 GiB of zeros but for a block of int64 in the middle: read in a moment, and one block is enough to know
    path = tmp_path / "a.bin"
    with path.open("wb") as file:
        file.truncate(2**31)
        file.seek(2**30 - 2**16)
        file.write(np.tile(zipf(GPT2, 4096), 8).astype("<i8").tobytes())
    monkeypatch.setattr(tokens, "MAX_BLOCKS", 3)
    with pytest.raises(ValueError, match="looks like int64 tokens"):
        open_corpus(f"tokens:{path}", vocab_size=GPT2)


def test_blocks_that_disagree_are_given_the_benefit_of_the_doubt():
    ids = zipf(GPT2, 4096)
    wide, narrow = (looks.dtype_of(ids.astype(dtype), GPT2) for dtype in ("<i8", "<u2"))
    assert (wide, narrow) == ("int64", "uint16")
    assert looks.agreed([wide, None, wide]) == "int64"
    assert looks.agreed([wide, narrow]) is looks.agreed([None]) is None


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PNG, "is a PNG picture; give text or tokens"),
        (gzip.compress(b"text " * 1000, mtime=0), "is a gzip file; unpack it"),
        (
            zipf(GPT2).astype("<u2").tobytes(),
            r"looks like binary data \(\d+% control bytes\); token files .* tokens:GLOB",
        ),
        (zipf(64).astype("<i8").tobytes(), "looks like binary data"),
        (np.random.default_rng(0).bytes(10_000), "looks like binary data"),
        ("text ".encode("utf-16") * 100, "looks like UTF-16; write it as UTF-8"),
    ],
)
def test_text_that_is_not_text_is_refused(tmp_path, content, said):
    write_files(tmp_path, {"a": content})
    with pytest.raises(ValueError, match=f"^text:.*a {said}"):
        open_corpus(f"text:{tmp_path}/a")
    write_files(tmp_path, {"b": content, "c.txt": b"a few words"})
    with pytest.raises(ValueError, match=f"2 of 3 files, most of the bytes, are not text: a {said}.*; try a pattern"):
        open_corpus(f"text:{tmp_path}")
    # among more text than that it is let pass
    write_files(tmp_path, {"c.txt": b"many words " * len(content)})
    open_corpus(f"text:{tmp_path}")


@pytest.mark.parametrize(
    "content",
    [
        "Ein schöner Tag".encode("latin-1") * 50,
        "こんにちは".encode("shift-jis") * 50,
        "こんにちは".encode() * 50,
        b"\x1b[31mred\x1b[0m\r\n\t\x0c" * 50,
        b"one stray \x00 byte in a long line of mail, as archives have" * 50,
        b"x",
    ],
)
def test_text_of_any_encoding_is_taken(tmp_path, content):
    write_files(tmp_path, {"a.txt": content})
    assert len(open_corpus(f"text:{tmp_path}/a.txt").train) > 0 or len(content) == 1


def test_a_pattern_names_files_by_their_place_below_it(tmp_path, monkeypatch):
    files = {f"{folder}{i}.py": f"{folder} {i}\n".encode() * 20 for folder in ("", "a/", "a/b/") for i in range(5)}
    write_files(tmp_path / "src", files | {"a/notes.txt": b"other", ".hidden/x.py": b"no", "a/.x.py": b"no"})
    corpus = open_corpus(f"text:{tmp_path}/src/**/*.py")
    assert sorted(corpus.train.tobytes() + corpus.held_out.tobytes()) == sorted(b"".join(files.values()))
    # the hash knows names below the pattern's folder alone, and a pattern for all is the folder
    (tmp_path / "src").rename(tmp_path / "moved")
    assert open_corpus(f"text:{tmp_path}/moved/**/*.py").hash == corpus.hash
    assert open_corpus(f"text:{tmp_path}/moved/**").hash == open_corpus(f"text:{tmp_path}/moved").hash != corpus.hash
    monkeypatch.chdir(tmp_path)
    assert open_corpus("text:moved/**/*.py").hash == open_corpus("text:./moved/**/*.py").hash == corpus.hash
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_corpus("text:~/moved/**/*.py").hash == corpus.hash
    for source, said in (("moved/*.md", "no file matches"), ("gone/*.py", "the folder gone does not exist")):
        with pytest.raises(ValueError, match=said):
            open_corpus(f"text:{source}")
