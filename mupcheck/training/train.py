"""Train one group of replicas: a generator of step rows that writes no files and prints nothing."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mupcheck.measuring.probes import CoordRow, Probe
from mupcheck.model.build import build_model, parameter_groups
from mupcheck.model.lm import LanguageModel
from mupcheck.spec.run import RunSpec
from mupcheck.training.data.batches import held_out_batch, held_out_batches, train_batch
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.optim import lr_scale, make_optimizer

# A loss this far above what guessing gives, this many steps in a row, does not come back (performance.md).
HIGH_LOSS_NATS, HIGH_LOSS_STEPS = 1.0, 5
# Behind norms a blown-up model is finite: it guesses, and nothing flows back.
DEAD_LOSS_NATS, DEAD_GRADIENT = 1e-3, 1e-12
# The device runs this many steps ahead of the host, which then reads all their numbers in one copy.
CUDA_STEPS_AHEAD = 32


@dataclass(frozen=True)
class StepRow:
    """One step of every replica; lists are [R].

    `step` counts the updates taken before `loss` was; `clipped` and `val_loss` are about the update that followed.
    """

    step: int
    loss: list[float]
    grad_norm: list[float]
    lr_scale: list[float]
    clipped: list[bool]
    diverged: list[str | None]
    val_loss: list[float] | None = None
    coords: list[CoordRow] = field(default_factory=list)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch sum in one order on a CPU, the same bits however much runs beside it; as it was afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(runs: Sequence[RunSpec], corpus: Corpus, *, device: str = "cpu") -> Iterator[StepRow]:
    """Train one replica per run and yield a row per step, then coordinate rows where `record` asks for them.

    A replica that diverges is frozen: `diverged` says why in the row of the step where it did, and in every later one.

    Args:
        runs: runs of one `RunSpec.group`.
        corpus: the opened data of the runs.
        device: "cpu", "cuda" or "cuda:i".
    Raises:
        ValueError: if the runs cannot share a model.
    """
    spec, n_replicas = runs[0], len(runs)
    # a recorded step after the last update needs one more forward and backward pass; a coordinate check ends there
    n_steps = max(spec.record) + 1 if spec.record else spec.steps
    model = build_model(runs, device)
    optimizer = make_optimizer(parameter_groups(model, runs), runs)
    probe = None if spec.probes == "none" else Probe(model, full=spec.probes == "full", runs=runs)
    scales = torch.tensor([[lr_scale(run, step) for run in runs] for step in range(n_steps)], dtype=torch.float64)
    scales_on_device = scales.to(device)
    alive = torch.ones(n_replicas, dtype=torch.bool, device=device)
    watch = DivergenceWatch(n_replicas, spec.vocab_size)
    steps_ahead = CUDA_STEPS_AHEAD if torch.device(device).type == "cuda" else 1
    pending: list[tuple[int, Tensor, list[CoordRow], list[float] | None]] = []

    for step in range(n_steps):
        # changes are since step 0, asked for or not
        watched = probe is not None and (step in spec.record or step == 0)
        tokens = _batch(runs, corpus, step).to(device, non_blocking=True)
        if probe is not None and watched:
            probe.start()
        model.zero_grad(set_to_none=True)
        loss = torch.zeros(n_replicas, dtype=torch.float64, device=device)
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
            probe.finish(optimizer, scales_on_device[step])
            coords = probe.rows(step)
            if step not in spec.record:
                coords = []
        clipped = torch.zeros_like(alive)
        if step < spec.steps:
            clipped = optimizer.step(scales_on_device[step], grad_norm, alive)
            if probe is not None:
                probe.after_update()
        val_loss = evaluate(model, runs, corpus, device) if _evaluates(spec, step) else None
        metrics = torch.stack([loss, grad_norm.double(), clipped.double()])
        pending.append((step, metrics, coords, val_loss))

        if len(pending) >= steps_ahead or step == n_steps - 1:
            yield from _flush(pending, scales, watch)
            pending.clear()
            alive = torch.tensor([reason is None for reason in watch.reason], device=device)
            if not alive.any():
                return


def _evaluates(spec: RunSpec, step: int) -> bool:
    if spec.eval_tokens == 0 or step >= spec.steps:
        return False
    return step == spec.steps - 1 or (spec.eval_every > 0 and (step + 1) % spec.eval_every == 0)


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


class DivergenceWatch:
    """Says which replicas diverged, from their losses and gradient norms, step by step.

    Three ways: a loss or gradient that is not finite; a loss above what guessing gives (and above where it started) for
    several steps; a model that guesses (loss = ln vocab) and has no gradient left.
    """

    def __init__(self, n_replicas: int, vocab_size: int) -> None:
        self.guess = math.log(vocab_size)
        self.ceiling = np.full(n_replicas, np.nan)
        self.high_steps = np.zeros(n_replicas, dtype=int)
        self.reason: list[str | None] = [None] * n_replicas

    def update(self, loss: np.ndarray, grad_norm: np.ndarray) -> None:
        """Take one step's loss and gradient norm, [R] each."""
        if np.isnan(self.ceiling).all():
            self.ceiling = np.fmax(loss, self.guess) + HIGH_LOSS_NATS
        with np.errstate(invalid="ignore"):
            self.high_steps = np.where(loss > self.ceiling, self.high_steps + 1, 0)
            dead = (np.abs(loss - self.guess) < DEAD_LOSS_NATS) & (grad_norm < DEAD_GRADIENT)
        for replica, reason in enumerate(self.reason):
            if reason is not None:
                continue
            if not (np.isfinite(loss[replica]) and np.isfinite(grad_norm[replica])):
                self.reason[replica] = "loss or gradient is not finite"
            elif self.high_steps[replica] >= HIGH_LOSS_STEPS:
                self.reason[replica] = f"loss above {self.ceiling[replica]:.2f} for {HIGH_LOSS_STEPS} steps"
            elif dead[replica]:
                self.reason[replica] = "loss is ln(vocab) and no gradient is left"


def _flush(pending: list, scales: Tensor, watch: DivergenceWatch) -> Iterator[StepRow]:
    host = torch.stack([metrics for _, metrics, _, _ in pending]).cpu().numpy()
    for (step, _, coords, val_loss), (loss, grad_norm, clipped) in zip(pending, host, strict=True):
        watch.update(loss, grad_norm)
        yield StepRow(
            step,
            loss.tolist(),
            grad_norm.tolist(),
            scales[step].tolist(),
            (clipped > 0).tolist(),
            list(watch.reason),
            val_loss,
            coords,
        )


def _batch(runs: Sequence[RunSpec], corpus: Corpus, step: int) -> Tensor:
    """Return tokens [R, B, T + 1]; a coordinate check trains on one batch, which is its probe batch too."""
    step = 0 if runs[0].kind == "coord" else step
    shape = {"batch_size": runs[0].batch_size, "seq_len": runs[0].seq_len}
    by_seed = {seed: train_batch(corpus, seed=seed, step=step, **shape) for seed in {run.seed for run in runs}}
    return torch.from_numpy(np.stack([by_seed[run.seed] for run in runs]))


def autocast(spec: RunSpec, device: str) -> AbstractContextManager:
    """Return the context of a forward pass, in the dtype of a run."""
    if spec.dtype != "bfloat16":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)
