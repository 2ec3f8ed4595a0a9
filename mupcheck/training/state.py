"""Where a training stands between two steps: all that later steps read of earlier ones, to go on with the same bits.

Initial values and batches are drawn by (seed, step), so they are made again and not kept. What is kept is put back into
the tensors that are there, whose addresses a captured step knows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mupcheck.measuring.probes import CoordRow, Probe
from mupcheck.model.build import named_weights
from mupcheck.model.lm import LanguageModel
from mupcheck.training.divergence import DivergenceWatch
from mupcheck.training.optim import AdamW, Optimizer
from mupcheck.training.rows import StepRow

MOMENTS = {True: ("mean", "mean_square"), False: ("velocity",)}  # of AdamW, of SGD


@dataclass(frozen=True)
class State:
    """What is known before `step`: `tensors` on the CPU, and `facts` that JSON can hold."""

    step: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


# What a training calls between steps, with a function that returns the state there if it is wanted; it is to be used,
# or copied, before the next step.
Between = Callable[[Callable[[], State]], None]


def take(model: LanguageModel, optimizer: Optimizer, probe: Probe | None) -> dict[str, Tensor]:
    """Return the weights, the optimizer's moments and what a probe holds of earlier steps, on the CPU.

    What lies there already is not copied, which a model that fills the memory could not be: the next step changes it.
    """
    held = _held(model, optimizer)
    if probe is not None:
        # the weights of step 0 are initial values
        held |= {f"first/{layer}/{site}": x.clone() for (layer, site), x in probe.first.items()}
        if probe.shadow is not None:
            held |= {f"shadow/{name}": x for name, x in probe.shadow.held().items()}
    return {name: tensor.detach().cpu() for name, tensor in held.items()}


@torch.no_grad()
def put_back(state: State, model: LanguageModel, optimizer: Optimizer, probe: Probe | None) -> None:
    """Put what `take` returned into a model, its optimizer and its probe, all of them as they are made.

    Raises:
        ValueError: if the state is of other runs.
    """
    for name, tensor in _held(model, optimizer).items():
        saved = state.tensors.get(name)
        if saved is None or saved.shape != tensor.shape or saved.dtype != tensor.dtype:
            raise ValueError(
                f"the state before step {state.step} has no {name} of {list(tensor.shape)}, {tensor.dtype}"
            )
        tensor.copy_(saved)
    optimizer.steps_taken = state.step
    if probe is None:
        return
    for name, x in state.tensors.items():
        kind, *place = name.split("/")
        if kind == "first":
            probe.first[int(place[0]), place[1]] = x.to(model.embedding.weight.device)
    if probe.shadow is not None:
        mark = "shadow/"
        probe.shadow.hold({name.removeprefix(mark): x for name, x in state.tensors.items() if name.startswith(mark)})


def _held(model: LanguageModel, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the tensors that steps write in place, by name."""
    names = [f"{layer}/{site}" for site, layer, _ in named_weights(model)]
    kinds = {"weight": [group.weight for group in optimizer.groups]}
    kinds |= {kind: getattr(optimizer, kind) for kind in MOMENTS[isinstance(optimizer, AdamW)]}
    return {f"{kind}/{name}": t for kind, tensors in kinds.items() for name, t in zip(names, tensors, strict=True)}


def state_of(
    step: int, model: LanguageModel, optimizer: Optimizer, probe: Probe | None, watch: DivergenceWatch
) -> State:
    """Return where a loop stands before `step` that judges on the host what diverged."""
    tensors, facts = watch.held()
    return State(step, take(model, optimizer, probe) | tensors, facts)


def pick(state: State, replicas: Sequence[int]) -> State:
    """Return the state, or the packed rows, of some replicas alone, in their order.

    Args:
        state: of a loop, or what `pack_rows` returned.
        replicas: that it has; of a device's loop those that are computed.
    """
    # a device's loop holds what it computes, and of all replicas what the host knows
    living = state.facts.get("living")
    computed = replicas if living is None else [living.index(replica) for replica in replicas]

    def of(name: str, x: Tensor) -> Tensor:
        axis = int(name.startswith("rows/"))  # rows are [n, R], or none
        index = torch.tensor(replicas if name == "ceiling" else computed)
        return x.index_select(axis, index) if x.dim() > axis else x

    facts: dict[str, Any] = {
        name: [state.facts[name][i] for i in replicas] for name in ("reasons", "diverged") if name in state.facts
    }
    facts |= {} if living is None else {"living": list(range(len(replicas)))}
    return State(state.step, {name: of(name, x) for name, x in state.tensors.items()}, state.facts | facts)


def pack_rows(rows: Sequence[StepRow]) -> State:
    """Return the rows of steps 0, 1, ... as a state, which `unpack_rows` makes rows of again."""
    measured = [row for row in rows if row.val_loss is not None]
    coords = [coord for row in rows for coord in row.coords]
    numbers = {"loss": rows, "grad_norm": rows, "lr_scale": rows, "val_loss": measured}
    tensors = {
        f"rows/{name}": torch.tensor([getattr(row, name) for row in of], dtype=torch.float64)
        for name, of in numbers.items()
    }
    tensors["rows/clipped"] = torch.tensor([row.clipped for row in rows], dtype=torch.bool)
    tensors["rows/coords"] = torch.tensor([coord.values for coord in coords], dtype=torch.float64)
    facts: dict[str, Any] = {
        "val_steps": [row.step for row in measured],
        # a replica that diverged stays so, for one reason
        "diverged": [_first_reason(rows, replica) for replica in range(len(rows[0].loss))],
        "coords": [coord[:-1] for coord in coords],
    }
    return State(len(rows), tensors, facts)


def unpack_rows(state: State) -> list[StepRow]:
    """Return the rows that `pack_rows` was given, to the last bit."""
    columns = {
        name: state.tensors[f"rows/{name}"].tolist()
        for name in ("loss", "grad_norm", "lr_scale", "clipped", "val_loss", "coords")
    }
    val_losses = dict(zip(state.facts["val_steps"], columns["val_loss"], strict=True))
    coords: dict[int, list[CoordRow]] = {}
    for (step, layer, site, kind, stat), values in zip(state.facts["coords"], columns["coords"], strict=True):
        coords.setdefault(step, []).append(CoordRow(step, layer, site, kind, stat, values))
    return [
        StepRow(
            step,
            columns["loss"][step],
            columns["grad_norm"][step],
            columns["lr_scale"][step],
            columns["clipped"][step],
            [reason if reason is not None and step >= since else None for since, reason in state.facts["diverged"]],
            val_losses.get(step),
            coords.get(step, []),
        )
        for step in range(state.step)
    ]


def _first_reason(rows: Sequence[StepRow], replica: int) -> tuple[int, str | None]:
    """Return the step where a replica diverged and why, (0, None) where it did not."""
    reason = rows[-1].diverged[replica]
    if reason is None:
        return 0, None
    return next(row.step for row in rows if row.diverged[replica] is not None), reason
