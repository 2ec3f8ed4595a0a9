"""The training loop of a GPU: the host starts steps, many ahead, and reads their numbers from a ring."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from mupcheck.measuring.probes import CoordRow
from mupcheck.spec.run import RunSpec
from mupcheck.training.capture import WARM_UP, on_side_stream
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.divergence import ALIVE, ceiling_of, reason_of
from mupcheck.training.halving import rungs
from mupcheck.training.replicas import RING, Replicas
from mupcheck.training.rows import StepRow, evaluates
from mupcheck.training.state import Between, State

# Work between two reads, some seconds of a GPU: progress is seen, and a group that is dead is left.
FLOPS_A_READ = 3e14


def train_on_device(
    runs: Sequence[RunSpec],
    corpus: Corpus,
    *,
    device: str,
    n_steps: int,
    capture: bool = True,
    start: State | None = None,
    between: Between | None = None,
) -> Iterator[StepRow]:
    """Train as `train` does, with nothing to wait for between steps; rows come some steps at a time.

    A replica is frozen at the very step where it diverged. When at least half of them are, the others go on without
    them; that is looked at every RING steps.

    Args:
        device: "cuda" or "cuda:i"; "cpu" computes the same, for comparison.
        n_steps: passes through the model and back.
        capture: False starts every kernel of every step from the host.
        start, between: as of `train`; it can be left where the host reads.
    """
    place = torch.device(device)
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", torch.cuda.current_device())
    with on_side_stream(place):
        group = Replicas(runs, corpus, n_steps=n_steps, device=place, capture=capture)
    try:
        if place.type == "cuda":
            # initial values may have come by other streams
            torch.cuda.synchronize(place)
        yield from _rows(group, runs, n_steps, start, between)
    finally:
        group.release()
        del group
        if place.type == "cuda":
            torch.cuda.empty_cache()


def _rows(
    group: Replicas, runs: Sequence[RunSpec], n_steps: int, start: State | None, between: Between | None
) -> Iterator[StepRow]:
    spec = runs[0]
    living = list(range(len(runs)))  # replicas that are computed
    reasons: list[str | None] = [None] * len(runs)
    ceiling = np.full(len(runs), math.nan)
    scales = group.scales.cpu().numpy()
    first = begin = 0
    if start is not None:
        first = begin = start.step
        living, reasons = list(start.facts["living"]), list(start.facts["reasons"])
        ceiling = start.tensors["ceiling"].numpy()
        with on_side_stream(group.device):
            group.go_on(start, living)
    while first < n_steps:
        stop = _end_of_block(spec, first, n_steps, work=_flops(group), begin=begin)
        with on_side_stream(group.device):
            if first == begin:
                group.feed.fill(first)
                group.compile()
            for step in range(first, stop):
                group.advance(step)
            group.feed.fill(first)  # while the device is at work
            if stop == spec.steps:
                group.end_training()
            val_loss = group.evaluate() if evaluates(spec, stop - 1) else None
            numbers = group.read(first, stop)
        if first == 0:
            ceiling = ceiling_of(numbers[0, 0], math.log(spec.vocab_size))
        for step, (loss, grad_norm, clipped, why) in zip(range(first, stop), numbers, strict=True):
            for replica, code in zip(living, why.astype(int).tolist(), strict=True):
                if code != ALIVE and reasons[replica] is None:
                    reasons[replica] = reason_of(code, ceiling[replica])
            yield StepRow(
                step,
                _spread(loss.tolist(), living, len(runs)),
                _spread(grad_norm.tolist(), living, len(runs)),
                scales[step].tolist(),
                [value > 0 for value in _spread(clipped.tolist(), living, len(runs))],
                list(reasons),
                _spread(val_loss, living, len(runs)) if val_loss and step == stop - 1 else None,
                [_spread_row(row, living, len(runs)) for row in group.coords.pop(step, [])],
            )
            if None not in reasons:
                return
        first = stop
        alive = [place for place, replica in enumerate(living) if reasons[replica] is None]
        if _pays(spec, first, n_steps, alive=len(alive), computed=len(living)):
            with on_side_stream(group.device):
                group.keep(alive, first)
            living = [living[place] for place in alive]
        if between is not None and first < n_steps:
            between(partial(_state, group, first, living, reasons, ceiling))


def _state(
    group: Replicas, step: int, living: Sequence[int], reasons: Sequence[str | None], ceiling: np.ndarray
) -> State:
    """Return where the loop stands before `step`."""
    with on_side_stream(group.device):
        state = group.state(step)
    facts = {"living": list(living), "reasons": list(reasons)}
    return replace(state, tensors=state.tensors | {"ceiling": torch.from_numpy(ceiling.copy())}, facts=facts)


def _end_of_block(spec: RunSpec, first: int, n_steps: int, *, work: float, begin: int = 0) -> int:
    """Return before which step the host reads what there is: where the ring or the updates end, or runs are
    evaluated or compared.

    Args:
        work: floating-point operations of a step.
        begin: the first step of all.
    """
    length = WARM_UP if first == begin else max(int(FLOPS_A_READ / work), 1)
    stop = min(first + length, (first // RING + 1) * RING, spec.steps if first < spec.steps else n_steps)
    compared = rungs(spec)
    ends = (step + 1 for step in range(first, stop) if evaluates(spec, step) or step + 1 in compared)
    return next(ends, stop)


def _flops(group: Replicas) -> float:
    """Return the floating-point operations of a step, about: 6 for each value and token."""
    values = sum(weight.numel() for weight in group.model.parameters())
    return 6.0 * values * group.spec.batch_size * group.spec.seq_len


def _pays(spec: RunSpec, first: int, n_steps: int, *, alive: int, computed: int) -> bool:
    """Say whether to go on without the dead: at places that depend on no clock, so that runs repeat bit for bit."""
    return spec.probes != "full" and first % RING == 0 and n_steps - first >= RING and 2 * alive <= computed


def _spread(values: Sequence[float], living: Sequence[int], n_replicas: int) -> list[float]:
    """Put the values of the replicas that are computed at their places among all, [R], NaN at the others'."""
    spread = [math.nan] * n_replicas
    for replica, value in zip(living, values, strict=True):
        spread[replica] = value
    return spread


def _spread_row(row: CoordRow, living: Sequence[int], n_replicas: int) -> CoordRow:
    return row._replace(values=_spread(row.values, living, n_replicas))
