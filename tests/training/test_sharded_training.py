"""A run over several devices gives the numbers of one device, and what would spoil that is seen."""

import numpy as np
import pytest
import torch
from ranked import over_ranks, together

from mupcheck.model import sharded
from mupcheck.model.build import build_model, named_weights
from mupcheck.model.ranks import Ranks
from mupcheck.training import sharded as training
from mupcheck.training.parts import check_parts
from mupcheck.training.train import train

# Sums of another order: float32 rounds at 6e-8, and AdamW makes whole steps of what little is left of small gradients.
# Measured over 40 steps: 2e-7 to 4e-7. In float64 nothing but the last digits may differ.
FLOAT32, FLOAT64 = 1e-5, 1e-12
STEPS = 24


def several(make_run, **changes):
    """Return runs that between them use all that a step has."""
    options = {"width": 32, "base_width": 16, "batch_size": 6, "steps": STEPS, "lr": 2.0**-7} | changes
    return [
        make_run(clip=1.0, weight_decay=0.1, schedule="cosine", warmup_steps=3, eval_tokens=500, **options),
        make_run("sp", optimizer="sgd", **options | {"lr": 0.01}, momentum=0.8, weight_decay=0.01, tied=True, seed=3),
        make_run(
            decay_mode="independent", weight_decay=0.1, mode="heads", **options | {"batch_size": 12}, accumulation=2
        ),
    ]


def of_one_device(runs, corpus, device="cpu"):
    return [list(train([run], corpus, device=device)) for run in runs]


def departure(got, wanted) -> float:
    """Return the largest relative difference of losses, gradient norms and held-out losses."""
    assert len(got) == len(wanted) > 0
    worst = 0.0
    for one, other in zip(got, wanted, strict=True):
        assert [row.step for row in one] == [row.step for row in other]
        for name in ("loss", "grad_norm", "val_loss"):
            x, y = (np.array([getattr(row, name) or [0.0] for row in rows]) for rows in (one, other))
            assert np.isfinite(y).all() and y.any() == (name != "val_loss" or y.any())
            worst = max(worst, float(np.nan_to_num(np.abs(x - y) / np.maximum(np.abs(y), 1e-12), nan=9e9).max()))
    return worst


@pytest.mark.parametrize("size", [2, 3])
def test_every_number_is_that_of_one_device(corpus, make_run, size):
    runs = several(make_run, dtype="float64", steps=8)
    got, wanted = together(runs, corpus, size=size), of_one_device(runs, corpus)
    assert departure(got, wanted) < FLOAT64
    assert [row.clipped for rows in got for row in rows] == [row.clipped for rows in wanted for row in rows]
    assert any(row.clipped == [True] for row in got[0]) and any(row.val_loss for row in got[0])


def test_in_float32_up_to_the_order_of_sums_and_the_same_bits_each_time(corpus, make_run):
    runs = several(make_run)
    got = together([*runs, runs[0]], corpus)
    assert repr(got[0]) == repr(got[3])
    losses = [np.array([row.loss for row in rows]) for rows in got[:3]]
    for loss, rows in zip(losses, of_one_device(runs, corpus), strict=True):
        assert np.abs(loss / np.array([row.loss for row in rows]) - 1).max() < FLOAT32


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["chunk", "triton"])
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_on_two_gpus(corpus, make_run, backend):
    runs = several(make_run, backend=backend)
    got = together(runs, corpus, device="cuda")
    for rows, one in zip(got, of_one_device(runs, corpus, "cuda"), strict=True):
        loss, wanted = (np.array([row.loss for row in each]) for each in (rows, one))
        assert np.abs(loss / wanted - 1).max() < 3 * FLOAT32


def test_bfloat16_rounds_parts_of_a_batch_apart(corpus, make_run):
    runs = [make_run(width=32, batch_size=4, steps=10, dtype="bfloat16")]
    (rows,), (one,) = together(runs, corpus), of_one_device(runs, corpus)
    loss, wanted = (np.array([row.loss for row in each]) for each in (rows, one))
    assert 0 < np.abs(loss / wanted - 1).max() < 2e-3  # bfloat16 rounds at 4e-3, of sums of many


# --- where it starts --------------------------------------------------------------------------------------------------


def whole_values(ranks, device, run):
    model = sharded.build_sharded(run, ranks, device)
    parts = list(sharded.parts_of(model, ranks))
    return [(part.site, part.layer, part.axis, part.whole(part.local, ranks).numpy()) for part in parts]


def test_a_model_starts_from_the_values_of_one_device(make_run):
    run = make_run(width=48, base_width=16, n_heads=2)
    ((values,), (other,)) = over_ranks(whole_values, 2, run)
    model = build_model([run])
    assert len(values) == len(list(named_weights(model)))
    for (site, layer, axis, got), (*_, same), (name, at, module) in zip(
        values, other, named_weights(model), strict=True
    ):
        assert (site, layer) == (name, at)
        assert np.array_equal(got, module.weight.detach().numpy()) and np.array_equal(got, same)
        assert axis is not None or got.shape[1] % 2


def test_a_weight_is_parted_where_it_divides():
    assert sharded.axis_of(torch.Size([1, 6, 4]), 3) == 1
    assert sharded.axis_of(torch.Size([1, 5, 4]), 2) == 2
    assert sharded.axis_of(torch.Size([1, 5]), 2) is None


def test_a_run_that_diverges_ends_on_every_rank(corpus, make_run):
    rows = together([make_run("sp", lr=1e4, steps=20, optimizer="sgd")], corpus)[0]
    assert len(rows) < 20 and rows[-1].diverged[0]


@pytest.mark.parametrize(("batch", "accumulation", "devices", "instead"), [(3, 1, 2, 4), (8, 4, 4, 16), (1, 1, 3, 3)])
def test_a_batch_that_does_not_divide_is_refused(batch, accumulation, devices, instead):
    with pytest.raises(ValueError, match=f"batch_size={batch}.* gpus_per_run={devices}.*try batch_size={instead}$"):
        check_parts(batch, accumulation, devices)
    check_parts(instead, accumulation, devices)


# --- planted faults ---------------------------------------------------------------------------------------------------


def loss_of_one_rank(ranks, patch):
    """The loss is that of this rank's sequences."""
    total = Ranks.total
    doubled = torch.tensor([2.0, 1.0])
    patch.setattr(Ranks, "total", lambda self, x: x * doubled if x.shape == (2,) else total(self, x))


def norm_of_one_part(ranks, patch):
    """The gradient's norm is that of this rank's part."""
    total = Ranks.total

    def of_part(self, x):
        return torch.stack([total(self, x)[0], x[1]]) if x.shape == (2,) else total(self, x)

    patch.setattr(Ranks, "total", of_part)


def same_sequences(ranks, patch):
    """Every rank takes the first sequences."""
    patch.setattr(Ranks, "rows", lambda self, x: x.chunk(self.size, dim=1)[0])


def other_seeds(ranks, patch):
    """Every rank has batches of its own."""
    batch = training.train_batch
    patch.setattr(training, "train_batch", lambda corpus, seed, **how: batch(corpus, seed=seed + ranks.rank, **how))


def other_values(ranks, patch):
    """Every rank draws values of its own."""
    values = sharded.initial_values

    def own(model, runs):
        return values(model, [run.model_copy(update={"seed": run.seed + ranks.rank}) for run in runs])

    patch.setattr(sharded, "initial_values", own)


def summed_gradients(ranks, patch):
    """Gradients are added up and not averaged."""
    shard = sharded.fully_shard

    def fully_shard(module, **how):
        shard(module, **how)
        module.set_gradient_divide_factor(1.0)

    patch.setattr(sharded, "fully_shard", fully_shard)


def unshared_gradients(ranks, patch):
    """What is whole on every rank is updated by the gradient of its own sequences."""
    patch.setattr(sharded.dist, "all_reduce", lambda x: x.mul_(ranks.size))


def none(ranks, patch):
    """Nothing."""


FAULTS = (
    *(loss_of_one_rank, norm_of_one_part, same_sequences, other_seeds, other_values, summed_gradients),
    unshared_gradients,
)


def test_planted_faults_are_seen(corpus, make_run):
    # heads that do not divide have scalars that are whole on every rank
    run = make_run(width=36, base_width=36, n_heads=3, steps=3, clip=0.5, dtype="float64", lr=2.0**-7)
    wanted = of_one_device([run], corpus)
    right, *wrong = together([run], corpus, plants=(none, *FAULTS))
    assert departure([right], wanted) < FLOAT64
    off = {fault.__name__: departure([rows], wanted) for fault, rows in zip(FAULTS, wrong, strict=True)}
    assert min(off.values()) > 1e3 * FLOAT64, off
