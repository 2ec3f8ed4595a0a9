"""Tokens to train on and tokens held out, in memory or mapped from files."""

import hashlib
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

BYTES = 256
HELD_OUT_SHARE = 0.1


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


def too_large(name: str, token: int, vocab_size: int) -> str:
    """Say that a token is beyond the vocabulary, and what to do."""
    return (
        f"{name} holds token {token:,}, not below vocab_size={vocab_size:,}; "
        "give the tokenizer's vocab_size, or the dtype of the files by ?dtype=uint32 or ?dtype=uint16"
    )


def in_memory(data: str, tokens: np.ndarray, n_train: int, vocab_size: int) -> Corpus:
    """Return tokens as a corpus whose first `n_train` are trained on, the rest held out."""
    digest = hashlib.sha256(f"{tokens.dtype.str} {len(tokens)} {n_train}\n".encode())
    digest.update(tokens.data)
    return Corpus(data, tokens[:n_train], tokens[n_train:], vocab_size, digest.hexdigest()[:16])
