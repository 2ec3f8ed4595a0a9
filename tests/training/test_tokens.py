"""Token files."""

import numpy as np
import pytest
from token_files import write_tokens

from mupcheck.training.data import tokens
from mupcheck.training.data.batches import held_out_batch, train_batch
from mupcheck.training.data.corpus import Shards
from mupcheck.training.data.sources import open_corpus

# --- token shards -----------------------------------------------------------------------------------------------------


def test_shards_read_as_their_concatenation():
    pieces = np.split(np.arange(30, dtype=np.uint16), [7, 8, 20])
    shards, whole = Shards(pieces), np.arange(30)
    assert len(shards) == 30
    for start in range(31):
        for stop in range(start, 32):
            np.testing.assert_array_equal(shards[start:stop], whole[start:stop])
    with pytest.raises(ValueError, match="contiguous"):
        shards[::2]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_token_shards_are_one_sequence_with_its_tail_held_out(tmp_path, dtype):
    tokens = np.random.default_rng(0).integers(1, 50257, 1000)
    for i, part in enumerate(np.split(tokens, [100, 101, 950])):
        write_tokens(tmp_path / f"part_{i}.bin", part, dtype)
    corpus = open_corpus(f"tokens:{tmp_path}/part_?.bin?dtype={dtype}", vocab_size=50257)
    np.testing.assert_array_equal(corpus.train[:], tokens[:900])
    np.testing.assert_array_equal(corpus.held_out[:], tokens[900:])
    assert all(isinstance(piece, np.memmap) for piece in corpus.train.pieces if len(piece))
    batch = train_batch(corpus, seed=0, step=0, batch_size=64, seq_len=200)  # all but a few cross a shard's end
    starts = np.random.Philox(key=0).random_raw(64) % np.uint64(700)
    np.testing.assert_array_equal(batch, tokens[starts[:, None].astype(int) + np.arange(201)])


@pytest.mark.parametrize(
    ("names", "held_out"),
    [
        (["train.bin", "val.bin"], ["val.bin"]),
        (["fineweb_train_000001.bin", "fineweb_val_000000.bin"], ["fineweb_val_000000.bin"]),
        (["a.bin", "Validation-2.bin"], ["Validation-2.bin"]),
        (["interval.bin", "valley.bin"], []),  # val is no word of these: the tail is held out
        (["val_1.bin", "val_2.bin"], []),  # nothing else to train on: the tail is held out
    ],
)
def test_files_named_val_are_held_out(tmp_path, names, held_out):
    for token, name in enumerate(names):
        write_tokens(tmp_path / name, np.full(100, token + 1))
    corpus = open_corpus(f"tokens:{tmp_path}/*.bin", vocab_size=10)
    if held_out:
        assert set(corpus.held_out[:]) == {names.index(name) + 1 for name in held_out}
        assert not set(corpus.held_out[:]) & set(corpus.train[:])
    else:
        assert len(corpus.held_out) == 20


@pytest.mark.parametrize(("magic", "dtype"), [(20240520, "<u2"), (20240801, "<u4")])
def test_an_llm_c_header_is_skipped_and_gives_the_dtype(tmp_path, magic, dtype):
    path = write_tokens(tmp_path / "a.bin", np.arange(1, 101), dtype, header=(magic, 100))
    corpus = open_corpus(f"tokens:{path}", vocab_size=101)
    np.testing.assert_array_equal(corpus.train[:], np.arange(1, 91))
    write_tokens(path, np.arange(1, 100), dtype, header=(magic, 100))
    with pytest.raises(ValueError, match=r"its header promises 100 uint\d\d tokens"):
        open_corpus(f"tokens:{path}", vocab_size=101)


def test_a_large_vocabulary_means_uint32(tmp_path):
    path = write_tokens(tmp_path / "a.bin", [70_000, 1] * 50, "<u4")
    assert set(open_corpus(f"tokens:{path}", vocab_size=128_256).train[:]) == {70_000, 1}


def test_the_hash_of_shards_covers_names_sizes_and_content_but_not_the_folder(tmp_path):
    def hashed(folder: str, tokens: np.ndarray, name: str = "a.bin") -> str:
        (tmp_path / folder).mkdir()
        write_tokens(tmp_path / folder / name, tokens)
        return open_corpus(f"tokens:{tmp_path}/{folder}/*", vocab_size=300).hash

    tokens = np.arange(1, 257)
    known = hashed("one", tokens)
    assert hashed("two", tokens) == known
    assert hashed("renamed", tokens, "b.bin") != known
    assert hashed("shorter", tokens[:-1]) != known
    assert hashed("changed", np.where(tokens == 100, 299, tokens)) != known


def test_large_shards_are_sampled(tmp_path):
    # a sparse file of 2 GiB of zeros, but for its last token
    path = write_tokens(tmp_path / "a.bin", [])
    with path.open("r+b") as file:
        file.seek(2**31 - 2)
        file.write(b"\x05\x00")
    corpus = open_corpus(f"tokens:{path}", vocab_size=6)
    assert len(corpus.train) + len(corpus.held_out) == 2**30
    shard = np.memmap(path, np.uint16, mode="r")
    blocks = list(tokens._sampled_blocks(shard, tokens.MAX_BLOCKS))
    assert sum(block.nbytes for block in blocks) == 2**20
    assert blocks[-1][-1] == 5
    with pytest.raises(ValueError, match="holds token 5, not below vocab_size=5"):
        open_corpus(f"tokens:{path}", vocab_size=5)


def test_a_token_outside_the_vocabulary_is_found_when_opened_or_in_the_batch(tmp_path, monkeypatch):
    path = write_tokens(tmp_path / "a.bin", [1] * 500 + [77] + [1] * 499)
    with pytest.raises(ValueError, match="holds token 77, not below vocab_size=50; give"):
        open_corpus(f"tokens:{path}", vocab_size=50)
    monkeypatch.setattr(tokens, "BLOCK_BYTES", 32)
    monkeypatch.setattr(tokens, "MAX_BLOCKS", 2)
    corpus = open_corpus(f"tokens:{path}", vocab_size=50)
    held_out_batch(corpus, index=0, batch_size=4, seq_len=16)
    with pytest.raises(ValueError, match="holds token 77"):
        train_batch(corpus, seed=0, step=0, batch_size=8, seq_len=512)
