"""A table applied to a plain torch model gives what it gives our own: factors, and the same training, step by step."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from plain_gdn import plain_copy

import mupcheck
from mupcheck.model.build import build_model, parameter_groups
from mupcheck.spec.run import RunSpec
from mupcheck.theory.parametrization import TABLES
from mupcheck.training.optim import make_optimizer

BASE, WIDTH = 16, 32
CASES = [
    pytest.param(table, optimizer, mode, tied, id=f"{table} {optimizer} {mode} {'tied' if tied else 'untied'}")
    for table, optimizer, mode, tied in itertools.product(TABLES, ("adamw", "sgd"), ("head-dim", "heads"), (0, 1))
]


def run_of(table, optimizer, mode, tied, width=WIDTH, **more):
    given = {
        "width": width, "base_width": BASE, "mode": mode, "tied": bool(tied), "n_layers": 2, "n_heads": 2,
        "vocab_size": 32, "readout_std": 0.25, "norm_eps": 1e-2, "parametrization": table, "optimizer": optimizer,
        "lr": 2**-6, "seed": 0, "dtype": "float64", "momentum": 0.5, "backend": "chunk",
    }  # fmt: skip
    return RunSpec(**given | {"table": TABLES[table]} | more)


def plain_of(run, width):
    """Return our model under sp, of one init std at every width as libraries have it, in plain torch."""
    sp = run_of("sp", run.optimizer, run.mode, run.tied, width)
    return plain_copy(build_model([sp]), sp)


def torch_optimizer(groups, run):
    if run.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(run.beta1, run.beta2))
    return torch.optim.SGD(groups, momentum=run.momentum, nesterov=True)


def losses_of_ours(run, tokens, steps):
    model = build_model([run])
    optimizer = make_optimizer(parameter_groups(model, [run]), [run])
    found = []
    for _ in range(steps):
        model.zero_grad(set_to_none=True)
        loss = model.loss(tokens[None])
        loss.sum().backward()
        found.append(loss.item())
        optimizer.step(torch.ones(1, dtype=torch.float64), optimizer.gradient_norm(), torch.ones(1, dtype=torch.bool))
    return found


def losses_of_plain(model, optimizer, tokens, steps):
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        found.append(loss.item())
        optimizer.step()
    return found


TOKENS = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("table", "optimizer", "mode", "tied"), CASES)
@pytest.mark.parametrize("decay", [("coupled", 0.0), ("coupled", 0.3), ("independent", 0.3)], ids=str)
def test_a_plain_model_trains_as_ours(table, optimizer, mode, tied, decay):
    run = run_of(table, optimizer, mode, tied, decay_mode=decay[0], weight_decay=decay[1])
    model = plain_of(run, WIDTH)
    groups = mupcheck.parametrize(
        model, base=plain_of(run, BASE), table=table, optimizer=optimizer, lr=run.lr, weight_decay=run.weight_decay,
        decay_mode=run.decay_mode, eps=run.eps,
    )  # fmt: skip
    ours = losses_of_ours(run, TOKENS, 4)
    plain = losses_of_plain(model, torch_optimizer(groups, run), TOKENS, 4)
    assert ours[-1] != pytest.approx(ours[0], abs=1e-3)
    # float64, sums in another order
    assert plain == pytest.approx(ours, rel=1e-9)
