"""What each update should have been: nothing is off in right ones, and what departs is seen where it is."""

import itertools

import pytest
import torch
from planted_steps import LR, around, checked, frozen, other_schedule, times

from mupcheck.measuring.declared import declared, schedule
from mupcheck.measuring.shadow import NOTICED, Shadow
from mupcheck.model.build import build_model, named_weights, parameter_groups
from mupcheck.theory.parametrization import OPTIMIZERS, TABLES
from mupcheck.training.optim import lr_scale, make_optimizer
from mupcheck.training.train import train

SETTINGS = list(itertools.product(OPTIMIZERS, ("head-dim", "heads")))
OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decay_mode": "independent", "clip": 0.05},
    {"schedule": "cosine", "warmup_steps": 2, "min_lr": 2.0**-12, "steps": 5},
    {"schedule": "linear", "clip": 0.5, "steps": 5},
    {"tied": True, "embedding_std": 0.1, "weight_decay": 0.01},
    {"dtype": "bfloat16", "weight_decay": 0.1},
    {"dtype": "float64"},
    {"lr": 2.0**-14},
    {"eps": 1e-4, "beta1": 0.5, "beta2": 0.999, "momentum": 0.5},
    {"batch_size": 4, "readout_std": 0.0, "record": (0, 3)},
]


def seen(runs, corpus) -> dict:
    """Return what is recorded of the updates: (step, layer, site, stat) -> values [R]."""
    cells = [cell for row in train(runs, corpus) for cell in row.coords if cell.stat.startswith("applied")]
    return {(cell.step, cell.layer, cell.site, cell.stat): cell.values for cell in cells}


def stats(coords, site, stat, step=1) -> list[float]:
    rows = coords[(coords["site"] == site) & (coords["stat"] == f"applied{stat}") & (coords["step"] == step)]
    return rows["value"].tolist()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options))
@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
def test_of_right_updates_nothing_is_left_beyond_rounding(corpus, make_run, optimizer, mode, options):
    probing = {"kind": "coord", "probes": "full", "record": (0, 1, 3), "steps": 3, "n_layers": 1}
    shape = {"width": 32, "mode": mode, "optimizer": optimizer, "lr": LR[optimizer]}
    runs = [make_run(table, seed=seed, **probing | shape | options) for seed, table in ((0, "gdn-mup"), (1, "sp"))]
    recorded = seen(runs, corpus)
    assert {stat for *_, stat in recorded} == {"applied", "applied_misfit", "applied_rounding"}
    weights = {place[1:3] for place in recorded}
    assert len(weights) == len(list(named_weights(build_model(runs, "meta"))))
    for (*place, stat), values in recorded.items():
        if stat == "applied_misfit":
            # rounding is a bound: what is left of a right update is 0, not small
            assert values == [0.0, 0.0], place
        if stat == "applied":
            rounding = recorded[(*place, "applied_rounding")]
            assert all(abs(value - 1) <= bound for value, bound in zip(values, rounding, strict=True)), place


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_declared_is_what_the_parameter_groups_have(make_run, optimizer):
    # two readers of the table that know nothing of each other
    options = {"width": 64, "optimizer": optimizer, "weight_decay": 0.3, "decay_mode": "independent"}
    runs = [make_run(name, lr=lr, **options) for name, lr in zip(TABLES, (0.1, 0.2, 0.4, 0.8, 0.1, 0.2), strict=True)]
    model = build_model(runs)
    applies = make_optimizer(parameter_groups(model, runs), runs).realised(torch.ones(len(runs), dtype=torch.float64))
    for (site, _, module), real in zip(named_weights(model), applies, strict=True):
        given = declared(site, module, runs)
        for mine, other in ((given.lr, real.lr), (given.weight_decay, real.weight_decay), (given.eps, real.eps)):
            assert torch.allclose(mine, other, rtol=1e-12, atol=0), site


def test_the_schedule_is_the_one_that_is_trained_with(make_run):
    for kind, warm, floor in itertools.product(("constant", "linear", "cosine"), (0, 3), (0.0, 2.0**-10)):
        run = make_run(schedule=kind, warmup_steps=warm, min_lr=floor, steps=9)
        both = [(schedule(run, step), lr_scale(run, step)) for step in range(9)]
        assert all(mine == pytest.approx(other, rel=1e-12, abs=1e-15) for mine, other in both)


def test_gradients_of_parts_are_taken_when_all_are_there(corpus, make_run):
    # probes and accumulation are not asked for together; the comparison holds all the same
    runs = [make_run(seed=seed, batch_size=4, clip=0.1) for seed in (0, 1)]
    model = build_model(runs)
    optimizer, shadow = make_optimizer(parameter_groups(model, runs), runs), Shadow(model, runs)
    alive = torch.tensor([True, False])
    tokens = torch.from_numpy(corpus.train[: 2 * 4 * 17].astype("int64")).view(2, 4, 17)
    for _ in range(3):
        model.zero_grad(set_to_none=True)
        for part in tokens.split(2, dim=1):
            model.loss(part).sum().backward()
        shadow.before(alive)
        optimizer.step(torch.ones(2, dtype=torch.float64), optimizer.gradient_norm(), alive)
        shadow.after()
        taken = shadow.take()
        assert taken[1].max() == 0
        assert (taken[0][:, 1] == 1).all()  # a dead replica should not move, and does not


@pytest.mark.parametrize(
    ("site", "part", "axis", "lines"),
    [
        ("q_proj", (slice(4, 8),), "rows", (4, 7, 4)),
        ("q_proj", (slice(None), 3), "columns", (3, 3, 1)),
        ("k_conv1d", (slice(None), slice(2, 4)), "columns", (2, 3, 2)),
        ("norm1_gain", (5,), "columns", (5, 5, 1)),
        ("readout", (slice(None), slice(8, 24)), "columns", (8, 23, 16)),
    ],
)
def test_a_part_that_is_frozen_is_seen_by_its_lines(corpus, make_run, monkeypatch, site, part, axis, lines):
    frozen(site, *part)(monkeypatch)
    _, coords, _ = checked(make_run, corpus, widths=(32,), seeds=1)
    wrong = coords[(coords["stat"] == "applied_misfit") & (coords["value"] > NOTICED)]
    assert set(wrong["site"]) == {site}
    said = [stats(coords, site, f"_{axis}_{what}")[-1] for what in ("first", "last", "wrong")]
    assert tuple(said) == lines
    # the files leave out what is 0 in every run
    assert not any(stats(coords, site, f"_{axis}_factor"))
    assert stats(coords, site, "_misfit")[-1] == pytest.approx(1, abs=0.01)
    assert stats(coords, site, "_share")[-1] == pytest.approx(1, abs=0.01)
    assert stats(coords, site, "")[-1] < 1


def test_one_value_of_thousands_is_seen(corpus, make_run, monkeypatch):
    frozen("up_proj", 3, 5)(monkeypatch)
    _, coords, _ = checked(make_run, corpus, widths=(32,), seeds=1, n_layers=1)
    # 1 of 4096: the factor of the whole weight says 1.000, the lines through it say where
    assert stats(coords, "up_proj", "") == pytest.approx([1], abs=1e-3)
    for axis, line in (("rows", 3), ("columns", 5)):
        assert stats(coords, "up_proj", f"_{axis}_first") == stats(coords, "up_proj", f"_{axis}_last") == [line]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("factor", [-1.0, 0.5, 0.99, 1.01, 2.0])
def test_a_factor_is_read_to_rounding_and_is_all_there_is(corpus, make_run, monkeypatch, optimizer, factor):
    times(factor)(monkeypatch)
    _, coords, _ = checked(make_run, corpus, widths=(32,), seeds=1, optimizer=optimizer, n_layers=1)
    for stat in ("applied", "applied_rows_factor", "applied_columns_factor"):
        # SGD's step of a gate scalar is 1e-5 of it
        values = coords.loc[coords["stat"] == stat, "value"]
        assert len(values) > 40
        assert values.tolist() == pytest.approx([factor] * len(values), abs=2e-3)
    # less the bound on rounding, which is a sixth of the smallest one here
    misfit = coords.loc[coords["stat"] == "applied_misfit", "value"]
    assert misfit.tolist() == pytest.approx([abs(factor - 1)] * len(values), rel=0.2)
    assert (coords.loc[coords["stat"] == "applied_share", "value"] > 0.99).all()


def test_steps_between_recorded_ones_are_looked_at(corpus, make_run, monkeypatch):
    other_schedule(lambda step: 0.3 if step == 2 else 1.0)(monkeypatch)
    _, coords, _ = checked(make_run, corpus, widths=(16,), seeds=1, record=(0, 1, 5, 6), steps=6)
    for step, factor, first in ((1, 1.0, []), (5, 0.3, [3.0]), (6, 1.0, [])):
        assert stats(coords, "readout", "", step) == pytest.approx([factor], rel=1e-3)
        assert stats(coords, "readout", "_step", step) == first


def test_a_weight_that_turns_to_nothing_is_off_and_one_without_gradients_is_not(corpus, make_run, monkeypatch):
    def spoil(optimizer, group, go, gradient, lr):
        go()
        if group.site == "q_proj":
            group.weight[0, 0, 0] = float("nan")

    with monkeypatch.context() as patch:
        around(spoil)(patch)
        _, coords, _ = checked(make_run, corpus, widths=(16,), seeds=2, n_layers=1, record=(0, 1), steps=1)
        assert stats(coords, "q_proj", "_misfit") == [1e6, 0.0]
        assert set(coords.loc[(coords["stat"] == "applied_misfit") & (coords["value"] > 0), "site"]) == {"q_proj"}
    runs = [make_run(kind="coord", probes="full", record=(0, 1, 2), lr=lr) for lr in (2.0**-8, 1e30)]
    recorded = seen(runs, corpus)
    assert all(values == [0.0, 0.0] for (*_, stat), values in recorded.items() if stat == "applied_misfit")
