"""The batches that lie on a device: those of `train_batch` and `held_out_batch`, whatever the corpus is made of."""

import numpy as np
import pytest
import torch

from mupcheck.training.data import feed
from mupcheck.training.data.batches import held_out_batch, train_batch
from mupcheck.training.data.corpus import Corpus, Shards

STEPS = 7
SHAPE = {"batch_size": 2, "seq_len": 16}


def corpus_of(dtype: str, *, vocab_size: int, shards: bool = False) -> Corpus:
    rng = np.random.Generator(np.random.Philox(key=1))
    tokens = rng.integers(0, vocab_size, size=2000).astype(dtype)
    tokens[::100] = vocab_size - 1  # above half of what the dtype holds, where a sign would be
    train, held_out = tokens[:1500], tokens[1500:]
    if shards:
        return Corpus("test", Shards([train[:700], train[700:]]), Shards([held_out]), vocab_size, "0" * 16)
    return Corpus("test", train, held_out, vocab_size, "0" * 16)


CORPORA = [("u1", 256, False), ("<u2", 2**16, False), ("<u2", 50_257, True), ("<u4", 100_000, True)]


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("corpus", CORPORA, ids=str)
def test_batches_are_those_of_the_host(make_run, device, monkeypatch, corpus, resident):
    dtype, vocab_size, shards = corpus
    opened = corpus_of(dtype, vocab_size=vocab_size, shards=shards)
    runs = [make_run(seed=seed, lr=lr, steps=STEPS) for seed, lr in ((3, 1e-3), (0, 1e-3), (3, 1e-2))]
    monkeypatch.setattr(feed, "STEPS_AHEAD", 3)
    monkeypatch.setattr(feed, "RESIDENT_BYTES", 2**31 if resident else 0)
    opened_feed = feed.open_feed(runs, opened, n_steps=STEPS, device=device)
    assert isinstance(opened_feed, feed.ResidentFeed if resident else feed.StreamedFeed)
    for step in range(STEPS):
        opened_feed.fill(step)
        batch = opened_feed.batch(torch.tensor([step], device=device)).cpu().numpy()
        expected = [train_batch(opened, seed=run.seed, step=step, **SHAPE) for run in runs]
        assert np.array_equal(batch, np.stack(expected))
    assert not np.array_equal(batch[0], batch[1])
    opened_feed.keep(torch.tensor([1], device=device))
    kept = opened_feed.batch(torch.tensor([STEPS - 1], device=device)).cpu().numpy()
    assert np.array_equal(kept[0], batch[1])


def test_a_slot_is_not_written_before_its_step_is_done(make_run):
    opened = corpus_of("u1", vocab_size=256)
    runs = [make_run(steps=400)]
    streamed = feed.StreamedFeed(runs, opened, n_steps=400, device="cpu")
    for first in range(0, 400, 50):  # blocks that do not divide the ring
        streamed.fill(max(first - 50, 0))  # the host knows the block before last to be done
        for step in range(first, first + 50):
            batch = streamed.batch(torch.tensor([step]))[0].numpy()
            assert np.array_equal(batch, train_batch(opened, seed=0, step=step, **SHAPE))


@pytest.mark.parametrize("steps", [3, 300])
def test_a_coordinate_check_has_one_batch(make_run, steps):
    opened = corpus_of("u1", vocab_size=256)
    batches = feed.open_feed([make_run(kind="coord", steps=steps)], opened, n_steps=steps, device="cpu")
    batches.fill(0)
    seen = [batches.batch(torch.tensor([step])) for step in (0, 1, steps - 1)]
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    assert np.array_equal(seen[0][0].numpy(), train_batch(opened, seed=0, step=0, **SHAPE))


def test_a_corpus_above_the_limit_is_read_as_it_is_needed(make_run, monkeypatch):
    opened = corpus_of("u1", vocab_size=256)
    runs = [make_run(steps=500)]
    assert isinstance(feed.open_feed(runs, opened, n_steps=500, device="cpu"), feed.ResidentFeed)
    monkeypatch.setattr(feed, "RESIDENT_BYTES", 1499)
    assert isinstance(feed.open_feed(runs, opened, n_steps=500, device="cpu"), feed.StreamedFeed)


def test_held_out_batches_are_those_of_the_host(make_run, device):
    opened = corpus_of("<u2", vocab_size=50_257, shards=True)
    held_out = feed.HeldOut(make_run(eval_tokens=100), opened, device)
    assert held_out.count == 4
    for index in range(4):
        batch = held_out.batch(torch.tensor([index], device=device)).cpu().numpy()
        assert np.array_equal(batch, held_out_batch(opened, index=index, **SHAPE))
    # all there are if fewer
    assert feed.HeldOut(make_run(eval_tokens=10**6), opened, device).count == 15


def test_a_token_beyond_the_vocabulary_is_refused(make_run):
    tokens = np.full(1000, 7, dtype=np.uint8)
    tokens[500] = 32
    opened = Corpus("test", tokens, tokens, 32, "0" * 16)
    runs = [make_run(steps=500)]
    with pytest.raises(ValueError, match="test holds token 32, not below vocab_size=32"):
        feed.open_feed(runs, opened, n_steps=500, device="cpu")
    with pytest.raises(ValueError, match="token 32"):
        feed.HeldOut(make_run(eval_tokens=10**6), opened, "cpu")
    with pytest.raises(ValueError, match="fewer than one batch"):
        feed.HeldOut(make_run(eval_tokens=100, seq_len=1000), opened, "cpu")
