"""A sweep with halving: what is given up is recorded as stopped, and what goes on has the numbers it always has."""

import numpy as np
import pytest
from tiny_sweeps import tiny

from mupcheck.learning_rates.optimum import find_optima
from mupcheck.sweep.plan import extend, plan_sweep
from mupcheck.sweep.runner import run_sweep
from mupcheck.training import halving
from mupcheck.training import train as training
from mupcheck.training.train import train

LRS = tuple(2.0**power for power in (-14, -12, -8, -7))
SAME_NUMBERS = 1e-12  # sums over replicas, such as a gradient's norm, round by how many there are


@pytest.fixture
def of(tmp_path, monkeypatch):
    # a tiny model does not part by 0.3 nats in some steps
    monkeypatch.setattr(halving, "MARGINS", {0.25: 0.03, 0.5: 0.01})

    def train(**fields):
        sweep = tiny(
            widths=(16,),
            lrs=LRS,
            seeds=(0, 1),
            parametrizations=("sp",),
            steps=24,
            warmup_steps=0,
            eval_tokens=64,
            **fields,
        )
        return sweep, run_sweep(sweep, out=tmp_path / str(len(fields)), device="cpu", jobs=1)

    return train


def test_what_is_far_above_is_stopped_and_the_rest_is_as_it_was(of, tmp_path):
    _, whole = of()
    sweep, halved = of(halving=True)
    status = halved.runs.set_index(["seed", "lr"])["status"]
    stopped = halved.runs[halved.runs["status"] == "stopped"]
    assert 0 < len(stopped) <= 6  # half of four, then half of two, of each seed
    assert stopped["reason"].str.startswith("stopped: ").all()
    assert stopped["val_loss"].isna().all()
    assert set(stopped["diverged_step"]) <= {5, 11}
    assert (stopped["tokens"] == (stopped["diverged_step"] + 1) * sweep.batch_size * sweep.seq_len).all()
    steps_of = dict(iter(halved.steps.groupby("run_id")))
    numbers = ["loss", "val_loss", "grad_norm", "lr_scale"]
    for run in whole.runs.itertuples():
        (mine,) = halved.runs.loc[(halved.runs["seed"] == run.seed) & (halved.runs["lr"] == run.lr), "run_id"]
        before = whole.steps[whole.steps["run_id"] == run.run_id][numbers].to_numpy(dtype=float)
        after = steps_of[mine][numbers].to_numpy(dtype=float)
        assert len(after) == (24 if status[run.seed, run.lr] == "ok" else len(after))
        np.testing.assert_allclose(after, before[: len(after)], rtol=SAME_NUMBERS)
    (best,), (as_it_was,) = find_optima(halved), find_optima(whole)
    assert best.log2_lr == pytest.approx(as_it_was.log2_lr, abs=0.5)
    again = plan_sweep(sweep, out=tmp_path / "1")
    assert extend(again, again.runs, finished=set(halved.runs["run_id"])).missing == again.missing == 0


def test_nothing_is_stopped_where_nothing_is_far_above(of, monkeypatch):
    monkeypatch.setattr(halving, "MARGINS", {0.25: 9.0, 0.5: 9.0})
    _, halved = of(halving=True)
    assert set(halved.runs["status"]) == {"ok"}


@pytest.mark.parametrize("alone", [{"exact": True}, {"gpus_per_run": 2}])
def test_where_each_trains_by_itself_nothing_can_be_compared(tmp_path, alone):
    with pytest.raises(ValueError, match=r"halving compares runs that train together, and .* trains each by itself"):
        plan_sweep(tiny(halving=True), out=tmp_path, **alone)


@pytest.mark.parametrize("steps", [24, 10])
def test_a_group_goes_on_without_half_of_it_that_diverged(tmp_path, monkeypatch, steps):
    shape = {"widths": (16,), "parametrizations": ("sp",), "steps": steps, "warmup_steps": 0, "eval_tokens": 64}
    high, low = (2.0**1, 2.0**2), (2.0**-8, 2.0**-7)
    alone = run_sweep(tiny(lrs=low, **shape), out=tmp_path / "alone", device="cpu", jobs=1)
    sizes = []

    def counted(runs, *arguments, **how):
        for row in train(runs, *arguments, **how):
            sizes.append(len(runs))
            yield row

    monkeypatch.setattr(training, "train", counted)
    both = run_sweep(tiny(lrs=low + high, **shape), out=tmp_path / "both", device="cpu", jobs=1)
    of_high = both.runs[both.runs["lr"] >= 1]
    assert set(of_high["status"]) == {"diverged"} and set(both.runs.loc[both.runs["lr"] < 1, "status"]) == {"ok"}
    # each half of a group that diverged, where steps are left that are worth it
    last = int(of_high["diverged_step"].max())
    assert last < 8
    n, n_low = len(both.runs), len(both.runs) // 2
    at = last + 1 if steps - last - 1 >= 8 else steps
    assert sizes == [n] * at + [n_low] * (steps - at)
    mine = both.steps[both.steps["run_id"].isin(alone.runs["run_id"])]
    for run_id, before in alone.steps.groupby("run_id"):
        numbers = ["loss", "val_loss", "grad_norm", "lr_scale"]
        after = mine[mine["run_id"] == run_id][numbers].to_numpy(dtype=float)
        np.testing.assert_allclose(after, before[numbers].to_numpy(dtype=float), rtol=SAME_NUMBERS)
