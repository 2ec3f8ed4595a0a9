"""The synthetic source."""

import math

import numpy as np
import pytest

from mupcheck.training.data.batches import train_batch
from mupcheck.training.data.sources import open_corpus

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
