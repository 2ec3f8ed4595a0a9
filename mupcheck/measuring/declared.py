"""What a step should apply to each weight, from the run's spec and its table alone; no optimizer is asked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mupcheck.model.layers import Weight
from mupcheck.spec.run import RunSpec
from mupcheck.theory.exponents import PARAMETERS
from mupcheck.theory.parametrization import DECAYED, factors


@dataclass(frozen=True)
class Declared:
    """What one weight's spec and table give, float64 [R] each: lr before its schedule, weight decay, eps."""

    lr: Tensor
    weight_decay: Tensor
    eps: Tensor


def declared(site: str, module: Weight, runs: Sequence[RunSpec]) -> Declared:
    """Return what the runs declare for a weight; its role is that of `PARAMETERS`, where its name is known there."""
    role = PARAMETERS[site].role if site in PARAMETERS else module.role
    rows = []
    for run in runs:
        m = run.width / run.base_width
        by = factors(run.table, role, optimizer=run.optimizer, mode=run.mode, m=m, decay_mode=run.decay_mode)
        decay = run.weight_decay * by.weight_decay if role in DECAYED else 0.0
        rows.append((run.lr * by.lr, decay, run.eps * by.eps))
    return Declared(*torch.tensor(rows, dtype=torch.float64).T.contiguous().to(module.weight.device))


def schedule(run: RunSpec, step: int) -> float:
    """Return the factor on lr of the update after `step` others: a linear warm-up, then constant, linear or cosine."""
    if run.warmup_steps and step < run.warmup_steps:
        return (1 + step) / run.warmup_steps
    if run.schedule == "constant":
        return 1.0
    share = min((step - run.warmup_steps) / max(run.steps - run.warmup_steps, 1), 1.0)
    fallen = {"linear": share, "cosine": (1 - math.cos(math.pi * share)) / 2}[run.schedule]
    return 1.0 - fallen * (1.0 - min(run.min_lr / run.lr, 1.0))
