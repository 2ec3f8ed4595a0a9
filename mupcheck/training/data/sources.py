"""Token batches: where tokens come from, how they split into train and held-out, and which of them a step sees.

A batch depends on (corpus, seed, step, batch_size, seq_len) alone. So every lr, width and parametrization of a seed
sees the same batches in the same order, and a resumed run needs no state. Only numpy's raw Philox bits are used, a
published counter generator (Salmon et al. 2011, Philox4x64-10) whose stream numpy does not change between versions.
"""

import glob
import hashlib
import os
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

BYTES = 256
HELD_OUT_SHARE = 0.1
MAX_TEXT_BYTES = 2**32  # text is read whole, and once again while it is joined
HF_BYTES = 2**23

# what a standard library tree holds besides sources: tests, tables written by programs, things of this machine
STDLIB_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "encodings", "site-packages", "dist-packages", "pydoc_data", "__pycache__"}
)
STDLIB_SKIPPED_FILES = re.compile(
    r"html/entities\.py|stringprep\.py|re/_casefix\.py|idlelib/help\.py|(site|user)customize\.py|_sysconfigdata.*\.py"
)

# llm.c and modded-nanogpt open a shard with 256 int32: magic, version, number of tokens
HEADER_BYTES = 1024
HEADER_DTYPES: dict[int, np.dtype] = {20240520: np.dtype("<u2"), 20240801: np.dtype("<u4")}
SHARD_DTYPES: dict[str, np.dtype] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
VAL_NAME = re.compile(r"(?<![a-z])(val|valid|validation)(?![a-z])", re.IGNORECASE)
BLOCK_BYTES = 2**14
MAX_BLOCKS = 64  # each may be a disk seek

SYNTHETIC_KEY = 20_260_604  # the arXiv month of the source paper; any fixed number does
SYNTHETIC_SUCCESSORS = 32
SYNTHETIC_SLOTS = 256
SYNTHETIC_CHAINS = 4096
SYNTHETIC_STEPS = 1024


class Shards:
    """Token arrays one after another, read as one array by `len` and by contiguous slices; files stay on disk."""

    def __init__(self, pieces: list[np.ndarray]) -> None:
        self.pieces = pieces
        self.starts = np.array([0, *accumulate(len(piece) for piece in pieces)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, window: slice) -> np.ndarray:
        start, stop, step = window.indices(len(self))
        if step != 1:
            raise ValueError(f"a slice of shards is contiguous; the step given is {step}")
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        parts = []
        for piece, at in zip(self.pieces[first:], self.starts[first:-1], strict=True):
            if at >= stop:
                break
            parts.append(piece[max(start - at, 0) : stop - at])
        return np.concatenate(parts) if parts else np.empty(0, self.pieces[0].dtype)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens to train on and tokens held out.

    Attributes:
        name: the source as given, such as "stdlib" or "text:book.txt".
        train, held_out: unsigned integers, 1-D; `Shards`, memory-mapped, where they come from token files.
        vocab_size: every token is below it.
        hash: 16 hex digits of a sha256 over the tokens of train and of held_out and where one ends, not over where the
            files lie. For tokens:GLOB it covers the names and sizes of the files, their dtypes, and sampled blocks of
            their content (all of a single file up to 1 MiB, at least the first and last 16 KiB of every file), so that
            shards of many GB need not be read.
    """

    name: str
    train: np.ndarray | Shards
    held_out: np.ndarray | Shards
    vocab_size: int
    hash: str


def open_corpus(data: str, *, vocab_size: int | None = None) -> Corpus:
    """Open a source of tokens.

    Args:
        data: one of
            `stdlib`: bytes of the running interpreter's standard library sources (about 9 MB, another hash for another
                Python version), sorted by name.
            `synthetic`: a Zipf-Markov source of 4 Mi tokens, the same on every machine.
            `text:PATH`: bytes of a file, or of a folder's files (recursive, sorted, names with a leading dot left out).
            `tokens:GLOB`: nanoGPT-style .bin shards. Their dtype is uint16, or uint32 above a vocabulary of 65,536; a
                suffix `?dtype=uint16` or `?dtype=uint32` says otherwise, and an llm.c header wins.
            `hf:NAME` or `hf:NAME:CONFIG`: bytes of the field `text` in the first 8 MiB of the train split, streamed.
        vocab_size: of tokens:GLOB, where it is needed, and of synthetic (default 256). Bytes have 256.

    Text in files is held out by file: in the order of a hash of their names, until a tenth of the bytes is reached;
    where that takes more than a fifth (few files), the last tenth of the bytes is held out instead. Token files with
    val, valid or validation as a word of their name are held out; without any, the last tenth of the tokens is.

    Raises:
        ValueError: if the source is unknown, missing, empty or malformed, in one line.
    """
    scheme, colon, rest = data.partition(":")
    if scheme in PLAIN_SOURCES and not colon:
        return PLAIN_SOURCES[scheme](data, vocab_size)
    if scheme in NAMED_SOURCES and rest:
        return NAMED_SOURCES[scheme](data, rest, vocab_size)
    hint = f"; try text:{data}" if os.path.exists(os.path.expanduser(data)) else ""
    raise ValueError(f"data {data!r} is not one of stdlib, synthetic, text:PATH, tokens:GLOB, hf:NAME{hint}")


def check_corpus(corpus: Corpus, batch_size: int, seq_len: int) -> None:
    """Refuse a corpus that is smaller than one batch.

    Raises:
        ValueError: if train or held_out has fewer than batch_size * seq_len + 1 tokens.
    """
    needed = batch_size * seq_len + 1
    for part, tokens in (("train", corpus.train), ("held-out", corpus.held_out)):
        if len(tokens) < needed:
            raise ValueError(
                f"{corpus.name} has {len(tokens):,} {part} tokens, fewer than one batch of {batch_size} x {seq_len} "
                f"(+1 to predict) = {needed:,}; try a smaller batch_size or seq_len, or more data"
            )


def train_batch(corpus: Corpus, *, seed: int, step: int, batch_size: int, seq_len: int) -> np.ndarray:
    """Return the tokens of one training step: windows at random places, drawn with replacement.

    The first rows do not change when batch_size grows.

    Returns:
        int64 [B, T + 1]; inputs are [:, :-1] and targets [:, 1:].

    Raises:
        ValueError: if there are fewer than T + 1 tokens, or a token is not below vocab_size.
    """
    places = len(corpus.train) - seq_len
    if places < 1:
        raise ValueError(f"{corpus.name} has {len(corpus.train):,} train tokens; a window needs {seq_len + 1:,}")
    draws = np.random.Philox(key=seed << 64 | step).random_raw(batch_size)
    # the bias of the remainder is places / 2^64
    return _windows(corpus, corpus.train, (draws % np.uint64(places)).tolist(), seq_len)


def held_out_batch(corpus: Corpus, *, index: int, batch_size: int, seq_len: int) -> np.ndarray:
    """Return held-out tokens, the same for every run: windows in order, each token predicted at most once.

    Windows start every seq_len tokens, so the last target of one is the first input of the next.

    Returns:
        int64 [B, T + 1].

    Raises:
        ValueError: if there is no batch of that index, or a token is not below vocab_size.
    """
    available = _held_out_available(corpus, batch_size, seq_len)
    if not 0 <= index < available:
        raise ValueError(f"{corpus.name} has {available} held-out batches of {batch_size} x {seq_len}, none at {index}")
    first = index * batch_size
    return _windows(corpus, corpus.held_out, [(first + row) * seq_len for row in range(batch_size)], seq_len)


def held_out_batches(corpus: Corpus, *, tokens: int, batch_size: int, seq_len: int) -> int:
    """Return how many held-out batches cover `tokens`: at least 1, at most all there are."""
    wanted = max(-(-tokens // (batch_size * seq_len)), 1)
    return max(min(wanted, _held_out_available(corpus, batch_size, seq_len)), 1)


def _held_out_available(corpus: Corpus, batch_size: int, seq_len: int) -> int:
    return max(len(corpus.held_out) - 1, 0) // seq_len // batch_size


def _windows(corpus: Corpus, tokens: np.ndarray | Shards, starts: Iterable[int], seq_len: int) -> np.ndarray:
    batch = np.stack([tokens[start : start + seq_len + 1] for start in starts]).astype(np.int64)
    if (largest := int(batch.max())) >= corpus.vocab_size:
        raise ValueError(_too_large(corpus.name, largest, corpus.vocab_size))
    return batch


def _too_large(name: str, token: int, vocab_size: int) -> str:
    return (
        f"{name} holds token {token:,}, not below vocab_size={vocab_size:,}; "
        "give the tokenizer's vocab_size, or the dtype of the files by ?dtype=uint32 or ?dtype=uint16"
    )


# --- bytes: stdlib, text, hf ------------------------------------------------------------------------------------------


def _open_stdlib(data: str, vocab_size: int | None) -> Corpus:
    _bytes_only(data, vocab_size)
    root = Path(sysconfig.get_path("stdlib"))
    names = [name for name in _file_names(root, STDLIB_SKIPPED_FOLDERS.__contains__) if name.endswith(".py")]
    names = [name for name in names if not STDLIB_SKIPPED_FILES.fullmatch(name)]
    if not names:
        raise ValueError(f"this Python has no library sources in {root}; try text:PATH or synthetic")
    return _byte_corpus(data, {name: _read(root / name) for name in names})


def _open_text(data: str, rest: str, vocab_size: int | None) -> Corpus:
    _bytes_only(data, vocab_size)
    path = Path(os.path.expanduser(rest))
    # os.path's tests, unlike Path's, answer False where a name is too long or a folder closed
    if os.path.isdir(path):
        names = [name for name in _file_names(path, _is_hidden) if not _is_hidden(name.rpartition("/")[2])]
        files = {name: path / name for name in names if os.path.isfile(path / name)}
        if not files:
            raise ValueError(f"{data}: the folder has no files (names with a leading dot are left out)")
    elif os.path.isfile(path):
        files = {path.name: path}
    else:
        fault = "is neither a file nor a folder" if os.path.exists(path) else "does not exist"
        raise ValueError(f"{data}: {path} {fault}")
    if (size := sum(map(os.path.getsize, files.values()))) > MAX_TEXT_BYTES:
        raise ValueError(f"{data} has {size:,} bytes; text is read whole, up to {MAX_TEXT_BYTES:,}; try tokens:GLOB")
    return _byte_corpus(data, {name: _read(file) for name, file in files.items()})


def _open_hf(data: str, rest: str, vocab_size: int | None) -> Corpus:
    _bytes_only(data, vocab_size)
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError(f"{data} needs the package `datasets`; try pip install 'mupcheck[datasets]'") from None
    name, _, config = rest.partition(":")
    text = bytearray()
    try:
        for row in load_dataset(name, config or None, split="train", streaming=True):
            if not isinstance(row.get("text"), str):
                raise ValueError(f"no field `text` of strings; its fields are {', '.join(row)}")
            text += row["text"].encode() + b"\n"
            if len(text) >= HF_BYTES:
                break
    # what datasets 5 raises: ConnectionError and FileNotFoundError are OSErrors; a bad config or split is a ValueError,
    # a data set that is a script a RuntimeError
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{data} cannot be read: {reason}; check the name and the network, or try text:PATH") from None
    return _byte_corpus(data, {name: bytes(text[:HF_BYTES])})


def _bytes_only(data: str, vocab_size: int | None) -> None:
    if vocab_size not in (None, BYTES):
        raise ValueError(f"vocab_size={vocab_size} does not fit {data}, which is bytes; leave it out or give {BYTES}")


def _file_names(root: Path, is_skipped: Callable[[str], bool]) -> list[str]:
    """Return the files under a folder as sorted names relative to it, with forward slashes."""

    def fail(error: OSError) -> None:
        raise ValueError(f"cannot read {error.filename}: {error.strerror}")

    names = []
    for folder, subfolders, files in os.walk(root, onerror=fail):
        subfolders[:] = [name for name in subfolders if not is_skipped(name)]
        names += [Path(folder, name).relative_to(root).as_posix() for name in files]
    return sorted(names)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def _byte_corpus(data: str, files: dict[str, bytes]) -> Corpus:
    total = sum(map(len, files.values()))
    if not total:
        raise ValueError(f"{data} is empty")
    held_out: set[str] = set()
    held_bytes = 0
    # by a hash of the name, so that another Python version or one more file hardly changes what is held out
    for name in sorted(files, key=lambda name: hashlib.sha256(os.fsencode(name)).digest()):
        if held_bytes >= HELD_OUT_SHARE * total:
            break
        held_out.add(name)
        held_bytes += len(files[name])
    if held_bytes > 2 * HELD_OUT_SHARE * total:
        held_out, held_bytes = set(), int(HELD_OUT_SHARE * total)
    # sorted is stable: train in the files' order, then what is held out
    tokens = np.frombuffer(b"".join(files[name] for name in sorted(files, key=held_out.__contains__)), np.uint8)
    return _in_memory(data, tokens, total - held_bytes, BYTES)


def _in_memory(data: str, tokens: np.ndarray, n_train: int, vocab_size: int) -> Corpus:
    digest = hashlib.sha256(f"{tokens.dtype.str} {len(tokens)} {n_train}\n".encode())
    digest.update(tokens.data)
    return Corpus(data, tokens[:n_train], tokens[n_train:], vocab_size, digest.hexdigest()[:16])


# --- token shards -----------------------------------------------------------------------------------------------------


def _open_tokens(data: str, rest: str, vocab_size: int | None) -> Corpus:
    pattern, given, dtype_name = rest.partition("?dtype=")
    if vocab_size is None:
        raise ValueError(f"{data} needs a vocab_size; try --vocab-size 50257 for GPT-2 tokens")
    if given and dtype_name not in SHARD_DTYPES:
        raise ValueError(f"{data}: dtype {dtype_name!r} is not one of {', '.join(SHARD_DTYPES)}")
    dtype = SHARD_DTYPES[dtype_name or ("uint16" if vocab_size <= 2**16 else "uint32")]
    paths = sorted(path for path in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(path))
    if not paths:
        raise ValueError(f"{data}: no file matches {pattern}")
    shards = [_open_shard(path, dtype) for path in paths]
    names = [os.path.basename(path) for path in paths]
    digest = hashlib.sha256(b"shards\n")
    for path, name, shard in zip(paths, names, shards, strict=True):
        digest.update(f"{name} {len(shard)} {shard.dtype.str}\n".encode(errors="surrogateescape"))
        for block in _sampled_blocks(shard, max(MAX_BLOCKS // len(shards), 2)):
            _check_block(path, block, vocab_size)
            digest.update(block.data)
    train = [shard for name, shard in zip(names, shards, strict=True) if not VAL_NAME.search(name)]
    held_out = [shard for name, shard in zip(names, shards, strict=True) if VAL_NAME.search(name)]
    if not train or not held_out:
        total = sum(map(len, shards))
        train, held_out = _cut(shards, total - int(HELD_OUT_SHARE * total))
    return Corpus(data, Shards(train), Shards(held_out), vocab_size, digest.hexdigest()[:16])


def _open_shard(path: str, dtype: np.dtype) -> np.ndarray:
    try:
        size, offset = os.path.getsize(path), 0
        with open(path, "rb") as file:
            head = file.read(12)
        magic, n_tokens = int.from_bytes(head[:4], "little"), int.from_bytes(head[8:], "little")
        if magic in HEADER_DTYPES:
            dtype, offset = HEADER_DTYPES[magic], HEADER_BYTES
            if size != offset + n_tokens * dtype.itemsize:
                raise ValueError(f"{path} has {size:,} bytes, but its header promises {n_tokens:,} {dtype} tokens")
        if size <= offset:
            raise ValueError(f"{path} is empty")
        if size % dtype.itemsize:
            raise ValueError(f"{path} has {size:,} bytes, not whole {dtype} tokens; is it cut short?")
        return np.memmap(path, dtype, mode="r", offset=offset)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def _sampled_blocks(shard: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield `count` evenly spaced blocks, first and last included; a shard that is no larger comes whole."""
    length = BLOCK_BYTES // shard.itemsize
    if len(shard) <= count * length:
        yield shard
        return
    for i in range(count):
        start = i * (len(shard) - length) // (count - 1)
        yield shard[start : start + length]


def _check_block(path: str, block: np.ndarray, vocab_size: int) -> None:
    if (largest := int(block.max())) >= vocab_size:
        raise ValueError(_too_large(path, largest, vocab_size))
    # uint32 tokens below 65,536, read as uint16, are valid ids with a 0 after each
    nonzero = sorted((np.count_nonzero(block[::2]), np.count_nonzero(block[1::2])))
    if block.itemsize == 2 and nonzero[0] == 0 and nonzero[1] > max(len(block) // 4, 16):
        raise ValueError(f"{path}: every second uint16 token is 0, as in uint32 files; try ?dtype=uint32")


def _cut(pieces: list[np.ndarray], at: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return views of the first `at` elements of arrays in a row, and of the rest."""
    head, tail = [], []
    for piece in pieces:
        head.append(piece[:at])
        tail.append(piece[at:])
        at = max(at - len(piece), 0)
    return head, tail


# --- synthetic --------------------------------------------------------------------------------------------------------


def _open_synthetic(data: str, vocab_size: int | None) -> Corpus:
    """Draw a Markov chain whose tokens have 32 successors each, Zipf-distributed, drawn themselves from a Zipf law.

    At vocabulary 256: ln V = 5.55 nats, unigram entropy 4.16, entropy given the token before 2.50 (counted). Integer
    arithmetic on raw Philox bits throughout, so the tokens are the same on every machine.
    """
    vocab_size = BYTES if vocab_size is None else vocab_size
    if not 2 <= vocab_size <= 2**16:
        raise ValueError(f"vocab_size={vocab_size} does not fit {data}; give 2 to 65536")
    bits = np.random.Philox(key=SYNTHETIC_KEY)
    by_frequency = _zipf_slots(vocab_size, 2**16)
    successors = by_frequency[bits.random_raw(vocab_size * SYNTHETIC_SUCCESSORS) >> np.uint64(48)]
    slots = _zipf_slots(SYNTHETIC_SUCCESSORS, SYNTHETIC_SLOTS)
    follows = successors.reshape(vocab_size, -1)[:, slots].ravel()  # [V * slots]
    token = by_frequency[bits.random_raw(SYNTHETIC_CHAINS) >> np.uint64(48)]  # [chains]
    # one byte of randomness picks one of the 256 slots
    draws = bits.random_raw(SYNTHETIC_STEPS * SYNTHETIC_CHAINS // 8).astype("<u8").view(np.uint8)
    tokens = np.empty((SYNTHETIC_STEPS, SYNTHETIC_CHAINS), "<u2")
    for step, draw in enumerate(draws.reshape(SYNTHETIC_STEPS, SYNTHETIC_CHAINS)):
        token = follows[token * SYNTHETIC_SLOTS + draw]
        tokens[step] = token
    n_train = (SYNTHETIC_CHAINS - int(HELD_OUT_SHARE * SYNTHETIC_CHAINS)) * SYNTHETIC_STEPS
    return _in_memory(data, np.ascontiguousarray(tokens.T).ravel(), n_train, vocab_size)


def _zipf_slots(n_ranks: int, n_slots: int) -> np.ndarray:
    """Return the rank, in 0 .. n_ranks - 1, of each slot: a rank has slots in proportion to 1 / (rank + 1)."""
    ends = np.cumsum(2**32 // np.arange(1, n_ranks + 1, dtype=np.int64))
    middles = (2 * np.arange(n_slots, dtype=np.int64) + 1) * ends[-1] // (2 * n_slots)
    return np.searchsorted(ends, middles, side="right")


PLAIN_SOURCES: dict[str, Callable[[str, int | None], Corpus]] = {
    "stdlib": _open_stdlib,
    "synthetic": _open_synthetic,
}
NAMED_SOURCES: dict[str, Callable[[str, str, int | None], Corpus]] = {
    "text": _open_text,
    "tokens": _open_tokens,
    "hf": _open_hf,
}
