"""Faults of the training code: each a patch under which what is applied is not what spec and table declare.

A patch takes pytest's monkeypatch, and wraps the update of one weight or replaces what is around it.
"""

import math
from collections.abc import Callable

import pandas as pd

import mupcheck.model.build
import mupcheck.training.train
from mupcheck.coordinates.applied import applied
from mupcheck.coordinates.finding import Finding
from mupcheck.coordinates.validity import examine
from mupcheck.model.layers import per_replica
from mupcheck.sweep.cost import count_parameters
from mupcheck.sweep.group import tables_of
from mupcheck.theory.parametrization import Role
from mupcheck.training.optim import SGD, AdamW, Optimizer
from mupcheck.training.train import train

Patch = Callable
LR = {"adamw": 2.0**-8, "sgd": 2.0**-3}


def checked(make_run, corpus, *, widths=(16, 32), seeds=2, optimizer="adamw", **changes) -> tuple:
    """Train a small coordinate check; return its runs and coords as they are stored, and its table."""
    shape = {"kind": "coord", "probes": "full", "record": (0, 1, 2), "steps": 2, "n_layers": 2, "batch_size": 1}
    runs, coords = [], []
    for width in widths:
        group = [
            make_run(seed=seed, **{"width": width, "optimizer": optimizer, "lr": LR[optimizer]} | shape | changes)
            for seed in range(seeds)
        ]
        rows = list(train(group, corpus))
        for replica, run in enumerate(group):
            record, _, columns = tables_of(run, replica, rows)
            runs.append(record | {"n_params": count_parameters(run), "sweep": "s"})
            coords.append(pd.DataFrame(columns).assign(run_id=run.run_id))
    return pd.DataFrame(runs), pd.concat(coords, ignore_index=True), group[0].table


def found(runs: pd.DataFrame, coords: pd.DataFrame, table) -> list[Finding]:
    """Return what is found to be applied otherwise than declared."""
    return list(examine(runs, coords, table=table, parts=(applied,)))


def around(change: Callable) -> Patch:
    """Return a patch that calls change(optimizer, group, update, gradient, lr) in place of each weight's update."""

    def plant(patch):
        for kind in (AdamW, SGD):

            def update(self, index, weight, gradient, lr, real=kind._update):
                def go(gradient=gradient, lr=lr):
                    real(self, index, weight, gradient, lr)

                change(self, self.groups[index], go, gradient, lr)

            patch.setattr(kind, "_update", update)

    return plant


def times(factor: float, where: Callable = lambda optimizer, group: True) -> Patch:
    """Multiply the lr of some weights."""
    return around(lambda optimizer, group, go, g, lr: go(lr=lr * factor) if where(optimizer, group) else go())


def frozen(site: str, *part) -> Patch:
    """Hold a part of one parameter still."""

    def change(optimizer, group, go, g, lr):
        old = group.weight.detach().clone()
        go()
        if group.site == site:
            group.weight[(slice(None), *part)] = old[(slice(None), *part)]

    return around(change)


def lent(optimizer, group, go, gradient, lr):
    go(gradient=gradient.roll(1, 0))


def twice(optimizer, group, go, gradient, lr):
    go(gradient=gradient.clone())
    go()


def other_spec(**changes) -> Patch:
    """Let the optimizer read other settings."""

    def plant(patch):
        real = Optimizer.__init__
        patch.setattr(
            Optimizer,
            "__init__",
            lambda self, groups, runs: real(self, groups, [run.model_copy(update=changes) for run in runs]),
        )

    return plant


def other_factors(**changes) -> Patch:
    """Let the parameter groups be made from other settings, given or by a function of the run."""

    def plant(patch):
        real = mupcheck.training.train.parameter_groups

        def groups(model, runs):
            return real(
                model,
                [run.model_copy(update={n: v(run) if callable(v) else v for n, v in changes.items()}) for run in runs],
            )

        patch.setattr(mupcheck.training.train, "parameter_groups", groups)

    return plant


def other_schedule(scale: Callable) -> Patch:
    return lambda patch: patch.setattr(mupcheck.training.train, "lr_scale", lambda run, step: scale(step))


def shared_state(patch):
    """Let weights of one shape share their moments."""
    for kind, name in ((AdamW, "mean"), (AdamW, "mean_square"), (SGD, "velocity")):

        def init(self, groups, runs, real=kind.__init__, name=name):
            real(self, groups, runs)
            first: dict = {}
            setattr(self, name, [first.setdefault(state.shape, state) for state in getattr(self, name)])

        patch.setattr(kind, "__init__", init)


def no_bias_correction(patch):
    def update(self, index, weight, gradient, lr):
        mean, square = self.mean[index], self.mean_square[index]
        mean.lerp_(gradient, 1 - self.spec.beta1)
        square.mul_(self.spec.beta2).addcmul_(gradient, gradient, value=1 - self.spec.beta2)
        step = mean / (square.sqrt() + per_replica(self.eps[index].to(weight.dtype), weight))
        weight.sub_(step * per_replica(lr.to(weight.dtype), weight))

    patch.setattr(AdamW, "_update", update)


def heavy_ball(patch):
    def update(self, index, weight, gradient, lr):
        velocity = self.velocity[index].mul_(self.spec.momentum).add_(gradient)
        weight.sub_(velocity * per_replica(lr.to(weight.dtype), weight))

    patch.setattr(SGD, "_update", update)


def decay_on_all(patch):
    patch.setattr(mupcheck.model.build, "DECAYED", frozenset(Role))


def clips_by_value(patch):
    real = Optimizer.gradient_norm

    def norm(self):
        for group in self.groups:
            group.weight.grad.clamp_(-1e-4, 1e-4)
        return real(self)

    patch.setattr(Optimizer, "gradient_norm", norm)


def coupled(patch):
    return other_factors(decay_mode="coupled")(patch)


BIAS = (1 - 0.9) / math.sqrt(1 - 0.95)
