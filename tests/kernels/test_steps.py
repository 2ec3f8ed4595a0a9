"""A step over all weights in one launch against torch's form of it, weight by weight."""

import pytest
import torch

pytest.importorskip("triton")

from mupcheck.model.build import build_model, parameter_groups
from mupcheck.ops.kernels import steps
from mupcheck.theory.parametrization import OPTIMIZERS
from mupcheck.training import joint, replicas, updates
from mupcheck.training.device_loop import train_on_device
from mupcheck.training.divergence import DeviceWatch
from mupcheck.training.joint import JointSteps
from mupcheck.training.optim import make_optimizer
from mupcheck.training.tables import TabledSteps

REPLICAS = 3
# one value, less than a block, a matrix of odd sides, and more than a chunk
SHAPES = ((1,), (6,), (33, 31), (5000,))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# float32 in another order of operations,
CLOSE = {"rtol": 2e-6, "atol": 3e-7}  # of values of size 1, which may cancel


def noise(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [(scale * torch.randn(REPLICAS, *shape, generator=generator)).to(DEVICE) for shape in SHAPES]


def addresses_of(tensors):
    return torch.tensor([tensor.data_ptr() for tensor in tensors], device=DEVICE)


def layout():
    return steps.layout_of([tensor[0].numel() for tensor in noise(0)], torch.device(DEVICE))


def factors(seed, low, high):
    """Return float64 [weights, R]."""
    generator = torch.Generator().manual_seed(seed)
    values = low + (high - low) * torch.rand(len(SHAPES), REPLICAS, generator=generator, dtype=torch.float64)
    return values.to(DEVICE)


def given():
    """Return lr, decay, eps, corrections, step, lr_scale and alive, of which the last replica is not."""
    corrections = torch.tensor([[0.2, 2.0], [0.3, 1.5], [0.4, 1.2]], dtype=torch.float64, device=DEVICE)
    scale = torch.tensor([1.0, 0.5, 0.7], dtype=torch.float64, device=DEVICE)
    alive = torch.tensor([True, True, False], device=DEVICE)
    return {
        "lr": factors(1, 1e-3, 1e-1),
        "decay": factors(2, 0.0, 0.5),
        "eps": factors(3, 1e-3, 1e-2),
        "corrections": corrections,
        "step": torch.tensor([1], device=DEVICE),
        "lr_scale": scale,
        "alive": alive,
    }


def test_norms_are_torchs():
    gradients = noise(4)
    gradients[2][1] *= 1e3
    norms = steps.gradient_norms(addresses_of(gradients), layout(), REPLICAS)
    assert torch.allclose(norms, updates.gradient_norm(gradients), rtol=1e-6)
    assert torch.equal(norms, steps.gradient_norms(addresses_of(gradients), layout(), REPLICAS))
    gradients[3][0, -1] = float("nan")
    assert steps.gradient_norms(addresses_of(gradients), layout(), REPLICAS).isnan().tolist() == [True, False, False]


@pytest.mark.parametrize("clip", [0.0, 1e-2, 80.0])
def test_adamw_is_torchs_on_all_weights_at_once(clip):
    weights, gradients, means = noise(5), noise(6), noise(7, 0.1)
    squares = [x.square() for x in noise(8, 0.1)]
    copies = [[x.clone() for x in tensors] for tensors in (weights, gradients, means, squares)]
    options = given()
    norms = updates.gradient_norm(gradients)
    tables = [addresses_of(tensors) for tensors in (weights, gradients, means, squares)]
    clipped = steps.adamw_step(tables, layout(), norms=norms, clip=clip, betas=(0.9, 0.95), **options)
    rate = options["lr"] * options["lr_scale"]
    root, ratio = options["corrections"][1]
    factor = (clip / (norms + 1e-6)).clamp(max=1.0) if clip else None
    assert clipped.tolist() == ([False] * 3 if factor is None else (factor < 1).tolist())
    for i, (weight, gradient, mean, square) in enumerate(zip(*copies, strict=True)):
        updates.adamw_update(
            *(weight, gradient, mean, square),
            clip=factor,
            keep=(1 - rate * options["decay"])[i].float(),
            step_size=(rate * ratio)[i].float(),
            eps=(options["eps"] * root)[i].float(),
            beta1=0.9,
            beta2=0.95,
        )
    compare((weights, means, squares), (copies[0], copies[2], copies[3]), (noise(5), noise(7, 0.1)))


@pytest.mark.parametrize("clip", [0.0, 1e-2])
def test_sgd_is_torchs_on_all_weights_at_once(clip):
    weights, gradients, velocities = noise(5), noise(6), noise(7)
    copies = [[x.clone() for x in tensors] for tensors in (weights, gradients, velocities)]
    options = {name: value for name, value in given().items() if name in ("lr", "decay", "lr_scale", "alive")}
    norms = updates.gradient_norm(gradients)
    tables = [addresses_of(tensors) for tensors in (weights, gradients, velocities)]
    steps.sgd_step(tables, layout(), norms=norms, clip=clip, momentum=0.8, **options)
    for i, (weight, gradient, velocity) in enumerate(zip(*copies, strict=True)):
        updates.sgd_update(
            *(weight, gradient, velocity),
            clip=(clip / (norms + 1e-6)).clamp(max=1.0) if clip else None,
            decay=options["decay"][i].float(),
            lr=(options["lr"] * options["lr_scale"])[i].float(),
            momentum=0.8,
        )
    compare((weights, velocities), (copies[0], copies[2]), (noise(5), noise(7)))


def compare(got, expected, before):
    """The living are as torch has them, the dead as they were."""
    for ours, theirs in zip(got, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.allclose(one[:2], other[:2], **CLOSE)
    for ours, was in zip(got, before, strict=False):
        for one, other in zip(ours, was, strict=True):
            assert torch.equal(one[2], other[2])
            assert not torch.allclose(one[:2], other[:2], **CLOSE)


def test_a_dead_replica_stays_as_it_is_whatever_its_gradient():
    weights, gradients, means = noise(5), noise(6), noise(7, 0.1)
    squares = [x.square() for x in means]
    for gradient in gradients:
        gradient[2] = float("nan")
    tables = [addresses_of(tensors) for tensors in (weights, gradients, means, squares)]
    norms = updates.gradient_norm(gradients)
    steps.adamw_step(tables, layout(), norms=norms, clip=1.0, betas=(0.9, 0.95), **given())
    for weight, was in zip(weights, noise(5), strict=True):
        assert torch.equal(weight[2], was[2])
        assert weight.isfinite().all()
    # alive it would have been no number any more, all of it
    alive = given() | {"alive": torch.ones(REPLICAS, dtype=torch.bool, device=DEVICE)}
    steps.adamw_step(tables, layout(), norms=norms, clip=1.0, betas=(0.9, 0.95), **alive)
    assert all(weight[2].isnan().all() for weight in weights)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_group_trains_by_joint_steps_as_weight_by_weight(corpus, make_run, optimizer, monkeypatch):
    options = {"optimizer": optimizer, "clip": 0.5, "weight_decay": 0.1, "schedule": "linear", "steps": 5}
    runs = [make_run(name, seed=seed, **options) for name, seed in (("sp", 0), ("gdn-mup", 1))]
    expected = list(train_on_device(runs, corpus, device=DEVICE, n_steps=5, capture=False))
    made = []

    def by_addresses(*given, slots, compiled):
        made.append(JointSteps(*given, slots))
        return made[-1]

    monkeypatch.setattr(replicas, "make_steps", by_addresses)
    rows = list(train_on_device(runs, corpus, device=DEVICE, n_steps=5, capture=False))
    assert made
    for row, other in zip(rows, expected, strict=True):
        assert row.clipped == other.clipped
        assert row.loss == pytest.approx(other.loss, rel=1e-5)  # five updates, rounded otherwise
        assert row.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_kernels_that_are_wrong_or_do_not_run_are_not_used(kind, monkeypatch):
    device = torch.device(DEVICE)
    check = joint._fault.__wrapped__
    assert check(kind, device) == ""
    name = f"{kind}_step"
    step = getattr(steps, name)
    monkeypatch.setattr(steps, name, lambda *given, **named: step(*given, **(named | {"clip": 2.0})))
    assert "off by" in check(kind, device)
    monkeypatch.setattr(steps, name, lambda *given, **named: 1 / 0)
    assert check(kind, device) == "they do not run: division by zero"


def numbers(steps_taken, n_replicas):
    """Return losses and gradient norms [steps, R] around every edge of the rules of divergence."""
    generator = torch.Generator().manual_seed(9)
    guess = torch.tensor(32.0, dtype=torch.float64).log()
    edges = torch.stack(
        [guess - 1, guess, guess + 5e-4, guess + 1, guess + 1.5, guess + 9, guess * torch.nan, guess / 0]
    )
    often = torch.tensor([30, 1, 1, 2, 4, 8, 0.1, 0.1])
    losses = edges[torch.multinomial(often, steps_taken * n_replicas, replacement=True, generator=generator)]
    of_norms = torch.tensor([0.0, 1e-13, 1.0, torch.nan, torch.inf])
    often = torch.tensor([2, 2, 40, 0.1, 0.1])
    norms = of_norms[torch.multinomial(often, steps_taken * n_replicas, replacement=True, generator=generator)]
    shape = (steps_taken, n_replicas)
    losses = losses.view(shape)
    losses[5:, ::4] = guess + 9  # for several steps
    losses[7, 1::4] = guess
    norms = norms.view(shape)
    norms[7, 1::8] = 0.0
    return losses.to(DEVICE), norms.to(DEVICE)


@pytest.mark.parametrize("n_replicas", [1, 37])
def test_a_step_is_noted_as_torch_does(make_run, n_replicas):
    runs = [make_run() for _ in range(n_replicas)]
    made = make_optimizer(parameter_groups(build_model(runs, DEVICE), runs), runs)
    seen = []
    for kind in (JointSteps(made, 4, slots=1), TabledSteps(made, 4)):
        watch = DeviceWatch(n_replicas, 32, DEVICE)
        ring = torch.zeros(8, 4, n_replicas, dtype=torch.float64, device=DEVICE)
        step = torch.zeros(1, dtype=torch.int64, device=DEVICE)
        for loss, norm in zip(*numbers(20, n_replicas), strict=True):
            kind.note(watch, ring, step, loss, norm, norm > 0.5)
        seen.append([ring.nan_to_num(7.0), step, watch.why, watch.high_steps, watch.ceiling])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*seen, strict=True))
    assert step.item() == 20
    assert n_replicas == 1 or set(watch.why.tolist()) == {0, 1, 2, 3}
