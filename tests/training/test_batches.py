import numpy as np
import pytest
from token_files import counting

from mupcheck.training.data.batches import held_out_batch, held_out_batches, train_batch
from mupcheck.training.data.corpus import check_corpus

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
