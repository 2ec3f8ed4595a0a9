"""AdamW and SGD per replica against torch's, schedules, and that what is read back is what the weights show."""

import math

import numpy as np
import pytest
import torch

from mupcheck.model.build import DECAYED, build_model, parameter_groups
from mupcheck.theory.parametrization import OPTIMIZERS, Role
from mupcheck.training.optim import lr_scale, make_optimizer

LRS = (2.0**-5, 2.0**-7, 3e-3)
# float64 throughout: what differs is the order of a few products
RTOL = 1e-10


def make(runs):
    """Return the optimizer of a fresh model; only the weights of the model matter here, gradients are planted."""
    return make_optimizer(parameter_groups(build_model(runs), runs), runs)


def ones(runs):
    return torch.ones(len(runs), dtype=torch.float64)


def all_alive(runs):
    return torch.ones(len(runs), dtype=torch.bool)


def planted(groups, step):
    """Set the gradient of every weight to fixed noise of size 10^-3 .. 10^3, replica by replica, and return them."""
    generator = torch.Generator().manual_seed(step)
    for group in groups:
        noise = torch.randn(group.weight.shape, generator=generator, dtype=torch.float64)
        group.weight.grad = (noise * 10.0 ** (step % 7 - 3)).to(group.weight)
    return [group.weight.grad.clone() for group in groups]


def torch_optimizer(run, groups, weights, replica):
    """Return torch's own optimizer with one group per weight, from the rule: lr, decay and eps times their factors."""
    options = []
    for group, weight in zip(groups, weights, strict=True):
        lr, decay = float(group.lr[replica]) * run.lr, float(group.weight_decay[replica]) * run.weight_decay
        options.append(
            {"params": [weight], "lr": lr, "weight_decay": decay, "eps": float(group.eps[replica]) * run.eps}
        )
    if run.optimizer == "adamw":
        return torch.optim.AdamW(options, betas=(run.beta1, run.beta2))
    for option in options:
        del option["eps"]
    return torch.optim.SGD(options, momentum=run.momentum, nesterov=True)


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("decay", [{}, {"weight_decay": 0.3}, {"weight_decay": 0.3, "decay_mode": "independent"}])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_are_torchs(make_run, optimizer, decay, clip):
    shape = {"width": 32, "optimizer": optimizer, "dtype": "float64", "eps": 1e-3, "momentum": 0.8, "clip": clip}
    runs = [make_run(name, lr=lr, **shape, **decay) for name, lr in zip(("sp", "gdn-mup", "mup"), LRS, strict=True)]
    ours = make(runs)
    copies = [[g.weight[r].detach().clone().requires_grad_() for g in ours.groups] for r in range(len(runs))]
    theirs = [torch_optimizer(run, ours.groups, copies[r], r) for r, run in enumerate(runs)]
    scales = ones(runs) * torch.tensor([1.0, 0.5, 0.25])
    for step in range(6):
        gradients = planted(ours.groups, step)
        norms = ours.gradient_norm()
        # the schedule reaches torch's as any scheduler does: through each group's lr
        clipped = ours.step(scales * (step + 1) / 6, norms, all_alive(runs))
        for r, (reference, copy) in enumerate(zip(theirs, copies, strict=True)):
            for weight, gradient in zip(copy, gradients, strict=True):
                weight.grad = gradient[r].clone()
            norm = torch.nn.utils.clip_grad_norm_(copy, clip or math.inf)
            assert math.isclose(float(norm), float(norms[r]), rel_tol=RTOL)
            assert bool(clipped[r]) == (clip > 0 and float(norm) > clip)
            lrs = [g["lr"] for g in reference.param_groups]
            for g in reference.param_groups:
                g["lr"] *= float(scales[r]) * (step + 1) / 6
            reference.step()
            for g, lr in zip(reference.param_groups, lrs, strict=True):
                g["lr"] = lr
    for group, *copy in zip(ours.groups, *copies, strict=True):
        together = torch.stack([weight.detach() for weight in copy])
        assert torch.isfinite(together).all()
        assert torch.allclose(group.weight, together, rtol=RTOL, atol=1e-14), group.site


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_clipping_bounds_each_replicas_own_norm(make_run, optimizer):
    runs = [make_run(seed=seed, clip=0.5, optimizer=optimizer, dtype="float64") for seed in range(2)]
    ours = make(runs)
    planted(ours.groups, 3)
    for group in ours.groups:
        group.weight.grad[1] *= 1e-6  # this replica's norm is far below the bound, and stays as it is
    small = [group.weight.grad[1].clone() for group in ours.groups]
    norms = ours.gradient_norm()
    by_hand = math.sqrt(sum(float(group.weight.grad[0].square().sum()) for group in ours.groups))
    assert math.isclose(float(norms[0]), by_hand, rel_tol=1e-12)
    clipped = ours.step(ones(runs), norms, all_alive(runs))
    assert clipped.tolist() == [True, False]
    if optimizer == "adamw":  # SGD adds the decay to the gradient in place, here there is none
        after = math.sqrt(sum(float(group.weight.grad[0].square().sum()) for group in ours.groups))
        assert math.isclose(after, 0.5, rel_tol=1e-5)  # torch's clipping adds 1e-6 to the norm
        assert all(torch.equal(g.weight.grad[1], before) for g, before in zip(ours.groups, small, strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_dead_replica_is_left_exactly_as_it_is(make_run, optimizer):
    runs = [make_run(lr=lr, optimizer=optimizer, weight_decay=0.3) for lr in LRS]
    ours, alone = make(runs), make(runs)
    for step in range(5):
        alive = torch.tensor([True, step < 2, True])
        if step == 2:
            frozen = [group.weight[1].detach().clone() for group in ours.groups]
        planted(ours.groups, step)
        planted(alone.groups, step)
        ours.step(ones(runs), ours.gradient_norm(), alive)
        alone.step(ones(runs), alone.gradient_norm(), all_alive(runs))
    for group, other, before in zip(ours.groups, alone.groups, frozen, strict=True):
        assert torch.equal(group.weight[1], before), group.site
        assert not torch.equal(other.weight[1], before), group.site  # alive it would have moved
        assert torch.equal(group.weight[[0, 2]], other.weight[[0, 2]]), group.site


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_independent_decay_keeps_lr_times_decay_constant_across_width(make_run, optimizer):
    def products(width, decay_mode):
        run = make_run("gdn-mup", width=width, optimizer=optimizer, weight_decay=0.1, decay_mode=decay_mode)
        applied = {(a.site, a.layer): a for a in make([run]).realised(ones([run]))}
        return {place: float(a.lr * a.weight_decay) for place, a in applied.items()}

    base, wide = products(16, "independent"), products(64, "independent")
    assert any(base.values())
    assert base == pytest.approx(wide, rel=1e-12)
    # coupled decay is torch's: it falls with each role's lr, which no shipped muP keeps for all roles
    base, wide = products(16, "coupled"), products(64, "coupled")
    moved = {site for (site, layer) in base if not math.isclose(base[site, layer], wide[site, layer])}
    assert moved >= ({"q_proj", "down_proj"} if optimizer == "adamw" else {"embedding", "readout"})


def test_only_matrices_decay(make_run):
    run = make_run(weight_decay=0.1)
    ours = make([run])
    decays = {
        group.role: float(a.weight_decay) for group, a in zip(ours.groups, ours.realised(ones([run])), strict=True)
    }
    assert decays == {role: 0.1 * (role in {Role.EMBEDDING, Role.READOUT, Role.HIDDEN, Role.GATE}) for role in Role}
    assert set(DECAYED) == {role for role, decay in decays.items() if decay}


# --- what is read back is what the weights show (theory.md section 5, fault 6) ----------------------------------------


def shown(make_run, optimizer, spoil=lambda ours: None, **changes):
    """Return, by place, the realised lr, decay and eps and those that the weights show in one step, [R] each."""
    options = {"width": 32, "optimizer": optimizer, "dtype": "float64", "eps": 1e-3, "weight_decay": 0.25, **changes}
    tables = ("gdn-mup", "sp", "mup-strict")
    runs = [make_run(name, lr=lr, **options) for name, lr in zip(tables, LRS, strict=True)]
    scale = torch.tensor([1.0, 0.5, 0.125], dtype=torch.float64)

    def first_step(weight, gradient):
        """Return the weights after one step from constant `weight` under constant `gradient`, by place, [R]."""
        ours = make(runs)
        applied = ours.realised(scale)
        spoil(ours)
        for group, a in zip(ours.groups, applied, strict=True):
            group.weight.data.fill_(weight)
            value = a.eps if gradient == "eps" else torch.full_like(a.eps, gradient)
            group.weight.grad = value.view(-1, *[1] * (group.weight.dim() - 1)).expand_as(group.weight).clone()
        ours.step(scale, ours.gradient_norm(), all_alive(runs))
        ends = [group.weight.detach().flatten(1) for group in ours.groups]
        assert all((end == end[:, :1]).all() for end in ends)
        return applied, [end[:, 0] for end in ends]

    nesterov = 1.0 if optimizer == "adamw" else 1 + runs[0].momentum
    # AdamW divides the gradient by itself, so a huge one shows lr; one of size eps shows half of it
    size = 1e6 if optimizer == "adamw" else 1.0
    applied, after = first_step(0.0, size)
    lr = [-end / nesterov for end in after]
    _, after = first_step(1.0, 0.0)
    decay = [(1 - end) / nesterov / rate for end, rate in zip(after, lr, strict=True)]
    _, after = first_step(0.0, "eps")
    ratio = [-end / rate for end, rate in zip(after, lr, strict=True)]  # g / (g + eps) under AdamW
    eps = [a.eps * (1 / r - 1) for a, r in zip(applied, ratio, strict=True)] if optimizer == "adamw" else None
    measured = {"lr": lr, "weight_decay": decay} | ({"eps": eps} if eps else {})
    return {key: ([getattr(a, key) for a in applied], values) for key, values in measured.items()}


def agree(pairs, key):
    realised, measured = pairs[key]
    # a gradient of 1e6 against an eps of at most 1e-3 shows lr to 1e-9
    return all(torch.allclose(a, b, rtol=1e-7, atol=1e-12) for a, b in zip(realised, measured, strict=True))


@pytest.mark.parametrize("decay_mode", ["coupled", "independent"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_read_back_is_what_the_weights_show(make_run, optimizer, decay_mode):
    pairs = shown(make_run, optimizer, decay_mode=decay_mode)
    assert set(pairs) == ({"lr", "weight_decay", "eps"} if optimizer == "adamw" else {"lr", "weight_decay"})
    assert all(torch.isfinite(value).all() for _, measured in pairs.values() for value in measured)
    assert all(agree(pairs, key) for key in pairs)
    # what is compared differs between replicas and between roles
    assert len({float(value) for values in pairs["lr"][1] for value in values}) > 3


@pytest.mark.parametrize(
    ("optimizer", "key"), [("adamw", "lr"), ("adamw", "eps"), ("sgd", "lr"), ("sgd", "weight_decay")]
)
def test_a_group_that_gets_another_value_than_is_read_back_is_seen(make_run, optimizer, key):
    def spoil(ours):
        values = getattr(ours, key)
        index = next(i for i, group in enumerate(ours.groups) if group.site == "q_proj")
        values[index] = values[index] * torch.tensor([1.0, 1.25, 1.0], dtype=torch.float64)

    pairs = shown(make_run, optimizer, spoil)
    assert not agree(pairs, key)


# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0, 2, 10])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_schedules_start_at_warm_up_peak_at_one_and_end_at_min_lr(make_run, schedule, warmup):
    run = make_run(schedule=schedule, warmup_steps=warmup, steps=50, lr=0.5, min_lr=0.05)
    scales = np.array([lr_scale(run, step) for step in range(51)])
    assert scales.max() == 1.0
    assert scales[max(warmup - 1, 0)] == 1.0
    assert np.allclose(scales[:warmup], np.arange(1, warmup + 1) / max(warmup, 1))  # never 0: no step is wasted
    after = scales[max(warmup - 1, 0) :]
    if schedule == "constant":
        assert (after == 1).all()
        return
    assert math.isclose(run.lr * scales[-1], run.min_lr, rel_tol=1e-12)
    assert (np.diff(after) <= 0).all()
    assert -np.diff(after).min() < math.pi / 2 / (
        50 - warmup
    )  # no jump: a cosine's steepest step is pi / 2 of the mean
    middle = (scales[warmup + (50 - warmup) // 2] - 0.1) / 0.9
    assert math.isclose(middle, 0.5, abs_tol=1e-9)  # both pass half way in the middle


def test_the_cosine_is_a_cosine_and_the_line_a_line(make_run):
    fraction = np.arange(41) / 40
    for schedule, shape in (("linear", 1 - fraction), ("cosine", (1 + np.cos(np.pi * fraction)) / 2)):
        run = make_run(schedule=schedule, steps=40)
        assert np.allclose([lr_scale(run, step) for step in range(41)], shape, rtol=0, atol=1e-12)


def test_min_lr_above_lr_does_not_raise_the_lr(make_run):
    run = make_run(schedule="cosine", steps=10, lr=0.01, min_lr=0.05)
    assert [lr_scale(run, step) for step in range(11)] == [1.0] * 11
