"""`synthetic`: tokens of a Zipf-Markov source, the same on every machine."""

import numpy as np

from mupcheck.training.data.corpus import BYTES, HELD_OUT_SHARE, Corpus, in_memory

SYNTHETIC_KEY = 20_260_604  # the arXiv month of the source paper; any fixed number does
SYNTHETIC_SUCCESSORS = 32
SYNTHETIC_SLOTS = 256
SYNTHETIC_CHAINS = 4096
SYNTHETIC_STEPS = 1024


# --- synthetic --------------------------------------------------------------------------------------------------------


def open_synthetic(data: str, vocab_size: int | None) -> Corpus:
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
    return in_memory(data, np.ascontiguousarray(tokens.T).ravel(), n_train, vocab_size)


def _zipf_slots(n_ranks: int, n_slots: int) -> np.ndarray:
    """Return the rank, in 0 .. n_ranks - 1, of each slot: a rank has slots in proportion to 1 / (rank + 1)."""
    ends = np.cumsum(2**32 // np.arange(1, n_ranks + 1, dtype=np.int64))
    middles = (2 * np.arange(n_slots, dtype=np.int64) + 1) * ends[-1] // (2 * n_slots)
    return np.searchsorted(ends, middles, side="right")
