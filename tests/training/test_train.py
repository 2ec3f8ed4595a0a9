"""What a group of replicas does over its steps: records, batches, divergence, accumulation, evaluation, bfloat16."""

import math

import numpy as np
import pytest
import torch

from mupcheck.model.build import build_model
from mupcheck.spec.run import RunSpec
from mupcheck.theory.parametrization import OPTIMIZERS
from mupcheck.training.data.batches import held_out_batch, train_batch
from mupcheck.training.train import DivergenceWatch, StepRow, train

# so small that no weight of float32 changes: what differs between steps is the batch
NO_LR = 1e-30


def trained(runs: list[RunSpec], corpus) -> list[StepRow]:
    rows = list(train(runs, corpus))
    assert [row.step for row in rows] == list(range(len(rows)))
    return rows


def losses(rows: list[StepRow], replica: int = 0) -> list[float]:
    values = [row.loss[replica] for row in rows]
    assert np.isfinite(values).all()
    return values


def logits_of(model, batch: np.ndarray) -> np.ndarray:
    """Return [R, B, T, vocab] of one batch [B, T + 1] for every replica."""
    tokens = torch.from_numpy(batch[:, :-1])
    replicas = model.embedding.weight.shape[0]
    with torch.no_grad():
        return model(tokens.expand(replicas, -1, -1)).view(replicas, *tokens.shape, -1).double().numpy()


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    logits = logits - logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(-np.take_along_axis(log_p, targets[..., None], -1).mean())


# --- records and batches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [(0, 1, 4), (2, 3), (4,), ()])
def test_the_steps_asked_for_are_recorded_and_no_others(corpus, make_run, record):
    rows = trained([make_run(name, kind="coord", probes="full", record=record) for name in ("gdn-mup", "sp")], corpus)
    assert len(rows) == 4 + (4 in record)
    assert {row.step for row in rows if row.coords} == set(record)
    for row in rows:
        assert {cell.step for cell in row.coords} <= {row.step}
        assert {len(cell.values) for cell in row.coords} <= {2}


def test_changes_are_since_step_0_whether_it_is_recorded_or_not(corpus, make_run):
    def last(record):
        cells = trained([make_run(kind="coord", probes="full", record=record)], corpus)[4].coords
        return {cell[:-1]: cell.values for cell in cells}

    assert last((4,)) == last((0, 1, 2, 4))
    assert any(key[3] == "activation_update" for key in last((4,)))


def test_a_coordinate_check_sees_one_batch_and_a_sweep_many(corpus, make_run):
    options = {"lr": NO_LR, "probes": "full", "record": (0, 4)}
    same = trained([make_run(kind="coord", **options)], corpus)
    assert len(set(losses(same))) == 1
    moved = [cell for cell in same[4].coords if cell.kind == "activation_update"]
    assert moved
    assert all(cell.values == [0.0] for cell in moved)
    assert len(set(losses(trained([make_run(lr=NO_LR)], corpus)))) == 4


def test_batches_follow_seed_and_step_alone(corpus, make_run):
    # whatever the lr and, at the base width, the table
    runs = [make_run(lr=NO_LR), make_run("sp", lr=NO_LR / 2), make_run(lr=NO_LR, seed=1)]
    rows = trained(runs, corpus)
    assert losses(rows, 0) == losses(rows, 1)
    model = build_model(runs)
    for replica, run in enumerate(runs):
        batches = [train_batch(corpus, seed=run.seed, step=step, batch_size=2, seq_len=16) for step in range(4)]
        by_hand = [cross_entropy(logits_of(model, batch)[replica], batch[:, 1:]) for batch in batches]
        assert losses(rows, replica) == pytest.approx(by_hand, rel=1e-6)


def test_rows_carry_the_schedule(corpus, make_run):
    runs = [make_run(schedule="linear", warmup_steps=2, steps=6, lr=lr, min_lr=1e-3) for lr in (1e-3, 2e-3)]
    scales = [row.lr_scale for row in trained(runs, corpus)]
    expected = [[0.5, 0.5], [1, 1], [1, 1], [1, 0.875], [1, 0.75], [1, 0.625]]
    assert np.allclose(scales, expected, rtol=1e-12)


# --- divergence (performance.md) --------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_divergence(corpus, make_run):
    rows = trained([make_run(steps=8, lr=1e30)], corpus)
    assert [row.diverged[0] for row in rows] == [None, "loss or gradient is not finite"]
    assert math.isfinite(rows[0].loss[0])
    assert not math.isfinite(rows[1].loss[0])


def test_a_loss_high_above_guessing_for_several_steps_is_divergence(corpus, make_run):
    rows = trained([make_run(steps=12, lr=1.0)], corpus)
    high = [row.loss[0] > max(math.log(32), rows[0].loss[0]) + 1 for row in rows]
    reasons = [row.diverged[0] for row in rows]
    assert np.isfinite([row.loss[0] for row in rows]).all()
    assert len(rows) < 12
    assert high[-5:] == [True] * 5
    assert reasons[:-1] == [None] * (len(rows) - 1)
    assert "loss above" in reasons[-1]


def test_a_dead_model_that_guesses_is_divergence(corpus, make_run):
    # the square of 1e25 is no float32: the norm returns 0, the loss ln(vocab), every gradient 0, all of them finite
    rows = trained([make_run(embedding_std=1e25)], corpus)
    assert rows[0].loss[0] == pytest.approx(math.log(32), abs=1e-6)
    assert rows[0].grad_norm == [0.0]
    assert "no gradient" in rows[0].diverged[0]


def test_guessing_with_a_gradient_is_no_divergence(corpus, make_run):
    rows = trained([make_run(readout_std=0.0, steps=8)], corpus)
    assert rows[0].loss[0] == pytest.approx(math.log(32), abs=1e-6)
    assert rows[-1].diverged == [None]
    assert rows[-1].loss[0] < rows[0].loss[0]


def watched(*series, vocab_size=32, grad_norm=1.0):
    """Return the step (counted from 0) at which each replica's loss series is called diverged, or None."""
    watch, at = DivergenceWatch(len(series), vocab_size), [None] * len(series)
    for step, loss in enumerate(zip(*series, strict=True)):
        watch.update(np.array(loss), np.full(len(series), grad_norm))
        at = [step if seen is None and why else seen for seen, why in zip(at, watch.reason, strict=True)]
    return at


def test_a_spike_is_no_divergence_and_a_high_start_is_none_either():
    start = math.log(32)
    assert watched([start, 9, 9, 9, 9, 3, 9, 9, 9, 9], [start] + [9.0] * 9) == [None, 5]
    # a wide model of constant std starts far above guessing, and comes down
    assert watched([20.0] * 10, [20.0] * 4 + [22.0] * 6) == [None, 8]
    assert watched([start, 3, math.inf], [start, 3, math.nan], [start, 3, 2.9]) == [2, 2, None]
    assert watched([start] * 3, [start + 0.01] * 3, grad_norm=0.0) == [0, None]


def test_a_gradient_that_is_not_finite_is_divergence():
    watch = DivergenceWatch(2, 32)
    watch.update(np.array([3.0, 3.0]), np.array([1.0, math.inf]))
    assert [why is None for why in watch.reason] == [True, False]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_frozen_replica_moves_no_more_whatever_the_schedule(corpus, make_run, optimizer):
    def run(lr, schedule):
        # clipped, so that losses stay finite
        options = {"weight_decay": 0.01, "schedule": schedule, "min_lr": 1e-3, "clip": 1.0}
        return make_run(kind="coord", lr=lr, steps=20, optimizer=optimizer, **options)

    healthy, wild = (2.0**-8, 8.0) if optimizer == "adamw" else (2.0**-6, 16.0)
    for schedule in ("constant", "linear"):
        rows = trained([run(wild, schedule), run(healthy, schedule)], corpus)
        frozen = [row for row in rows if row.diverged[0]]
        assert len(frozen) > 4
        assert len({row.diverged[0] for row in frozen}) == 1
        # one batch, so the loss of a model that does not move is one number; the first is of the step that froze it
        assert len(set(losses(frozen)[1:])) == 1
        moving = losses(rows[: -len(frozen)])
        assert len(set(moving)) == len(moving)
        assert rows[-1].loss[1] < rows[0].loss[1]
        assert len({row.loss[1] for row in rows}) == len(rows)


def test_it_stops_when_every_replica_is_dead(corpus, make_run):
    rows = trained([make_run(lr=1e30, steps=50), make_run(lr=1e29, steps=50)], corpus)
    assert len(rows) == 2
    assert all(rows[-1].diverged)
    rows = trained([make_run(lr=1e30, steps=50), make_run(steps=50)], corpus)
    assert len(rows) == 50


def test_a_diverged_coordinate_check_is_recorded_beside_its_neighbour(corpus, make_run):
    options = {"kind": "coord", "probes": "full", "record": (0, 1, 4)}
    beside = trained([make_run(**options), make_run(lr=1e30, **options)], corpus)
    alone = trained([make_run(**options), make_run(seed=1, **options)], corpus)
    assert [why is None for why in beside[-1].diverged] == [True, False]
    assert losses(beside) == losses(alone)
    for one, other in zip(beside, alone, strict=True):
        assert [(*c[:-1], c.values[0]) for c in one.coords] == [(*c[:-1], c.values[0]) for c in other.coords]


# --- accumulation, evaluation, bfloat16 -------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_batch_in_parts_is_the_batch(corpus, make_run, optimizer):
    def run(parts, **more):
        options = {"batch_size": 4, "steps": 8, "clip": 1.0, "optimizer": optimizer, "lr": 2.0**-7}
        return trained([make_run(accumulation=parts, eval_tokens=256, **options | more)], corpus)

    whole = run(1)
    for parts in (2, 4):
        rows = run(parts)
        # sums of the same float32 terms in another order
        assert np.allclose(losses(rows), losses(whole), rtol=1e-6, atol=0)
        assert np.allclose([r.grad_norm for r in rows], [r.grad_norm for r in whole], rtol=1e-5, atol=0)
        assert [r.clipped for r in rows] == [r.clipped for r in whole]
        # whole held-out batches: 256 tokens are as many of them in parts as at once
        assert np.allclose(rows[-1].val_loss, whole[-1].val_loss, rtol=1e-6, atol=0)
    assert not np.allclose(losses(run(1, batch_size=2)), losses(whole), rtol=1e-6, atol=0)


def test_evaluation_is_the_mean_loss_over_held_out_tokens(corpus, make_run):
    runs = [make_run(seed=seed, lr=NO_LR, eval_tokens=100, steps=2) for seed in (0, 1)]
    rows = trained(runs, corpus)
    assert rows[0].val_loss is None
    model = build_model(runs)
    by_hand = np.zeros(2)
    for index in range(4):  # 4 x 32 tokens cover 100
        batch = held_out_batch(corpus, index=index, batch_size=2, seq_len=16)
        by_hand += [cross_entropy(logits, batch[:, 1:]) / 4 for logits in logits_of(model, batch)]
    assert rows[1].val_loss == pytest.approx(by_hand, rel=1e-6)
    assert rows[1].val_loss != pytest.approx(rows[1].loss, rel=1e-3)


def test_evaluation_changes_no_training(corpus, make_run):
    plain = trained([make_run(steps=6)], corpus)
    rows = trained([make_run(steps=6, eval_tokens=64, eval_every=2)], corpus)
    assert [row.step for row in rows if row.val_loss] == [1, 3, 5]
    assert losses(rows) == losses(plain)
    assert all(row.val_loss is None for row in plain)
    # every fourth step, and at the end
    rows = trained([make_run(steps=6, eval_tokens=64, eval_every=4)], corpus)
    assert [row.step for row in rows if row.val_loss] == [3, 5]


def test_bfloat16_is_near_float32(corpus, make_run):
    options = {"steps": 12, "kind": "coord", "probes": "full", "record": (0, 12), "lr": 2.0**-7}
    exact, rounded = (trained([make_run(dtype=dtype, **options)], corpus) for dtype in ("float32", "bfloat16"))
    assert losses(rounded) != losses(exact)
    # a product of bfloat16 is right to 2^-8; a dozen of them in a row
    assert np.allclose(losses(rounded), losses(exact), rtol=0.02)
    assert losses(rounded)[-1] < losses(rounded)[0] - 0.5
    sizes = [{c[1:-1]: c.values[0] for c in rows[-1].coords if c.kind != "diagnostic"} for rows in (exact, rounded)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.3)
    kinds = [{c[1:-1] for c in rows[-1].coords} for rows in (exact, rounded)]
    assert kinds[0] == kinds[1]
