"""`tokens:GLOB`: token files as nanoGPT and llm.c write them, memory-mapped."""

import glob
import hashlib
import os
import re
from collections.abc import Iterator

import numpy as np

from mupcheck.training.data.corpus import HELD_OUT_SHARE, Corpus, Shards, too_large
from mupcheck.training.data.looks import DTYPES, agreed, dtype_of, format_of, is_text, read_ends

# llm.c and modded-nanogpt open a shard with 256 int32: magic, version, number of tokens
HEADER_BYTES = 1024
HEADER_DTYPES: dict[int, np.dtype] = {20240520: np.dtype("<u2"), 20240801: np.dtype("<u4")}
SHARD_DTYPES: dict[str, np.dtype] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
VAL_NAME = re.compile(r"(?<![a-z])(val|valid|validation)(?![a-z])", re.IGNORECASE)
BLOCK_BYTES = 2**14
MAX_BLOCKS = 64  # each may be a disk seek


# --- token shards -----------------------------------------------------------------------------------------------------


def open_tokens(data: str, rest: str, vocab_size: int | None) -> Corpus:
    """Open `tokens:GLOB` (see `open_corpus`)."""
    pattern, given, dtype_name = rest.partition("?dtype=")
    if vocab_size is None:
        raise ValueError(f"{data} needs a vocab_size; try --vocab-size 50257 for GPT-2 tokens")
    if given and dtype_name not in SHARD_DTYPES:
        raise ValueError(f"{data}: dtype {dtype_name!r} is not one of {', '.join(SHARD_DTYPES)}")
    if dtype_name == "uint16" and vocab_size > 2**16:
        raise ValueError(_too_narrow(data, vocab_size))
    dtype = SHARD_DTYPES[dtype_name or ("uint16" if vocab_size <= 2**16 else "uint32")]
    paths = sorted(path for path in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(path))
    if not paths:
        raise ValueError(f"{data}: no file matches {pattern}")
    shards = [_open_shard(path, dtype, vocab_size) for path in paths]
    names = [os.path.basename(path) for path in paths]
    digest = hashlib.sha256(b"shards\n")
    for path, name, shard in zip(paths, names, shards, strict=True):
        digest.update(f"{name} {len(shard)} {shard.dtype.str}\n".encode(errors="surrogateescape"))
        count = max(MAX_BLOCKS // len(shards), 2)
        _check_shard(path, shard, count, vocab_size)
        for block in _sampled_blocks(shard, count):
            digest.update(block.data)
    train = [shard for name, shard in zip(names, shards, strict=True) if not VAL_NAME.search(name)]
    held_out = [shard for name, shard in zip(names, shards, strict=True) if VAL_NAME.search(name)]
    if not train or not held_out:
        total = sum(map(len, shards))
        train, held_out = _cut(shards, total - int(HELD_OUT_SHARE * total))
    return Corpus(data, Shards(train), Shards(held_out), vocab_size, digest.hexdigest()[:16])


def _open_shard(path: str, dtype: np.dtype, vocab_size: int) -> np.ndarray:
    try:
        size, offset = os.path.getsize(path), 0
        head, tail = read_ends(path, size)
        magic, n_tokens = int.from_bytes(head[:4], "little"), int.from_bytes(head[8:12], "little")
        if magic in HEADER_DTYPES:
            dtype, offset = HEADER_DTYPES[magic], HEADER_BYTES
            if size != offset + n_tokens * dtype.itemsize:
                raise ValueError(f"{path} has {size:,} bytes, but its header promises {n_tokens:,} {dtype} tokens")
            if dtype.itemsize == 2 and vocab_size > 2**16:
                raise ValueError(_too_narrow(path, vocab_size))
        elif what := format_of(head, tail):
            raise ValueError(f"{path} {what}")
        elif is_text(head):
            raise ValueError(
                f"{path} looks like text: {_quoted(head)}; try text:{path}, or write its token ids as {dtype}"
            )
        if size <= offset:
            raise ValueError(f"{path} is empty")
        if size % dtype.itemsize:
            raise ValueError(f"{path} has {size:,} bytes, not whole {dtype} tokens; is it cut short?")
        return np.memmap(path, dtype, mode="r", offset=offset)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def _sampled_blocks(shard: np.ndarray, count: int, multiple: int = 1) -> Iterator[np.ndarray]:
    """Yield `count` evenly spaced blocks, first and last included; a shard that is no larger comes whole.

    Args:
        multiple: blocks start at multiples of it, the last one a little earlier then.
    """
    length = BLOCK_BYTES // shard.itemsize
    if len(shard) <= count * length:
        yield shard
        return
    for i in range(count):
        start = i * (len(shard) - length) // (count - 1)
        start -= start % multiple
        yield shard[start : start + length]


def _check_shard(path: str, shard: np.ndarray, count: int, vocab_size: int) -> None:
    """Refuse a shard whose blocks hold a token beyond the vocabulary, or look like another type than it is read as.

    uint32 tokens below 65,536 read as uint16 are valid ids with a 0 after each, and so are int64 tokens in any type.
    """
    for block in _sampled_blocks(shard, count):
        if (largest := int(block.max())) >= vocab_size:
            break
    else:
        largest = -1
    looks = agreed(dtype_of(block, vocab_size) for block in _sampled_blocks(shard, count, multiple=4))
    if looks not in (None, shard.dtype.name):
        raise ValueError(_looks(path, str(looks), shard.dtype.name, vocab_size))
    if largest >= 0:
        raise ValueError(too_large(path, largest, vocab_size))


def _looks(path: str, looks: str, given: str, vocab_size: int) -> str:
    """Say what the tokens of a file look like, and what to do."""
    if looks == "uint16" and vocab_size > 2**16:
        return _too_narrow(f"{path} looks like uint16 tokens:", vocab_size)
    if looks in SHARD_DTYPES:
        return f"{path} looks like {looks} tokens, not {given}; try ?dtype={looks}"
    kind, narrow = DTYPES[looks], "uint16" if vocab_size <= 2**16 else "uint32"
    return (
        f"{path} looks like {looks} tokens, which are not read; write them as {narrow}: "
        f"np.fromfile(FILE, {kind!r}).astype(np.{narrow}).tofile('tokens.bin')"
    )


def _too_narrow(what: str, vocab_size: int) -> str:
    """Say that uint16 does not hold the vocabulary."""
    return (
        f"{what} uint16 holds ids below 65,536, and a vocabulary of {vocab_size:,} has larger ones, which were cut "
        "off; write the tokens as uint32, or give the vocab_size of their tokenizer"
    )


def _quoted(head: bytes) -> str:
    return repr(head[:40].decode(errors="ignore"))


def _cut(pieces: list[np.ndarray], at: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return views of the first `at` elements of arrays in a row, and of the rest."""
    head, tail = [], []
    for piece in pieces:
        head.append(piece[:at])
        tail.append(piece[at:])
        at = max(at - len(piece), 0)
    return head, tail
