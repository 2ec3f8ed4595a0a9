"""What a patch of the training code does: to the weights that it is about, from its step on, and to no others."""

from functools import partial

import pytest
import torch

from mupcheck.model.build import build_model, named_weights, parameter_groups
from mupcheck.model.layers import rms_norm
from mupcheck.proof.faults import Where
from mupcheck.proof.patches import forward, fresh, kernels, optimizers, patched, starts, updates
from mupcheck.training.optim import SGD, AdamW, make_optimizer


def moved(runs, patch=None, where=Where(), steps=1, **options):
    """Return every weight's change in the last of some steps, by (site, layer), with the same gradients each time."""
    with patched(patch(where, **options) if patch else ()):
        model = build_model(runs)
        optimizer = make_optimizer(parameter_groups(model, runs), runs)
        for step in range(steps):
            before = {key: weight.detach().clone() for key, weight in weights(model)}
            for i, (_, weight) in enumerate(weights(model)):
                bits = torch.Generator().manual_seed(100 * step + i)
                weight.grad = torch.randn(weight.shape, generator=bits, dtype=weight.dtype)
            alive = torch.ones(len(runs), dtype=torch.bool)
            optimizer.step(torch.ones(len(runs), dtype=torch.float64), optimizer.gradient_norm(), alive)
        return {key: weight.detach() - before[key] for key, weight in weights(model)}


def weights(model):
    for site, layer, module in named_weights(model):
        yield (site, layer), module.weight


@pytest.fixture(params=["adamw", "sgd"])
def runs(request, make_run):
    changes = {"optimizer": request.param, "n_layers": 2, "dtype": "float64", "width": 32}
    return [make_run(seed=seed, **changes) for seed in (0, 1)]


def same(a, b):
    return torch.allclose(a, b, rtol=1e-9, atol=1e-15)  # float64: a difference of two weights keeps 1e-13 of a change


def test_a_factor_is_applied_where_it_should_be_and_nowhere_else(runs):
    clean = moved(runs)
    wrong = moved(runs, updates.scaled, Where(("q_proj",), layer=1), factor=-0.5)
    for key, change in clean.items():
        assert same(wrong[key], -0.5 * change if key == ("q_proj", 1) else change), key
    assert all(
        same(change, clean[key]) for key, change in moved(runs, updates.scaled, Where(width=64), factor=3).items()
    )


def test_it_begins_with_its_step(runs):
    late = partial(moved, runs, updates.scaled, Where(step=2), factor=0.0)
    assert same(late()["o_proj", 0], moved(runs)["o_proj", 0])
    assert not late(steps=2)["o_proj", 0].any()


def test_parts_heads_and_seeds(runs):
    clean = moved(runs)["k_proj", 0]
    columns = moved(runs, updates.part_scaled, axis=-1, part=slice(0, 4), factor=0)["k_proj", 0]
    assert not columns[..., :4].any() and same(columns[..., 4:], clean[..., 4:])
    seeds = moved(runs, updates.part_scaled, axis=0, part=slice(-1, None), factor=0)["k_proj", 0]
    assert not seeds[1].any() and same(seeds[0], clean[0])
    head = moved(runs, updates.head_scaled, head=1, factor=2)["k_proj", 0]
    half = clean.shape[-1] // runs[0].heads[0]
    assert same(head[..., :half], clean[..., :half]) and same(head[..., half:], 2 * clean[..., half:])


def test_another_seeds_gradient_moves_what_its_own_would_have(runs):
    clean, wrong = moved(runs), moved(runs, updates.of_another_seed)
    assert same(wrong["readout", -1][0], clean["readout", -1][1])


@pytest.mark.parametrize(("optimizer", "patch"), [(AdamW, optimizers.adam), (SGD, optimizers.sgd)])
def test_without_an_option_the_other_arithmetic_is_the_same(make_run, optimizer, patch):
    # so that an option is all that is wrong
    runs = [make_run(optimizer=optimizer.__name__.lower(), dtype="float64", width=32)]
    clean, other = moved(runs, steps=3), moved(runs, patch, steps=3)
    assert all(torch.allclose(other[key], change, rtol=1e-6, atol=1e-15) for key, change in clean.items())
    option = {"corrected": False} if optimizer is AdamW else {"nesterov": False}
    assert not same(moved(runs, patch, steps=3, **option)["q_proj", 0], clean["q_proj", 0])


def test_decay_pulls_what_has_none_or_what_has_it(make_run):
    runs = [make_run(weight_decay=0.5, dtype="float64")]
    weight = {key: weight.detach() for key, weight in weights(build_model(runs))}
    clean, gains, off = (
        moved(runs),
        moved(runs, updates.decayed, all_roles=True),
        moved(runs, updates.decayed, factor=-1.0),
    )
    pull = runs[0].lr * 0.5
    gain, matrix = ("norm1_gain", 0), ("o_proj", 0)
    assert same(gains[gain] - clean[gain], -pull * weight[gain]) and same(gains[matrix], clean[matrix])
    assert same(off[matrix] - clean[matrix], pull * weight[matrix]) and same(off[gain], clean[gain])


def test_initial_values_are_of_another_size_or_none(make_run):
    runs = [make_run(width=32, n_layers=2)]

    def start(patch=None, where=Where(), **options):
        with patched(patch(where, **options) if patch else ()):
            return {key: weight.detach() for key, weight in weights(build_model(runs))}

    clean = start()
    twice = start(starts.init_scaled, Where(layer=1), factor=2)
    assert same(twice["q_proj", 1], 2 * clean["q_proj", 1]) and same(twice["q_proj", 0], clean["q_proj", 0])
    assert same(twice["norm1_gain", 1], clean["norm1_gain", 1])  # what has no std is not drawn
    for draw in (starts.uniform, starts.coins, starts.orthogonal):
        other = start(starts.drawn_from, draw=draw)["up_proj", 0]
        # the rms of 4,096 values scatters by 1.1% in each of the two
        assert other.square().mean().sqrt().item() == pytest.approx(
            clean["up_proj", 0].square().mean().sqrt().item(), rel=0.05
        )
    tiled = start(fresh.tiled, Where(("up_proj",)))["up_proj", 0][0]
    assert same(tiled[:16], tiled[16:])


def test_norms_differ_in_what_they_say(corpus):
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gain = torch.full((2, 8), 2.0, dtype=torch.float64)
    right = rms_norm(x, gain, 1e-6)
    assert same(forward.with_eps(x, gain, 1e-6, eps=1e-6), right)
    for norm in (forward.none, forward.by_mean_abs, forward.by_length, forward.over_time, forward.over_all):
        assert not same(norm(x, gain, 1e-6), right)
    assert same(forward.gain_squared(x, gain, 1e-6), 2 * right)
    assert forward.centred(x, gain, 1e-6).mean(-1).abs().max() < 1e-12


@pytest.mark.parametrize("wrong", [kernels.state_lost, kernels.tail_scaled, kernels.last_chunk_empty])
def test_a_kernel_that_is_wrong_beyond_64_tokens_is_right_below(wrong):
    from mupcheck import ops

    def inputs(time):
        bits = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(1, time, 2, 4, generator=bits, dtype=torch.float64) for _ in range(3))
        k = k / k.norm(dim=-1, keepdim=True)
        gates = torch.rand(1, time, 2, generator=bits, dtype=torch.float64)
        return q, k, v, -0.1 * gates, gates

    for time, alike in ((64, True), (100, False)):
        right, _ = ops.gated_delta_rule(*inputs(time))
        with patched(kernels.kernel(Where(), wrong=wrong, long=True)):
            found, _ = ops.gated_delta_rule(*inputs(time))
            reference, _ = ops.gated_delta_rule(*inputs(time), backend="reference")
        assert torch.allclose(found, right) is alike
        assert torch.allclose(reference, right)  # to hold it against
