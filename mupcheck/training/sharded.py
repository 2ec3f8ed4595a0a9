"""One run over several devices: the step of `train`, of which each rank takes its part of the batch and of the weights.

Every rank computes the same numbers and takes the same decisions from them; losses are means over ranks, and sums over
weights are of their parts. They are those of one device up to the order of sums.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from mupcheck.measuring.sharded import ShardedProbe
from mupcheck.model.build import parameter_groups
from mupcheck.model.lm import LanguageModel
from mupcheck.model.ranks import Ranks
from mupcheck.model.sharded import Part, build_sharded, parts_of, share_gradients
from mupcheck.ops import fused
from mupcheck.spec.run import RunSpec
from mupcheck.training.data.batches import held_out_batch, held_out_batches, train_batch
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.divergence import DivergenceWatch
from mupcheck.training.dtype import autocast
from mupcheck.training.optim import lr_scale, make_optimizer
from mupcheck.training.parts import check_parts
from mupcheck.training.rows import StepRow, evaluates
from mupcheck.training.state import Between, State, put_back, state_of


def train_sharded(
    run: RunSpec,
    corpus: Corpus,
    *,
    ranks: Ranks,
    device: str,
    start: State | None = None,
    between: Between | None = None,
) -> Iterator[StepRow]:
    """Train one run over all ranks and yield the rows of `train`, the same on each rank.

    Args:
        run: what to train.
        corpus: the opened data of the run.
        ranks: who this process is, joined to the others.
        device: of this rank.
        start: where this rank stood in an earlier training of the same run over as many, as `train` has it.
        between: as of `train`; called on each rank.
    Raises:
        ValueError: if the batch does not divide.
    """
    check_parts(run.batch_size, run.accumulation, ranks.size)
    n_steps = max(run.record) + 1 if run.record else run.steps
    with fused.switched_off():  # whose loss goes past the modules that gather their weights
        model = build_sharded(run, ranks, device)
        parts = list(parts_of(model, ranks))
        groups = [
            replace(group, weight=cast(nn.Parameter, part.local))
            for group, part in zip(parameter_groups(model, [run]), parts, strict=True)
        ]
        optimizer = make_optimizer(groups, [run])
        probe = None
        if run.probes != "none":
            probe = ShardedProbe(model, parts, ranks, full=run.probes == "full", run=run)
        scales = torch.tensor([[lr_scale(run, step)] for step in range(n_steps)], dtype=torch.float64)
        scales = scales.to(device)
        alive = torch.ones(1, dtype=torch.bool, device=device)
        watch = DivergenceWatch(1, run.vocab_size)
        if start is not None:
            put_back(start, model, optimizer, probe)
            watch.hold(start.tensors, start.facts)

        for step in range(start.step if start else 0, n_steps):
            watched = probe is not None and (step in run.record or step == 0)
            if probe is not None and watched:
                probe.start()
            for part in parts:
                part.local.grad = None  # or it would lie beside the next until that is whole
            loss = _backward(model, run, corpus, step, ranks, device)
            share_gradients(parts, ranks)
            if probe is not None and step < run.steps:
                probe.before_update(alive)
            numbers = _numbers(loss, parts, ranks)
            grad_norm = numbers[1:].to(parts[0].local.dtype)
            coords = []
            if probe is not None and watched:
                probe.finish(optimizer, scales[step])
                coords = probe.rows(step) if step in run.record else []
            clipped = torch.zeros_like(alive)
            if step < run.steps:
                clipped = optimizer.step(scales[step], grad_norm, alive)
                if probe is not None:
                    probe.after_update()
            val_loss = _evaluate(model, run, corpus, ranks, device) if evaluates(run, step) else None
            mean_loss, norm = numbers[:1].tolist(), grad_norm.tolist()
            watch.update(np.array(mean_loss), np.array(norm))
            reason = list(watch.reason)
            yield StepRow(step, mean_loss, norm, scales[step].tolist(), clipped.tolist(), reason, val_loss, coords)
            if reason != [None]:
                return
            if between is not None and step + 1 < n_steps:
                between(partial(state_of, step + 1, model, optimizer, probe, watch))


def _backward(model: LanguageModel, run: RunSpec, corpus: Corpus, step: int, ranks: Ranks, device: str) -> Tensor:
    """Pass a step's batch through the model and back; return the mean loss of this rank's part, float64 []."""
    model.zero_grad(set_to_none=True)
    shape = {"batch_size": run.batch_size, "seq_len": run.seq_len}
    batch = train_batch(corpus, seed=run.seed, step=0 if run.kind == "coord" else step, **shape)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for part in torch.from_numpy(batch)[None].split(run.batch_size // run.accumulation, dim=1):
        with autocast(run, device):
            part_loss = model.loss(ranks.rows(part).to(device)).sum() / run.accumulation
        part_loss.backward()
        loss += part_loss.detach()
    return loss


def _numbers(loss: Tensor, parts: list[Part], ranks: Ranks) -> Tensor:
    """Return the loss, a mean over ranks, and the gradient's norm, a sum over all parts, float64 [2]."""
    own = [part for part in parts if part.axis is not None or ranks.rank == 0]
    norms = [torch.linalg.vector_norm(part.local.grad) for part in own if part.local.grad is not None]
    square = torch.stack(norms).double().square().sum() if norms else torch.zeros_like(loss)
    mean, square = ranks.total(torch.stack([loss / ranks.size, square]))
    return torch.stack([mean, square.sqrt()])


def _evaluate(model: LanguageModel, run: RunSpec, corpus: Corpus, ranks: Ranks, device: str) -> list[float]:
    """Return the mean held-out loss, [1], as `train.evaluate` does."""
    shape = {"batch_size": run.batch_size // run.accumulation, "seq_len": run.seq_len}
    count = held_out_batches(corpus, tokens=run.eval_tokens, **shape)
    total = torch.zeros(1, dtype=torch.float64, device=device)
    with torch.no_grad(), autocast(run, device):
        for index in range(count):
            batch = torch.from_numpy(held_out_batch(corpus, index=index, **shape))[None]
            total += model.loss(ranks.rows(batch).to(device))
    return (ranks.total(total) / (count * ranks.size)).tolist()
