"""Train one group of replicas: a generator of step rows that writes no files and prints nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mupcheck.measuring.probes import CoordRow, Probe
from mupcheck.model.build import build_model, parameter_groups
from mupcheck.model.lm import LanguageModel
from mupcheck.spec.run import RunSpec
from mupcheck.training.data.batches import held_out_batch, held_out_batches, train_batch
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.device_loop import train_on_device
from mupcheck.training.divergence import DivergenceWatch
from mupcheck.training.dtype import autocast
from mupcheck.training.optim import lr_scale, make_optimizer
from mupcheck.training.rows import StepRow, evaluates
from mupcheck.training.state import Between, State, put_back, state_of


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch sum in one order on a CPU, the same bits however much runs beside it; as it was afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(
    runs: Sequence[RunSpec],
    corpus: Corpus,
    *,
    device: str = "cpu",
    start: State | None = None,
    between: Between | None = None,
) -> Iterator[StepRow]:
    """Train one replica per run and yield a row per step, then coordinate rows where `record` asks for them.

    A replica that diverges is frozen: `diverged` says why in the row of the step where it did, and in every later one.

    Args:
        runs: runs of one `RunSpec.group`.
        corpus: the opened data of the runs.
        device: "cpu", "cuda" or "cuda:i".
        start: where an earlier training of the same runs on the same kind of device stood; the rows from there on are
            those that it would have given, bit for bit.
        between: is called where this one could be left, after the rows before were taken.
    Raises:
        ValueError: if the runs cannot share a model, or `start` is of other runs.
    """
    spec, n_replicas = runs[0], len(runs)
    # a recorded step after the last update needs one more forward and backward pass; a coordinate check ends there
    n_steps = max(spec.record) + 1 if spec.record else spec.steps
    if torch.device(device).type == "cuda":
        yield from train_on_device(runs, corpus, device=device, n_steps=n_steps, start=start, between=between)
        return
    model = build_model(runs, device)
    optimizer = make_optimizer(parameter_groups(model, runs), runs)
    probe = None if spec.probes == "none" else Probe(model, full=spec.probes == "full", runs=runs)
    scales = torch.tensor([[lr_scale(run, step) for run in runs] for step in range(n_steps)], dtype=torch.float64)
    alive = torch.ones(n_replicas, dtype=torch.bool)
    watch = DivergenceWatch(n_replicas, spec.vocab_size)
    if start is not None:
        put_back(start, model, optimizer, probe)
        watch.hold(start.tensors, start.facts)
        alive = _alive(watch)

    for step in range(start.step if start else 0, n_steps):
        # changes are since step 0, asked for or not
        watched = probe is not None and (step in spec.record or step == 0)
        tokens = _batch(runs, corpus, step)
        if probe is not None and watched:
            probe.start()
        model.zero_grad(set_to_none=True)
        loss = torch.zeros(n_replicas, dtype=torch.float64)
        for part in tokens.split(spec.batch_size // spec.accumulation, dim=1):
            with autocast(spec, device):
                part_loss = model.loss(part) / spec.accumulation
            part_loss.sum().backward()
            loss += part_loss.detach()
        if probe is not None and step < spec.steps:
            probe.before_update(alive)
        grad_norm = optimizer.gradient_norm()
        coords: list[CoordRow] = []
        if probe is not None and watched:
            probe.finish(optimizer, scales[step])
            coords = probe.rows(step)
            if step not in spec.record:
                coords = []
        clipped = torch.zeros_like(alive)
        if step < spec.steps:
            clipped = optimizer.step(scales[step], grad_norm, alive)
            if probe is not None:
                probe.after_update()
        val_loss = evaluate(model, runs, corpus, device) if evaluates(spec, step) else None
        watch.update(loss.numpy(), grad_norm.double().numpy())
        yield StepRow(
            step,
            loss.tolist(),
            grad_norm.tolist(),
            scales[step].tolist(),
            clipped.tolist(),
            list(watch.reason),
            val_loss,
            coords,
        )
        alive = _alive(watch)
        if not alive.any():
            return
        if between is not None and step + 1 < n_steps:
            between(partial(state_of, step + 1, model, optimizer, probe, watch))


def _alive(watch: DivergenceWatch) -> Tensor:
    return torch.tensor([reason is None for reason in watch.reason])


def evaluate(model: LanguageModel, runs: Sequence[RunSpec], corpus: Corpus, device: str) -> list[float]:
    """Return the mean held-out loss of each replica in nats/token, over `eval_tokens` or all there are if fewer."""
    spec = runs[0]
    shape = {"batch_size": spec.batch_size // spec.accumulation, "seq_len": spec.seq_len}
    count = held_out_batches(corpus, tokens=spec.eval_tokens, **shape)
    total = torch.zeros(len(runs), dtype=torch.float64, device=device)
    with torch.no_grad(), autocast(spec, device):
        for index in range(count):
            batch = held_out_batch(corpus, index=index, **shape)
            total += model.loss(torch.from_numpy(batch).to(device).expand(len(runs), -1, -1))
    return (total / count).tolist()


def _batch(runs: Sequence[RunSpec], corpus: Corpus, step: int) -> Tensor:
    """Return tokens [R, B, T + 1]; a coordinate check trains on one batch, which is its probe batch too."""
    step = 0 if runs[0].kind == "coord" else step
    shape = {"batch_size": runs[0].batch_size, "seq_len": runs[0].seq_len}
    by_seed = {seed: train_batch(corpus, seed=seed, step=step, **shape) for seed in {run.seed for run in runs}}
    return torch.from_numpy(np.stack([by_seed[run.seed] for run in runs]))
