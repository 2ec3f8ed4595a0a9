"""Laws that hold for any parametrization: what must not depend on what."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mupcheck.model.build import build_model, named_weights
from mupcheck.model.layers import ShortConv
from mupcheck.proof.identities import Setting, base_width, nan_neighbour, order, replicas, symmetry
from mupcheck.theory.parametrization import MODES, OPTIMIZERS, TABLES, Role
from mupcheck.training.train import train


def losses(runs, corpus, **options):
    rows = list(train(runs, corpus, **options))
    values = np.array([row.loss for row in rows])
    assert np.isfinite(values).all()  # NaN would slip through comparisons below
    return values


def lr_of(optimizer):
    return 2.0**-7 if optimizer == "adamw" else 2.0**-4


def assert_holds(identity):
    assert identity.holds is True, identity


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", TABLES)
def test_at_the_base_width_every_table_is_the_same_model(corpus, device, optimizer, mode, name):
    identity = base_width(name, Setting(optimizer, mode, corpus, device, dtype="float32"))
    assert_holds(identity)
    assert identity.measured == identity.tolerance == 0  # bit for bit


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_away_from_the_base_width_tables_differ(corpus, make_run, optimizer):
    values = losses([make_run(name, width=32, optimizer=optimizer, lr=lr_of(optimizer)) for name in TABLES], corpus)
    assert len(set(values[-1])) == len(TABLES)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_factor_moves_between_init_multiplier_and_lr(corpus, device, optimizer, mode):
    # m = 4 is a power of 2, and so is its square root: scaling by them rounds nothing, on a CPU in float32 too
    dtype = "float32" if device == "cpu" else "float64"
    for name in TABLES:
        identity = symmetry(name, Setting(optimizer, mode, corpus, device, dtype))
        assert_holds(identity)
        assert device != "cpu" or identity.measured == 0, name


def test_initial_values_depend_on_seed_width_and_parameter_only(make_run):
    alone = build_model([make_run(width=32, seed=1)])
    among = build_model(
        [make_run(width=32, seed=0), make_run(width=32, seed=1, lr=0.5), make_run("sp", width=32, seed=1)]
    )
    for (site, _, one), (_, _, many) in zip(named_weights(alone), named_weights(among), strict=True):
        assert torch.equal(one.weight[0], many.weight[1]), site
        if one.std:
            assert not torch.equal(many.weight[0], many.weight[1]), site
            # sp has init exponent 0: the same draw, without gdn-mup's factor
            assert torch.allclose(
                many.weight[1] / many.weight[1].norm(), many.weight[2] / many.weight[2].norm(), rtol=1e-5
            ), site


@pytest.mark.parametrize("mode", MODES)
def test_gate_scalars_are_drawn_in_common_across_widths(make_run, mode):
    for site in ("A_log", "dt_bias"):
        narrow, wide = (
            getattr(build_model([make_run(width=width, mode=mode)]).blocks[0].mixer, site).weight[0]
            for width in (16, 64)
        )
        assert torch.equal(wide[: len(narrow)], narrow)
        assert set(wide.tolist()) == set(narrow.tolist())


def test_gate_scalars_lie_where_the_paper_draws_them(make_run):
    runs = [make_run(n_heads=2, seed=seed) for seed in range(200)]
    mixer = build_model(runs).blocks[0].mixer
    a, dt = mixer.A_log.weight.detach().exp(), torch.nn.functional.softplus(mixer.dt_bias.weight.detach())
    assert a.min() > 0 and 15 < a.max() <= 16
    assert math.isclose(float(a.mean()), 8, rel_tol=0.1)  # 400 draws of U(0, 16): standard error 0.23
    assert dt.min() * (1 + 1e-3) >= 1e-3 and dt.max() <= 0.1 * (1 + 1e-3)


def test_init_stds_follow_the_table(make_run):
    for name in ("sp", "gdn-mup", "mup-strict"):
        run = make_run(name, width=256, base_width=64, n_heads=2, projection_std=0.02)
        for site, _, module in named_weights(build_model([run])):
            if not module.std:
                continue
            rule = run.table.rule(module.role, optimizer="adamw", mode="head-dim")
            base = 0.02 if module.role in (Role.HIDDEN, Role.GATE) else module.std
            # the smallest matrix has 512 values: relative standard error of its std 3%, three of these
            assert math.isclose(float(module.weight.std()), base * 4**rule.init, rel_tol=0.1), (name, site)


def test_a_parameter_without_a_role_is_named(make_run):
    model = build_model([make_run()])
    model.blocks[0].stray = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match=r"blocks\.0\.stray has no role"):
        list(named_weights(model))


def test_runs_of_another_shape_are_no_replicas(make_run):
    with pytest.raises(ValueError, match="group the runs first"):
        build_model([make_run(), make_run(width=32)])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["sp", "gdn-mup"])
def test_replicas_are_equal_to_single_runs(corpus, device, optimizer, name):
    # a GPU often picks another kernel: in float32 SGD's losses were 1.4e-4 apart (H200), in float64 the law shows
    dtype = "float32" if device == "cpu" else "float64"
    assert_holds(replicas(name, Setting(optimizer, "head-dim", corpus, device, dtype)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_nan_replica_leaves_its_neighbours_alone(corpus, device, optimizer):
    assert_holds(nan_neighbour("gdn-mup", Setting(optimizer, "head-dim", corpus, device, dtype="float32")))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_does_not_depend_on_its_sweep(corpus, device, optimizer, mode):
    assert_holds(order("gdn-mup", Setting(optimizer, mode, corpus, device)))


def test_the_short_conv_is_a_causal_convolution():
    generator = torch.Generator().manual_seed(0)
    for taps, time in ((4, 9), (4, 3), (1, 5)):
        conv = ShortConv(2, 6, taps, std=1.0).double()
        torch.nn.init.normal_(conv.weight, generator=generator)
        x = torch.randn(2, 3, time, 6, generator=generator, dtype=torch.float64, requires_grad=True)
        padded = F.pad(x.transpose(2, 3).flatten(0, 1), (taps - 1, 0)).view(2, 3, 6, -1).transpose(0, 1).flatten(1, 2)
        kernel = conv.weight.transpose(1, 2).flatten(0, 1)[:, None]
        right = F.conv1d(padded, kernel, groups=12).view(3, 2, 6, time).permute(1, 0, 3, 2)
        assert torch.allclose(conv(x), right, rtol=1e-12, atol=1e-12)
        assert torch.autograd.gradcheck(lambda x, w, conv=conv: conv.act(w, x), (x, conv.weight))


def test_the_model_is_causal(make_run, device):
    model = build_model([make_run(width=32, n_layers=2, dtype="float64")], device)
    tokens = torch.randint(32, (1, 2, 40), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[..., 25] = (changed[..., 25] + 1) % 32
    with torch.no_grad():
        before, after = (model(t.to(device)).view(2, 40, 32) for t in (tokens, changed))
    assert torch.equal(before[:, :25], after[:, :25])
    assert not torch.equal(before[:, 25:], after[:, 25:])
