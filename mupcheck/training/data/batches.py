"""Which tokens a step sees.

A batch depends on (corpus, seed, step, batch_size, seq_len) alone. So every lr, width and parametrization of a seed
sees the same batches in the same order, and a resumed run needs no state. Only numpy's raw Philox bits are used, a
published counter generator (Salmon et al. 2011, Philox4x64-10) whose stream numpy does not change between versions.
"""

from collections.abc import Iterable

import numpy as np

from mupcheck.training.data.corpus import Corpus, Shards, too_large


def train_batch(corpus: Corpus, *, seed: int, step: int, batch_size: int, seq_len: int) -> np.ndarray:
    """Return the tokens of one training step: windows at random places, drawn with replacement.

    The first rows do not change when batch_size grows.

    Returns:
        int64 [B, T + 1]; inputs are [:, :-1] and targets [:, 1:].

    Raises:
        ValueError: if there are fewer than T + 1 tokens, or a token is not below vocab_size.
    """
    starts = window_starts(corpus, seed=seed, step=step, batch_size=batch_size, seq_len=seq_len)
    return _windows(corpus, corpus.train, starts.tolist(), seq_len)


def window_starts(corpus: Corpus, *, seed: int, step: int, batch_size: int, seq_len: int) -> np.ndarray:
    """Return where the windows of `train_batch` start among the train tokens, uint64 [B].

    Raises:
        ValueError: if there are fewer than T + 1 tokens.
    """
    places = len(corpus.train) - seq_len
    if places < 1:
        raise ValueError(f"{corpus.name} has {len(corpus.train):,} train tokens; a window needs {seq_len + 1:,}")
    draws = np.random.Philox(key=seed << 64 | step).random_raw(batch_size)
    # the bias of the remainder is places / 2^64
    return draws % np.uint64(places)


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
        raise ValueError(too_large(corpus.name, largest, corpus.vocab_size))
    return batch
