import math
import sys
import types
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mupcheck.training.data import byte_files, stdlib, tokens
from mupcheck.training.data import hub as hub_source
from mupcheck.training.data import text as text_source
from mupcheck.training.data.batches import held_out_batch, held_out_batches, train_batch
from mupcheck.training.data.corpus import Corpus, Shards, check_corpus
from mupcheck.training.data.sources import open_corpus


def counting(n_train: int = 1000, n_held_out: int = 100) -> Corpus:
    """A corpus whose tokens say where they lie: train counts from 0, held-out from n_train."""
    train, held_out = np.split(np.arange(n_train + n_held_out, dtype=np.uint16), [n_train])
    return Corpus("counting", train, held_out, vocab_size=2**16, hash="")


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    return folder


def write_tokens(path: Path, tokens, dtype: str = "<u2", header: tuple[int, int] | None = None) -> Path:
    head = np.zeros(256, "<i4")
    if header:
        head[:3] = header[0], 1, header[1]
    path.write_bytes((head.tobytes() if header else b"") + np.asarray(tokens, dtype).tobytes())
    return path


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_depends_on_corpus_seed_step_and_shape_alone():
    corpus, shape = counting(), {"batch_size": 8, "seq_len": 16}
    batch = train_batch(corpus, seed=3, step=5, **shape)
    train_batch(corpus, seed=0, step=0, **shape)  # no state is left behind
    np.testing.assert_array_equal(batch, train_batch(corpus, seed=3, step=5, **shape))
    for seed, step in ((4, 5), (3, 6), (5, 3)):
        assert not np.array_equal(batch, train_batch(corpus, seed=seed, step=step, **shape))


def test_batches_are_the_ones_published_philox_bits_give():
    # Random123's known answers, philox4x64-10: counter 0 and key 0; numpy counts up before it draws, so its first
    # block is that of counter 1 and the last block of the cycle is counter 0
    bits = np.random.Philox(key=0, counter=2**256 - 1).random_raw(4)
    assert [hex(draw) for draw in bits] == [
        "0x16554d9eca36314c", "0xdb20fe9d672d0fdc", "0xd7e772cee186176b", "0x7e68b68aec7ba23b",
    ]  # fmt: skip
    corpus, seed, step = counting(), 7, 2
    draws = np.random.Philox(key=np.array([step, seed], np.uint64)).random_raw(4)
    batch = train_batch(corpus, seed=seed, step=step, batch_size=4, seq_len=16)
    assert batch[:, 0].tolist() == [int(draw) % (1000 - 16) for draw in draws]


def test_a_batch_has_whole_windows_with_targets_one_ahead():
    batch = train_batch(counting(), seed=0, step=0, batch_size=5, seq_len=16)
    assert batch.shape == (5, 17)
    assert batch.dtype == np.int64
    assert (np.diff(batch, axis=1) == 1).all()


def test_a_larger_batch_begins_with_the_smaller_one():
    small, large = (train_batch(counting(), seed=1, step=2, batch_size=b, seq_len=16) for b in (3, 8))
    np.testing.assert_array_equal(small, large[:3])


def test_every_place_is_drawn_equally_often():
    # 8 places, 4096 draws: 512 each, standard deviation 21; five of these
    starts = train_batch(counting(n_train=24), seed=0, step=0, batch_size=4096, seq_len=16)[:, 0]
    counts = np.bincount(starts)
    assert len(counts) == 8
    assert abs(counts - 512).max() < 5 * 21


def test_held_out_batches_predict_each_token_at_most_once_in_order():
    corpus, shape = counting(n_held_out=100), {"batch_size": 2, "seq_len": 8}
    n_batches = held_out_batches(corpus, tokens=10**6, **shape)
    targets = np.concatenate([held_out_batch(corpus, index=i, **shape)[:, 1:].ravel() for i in range(n_batches)])
    np.testing.assert_array_equal(targets, 1000 + np.arange(1, 1 + 6 * 2 * 8))
    with pytest.raises(ValueError, match="6 held-out batches of 2 x 8, none at 6"):
        held_out_batch(corpus, index=n_batches, **shape)


@pytest.mark.parametrize(("tokens", "n_batches"), [(0, 1), (1, 1), (16, 1), (17, 2), (96, 6), (97, 6)])
def test_held_out_batches_cover_the_tokens_asked_for_as_far_as_there_are_any(tokens, n_batches):
    assert held_out_batches(counting(n_held_out=100), tokens=tokens, batch_size=2, seq_len=8) == n_batches


def test_fewer_tokens_than_one_batch_are_refused():
    check_corpus(counting(n_train=65, n_held_out=65), 4, 16)
    with pytest.raises(ValueError, match=r"64 train tokens, fewer than one batch of 4 x 16 .* = 65; try"):
        check_corpus(counting(n_train=64, n_held_out=65), 4, 16)
    with pytest.raises(ValueError, match="64 held-out tokens"):
        check_corpus(counting(n_train=65, n_held_out=64), 4, 16)
    with pytest.raises(ValueError, match="a window needs 17"):
        train_batch(counting(n_train=16), seed=0, step=0, batch_size=1, seq_len=16)


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
    files = {f"sub{i % 3}/{i:02d}.txt": bytes([i]) * (100 + i) for i in range(40)}
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
    more = open_corpus(f"text:{write_files(tmp_path, {'aaa.txt': bytes([40]) * 100})}")
    assert len(held_out - set(more.held_out.tobytes())) <= 1


@pytest.mark.parametrize("sizes", [[1000], [300, 700], [10] * 9 + [910]])
def test_the_tail_is_held_out_where_files_are_few_or_uneven(tmp_path, sizes):
    text = bytes(i % 251 for i in range(1000))
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


# --- synthetic --------------------------------------------------------------------------------------------------------


def entropies(tokens: np.ndarray, vocab_size: int) -> tuple[float, float]:
    """Nats per token by counting: alone, and given the token before."""

    def nats(counts: np.ndarray) -> float:
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())

    pairs = np.bincount(tokens[:-1].astype(np.int64) * vocab_size + tokens[1:], minlength=vocab_size**2)
    alone = nats(pairs.reshape(vocab_size, -1).sum(axis=0))
    return alone, nats(pairs) - nats(pairs.reshape(vocab_size, -1).sum(axis=1))


def test_synthetic_can_be_learned_and_a_shuffle_of_it_cannot():
    tokens = open_corpus("synthetic").train[: 2**20]
    alone, given_last = entropies(tokens, 256)
    assert alone < math.log(256) - 1
    assert given_last < alone - 1
    shuffled = tokens[np.argsort(np.random.Philox(key=0).random_raw(len(tokens)))]
    # counting biases the entropy by about -(number of pairs) / (2 n) = -0.03
    assert entropies(shuffled, 256)[1] == pytest.approx(alone, abs=0.05)


def test_synthetic_is_the_same_on_every_machine():
    # written down once, from CPython 3.11 with numpy 2.4, and found again with CPython 3.12 and numpy 1.26
    corpus = open_corpus("synthetic")
    assert corpus.hash == "ed2c2b7ed0ba5416"
    assert train_batch(corpus, seed=0, step=0, batch_size=1, seq_len=7).tolist() == [[63, 6, 11, 1, 2, 231, 0, 0]]


@pytest.mark.parametrize("vocab_size", [2, 1000])
def test_synthetic_takes_a_vocabulary(vocab_size):
    corpus = open_corpus("synthetic", vocab_size=vocab_size)
    assert corpus.vocab_size == vocab_size
    assert (vocab_size - 1) / 2 < corpus.train.max() < vocab_size


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
        ("tokens:{}/wide.bin", 300, "every second uint16 token is 0, as in uint32 files; try .dtype=uint32"),
        ("tokens:{}/narrow.bin?dtype=uint32", 300, "holds token .* dtype of the files"),
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
