"""From a user's model to files: one run for each width and seed, a few steps on one batch, under a recorder."""

import hashlib
import inspect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mupcheck.audit.user_file import LR, UserModel, default_batch, default_loss, default_optimizer
from mupcheck.recording.recorder import Recorder
from mupcheck.recording.tables import check_name, run_id_of
from mupcheck.results.writing import write_sweep
from mupcheck.training.train import one_thread

WIDTHS, SEEDS, RECORD = (64, 128, 256), 4, (0, 1, 2, 3)
FEWEST_WIDTHS = 3  # two points always lie on a line


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        user: the model.
        widths, seeds: every one of the former with each of the latter.
        record: the steps that are recorded; the last one ends a run.
        lr: given to an optimizer that takes it; None leaves it its own.
        out, name: results go into the folder `out`/`name`.
        top_up: whether seeds and widths are added until all is decided.
        budget: minutes after which no more are.
        key: what else makes a run another one, such as the text of the file.
    """

    user: UserModel
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    record: tuple[int, ...] = RECORD
    lr: float | None = None
    out: Path = Path("results")
    name: str = "audit"
    top_up: bool = False
    budget: float = 10.0
    key: str = ""

    @property
    def folder(self) -> Path:
        """Return where results go."""
        return self.out / self.name

    @property
    def digest(self) -> str:
        """Return a hash of what makes the runs of this plan others than those of another."""
        return hashlib.sha256(repr((self.key, self.record, self.lr)).encode()).hexdigest()

    def run_id(self, width: int, seed: int) -> str:
        """Return the name of one run."""
        return run_id_of(self.name, width, seed, self.digest)


def plan_audit(
    user: UserModel,
    *,
    widths: Sequence[int] = WIDTHS,
    seeds: int | None = None,
    record: Sequence[int] = RECORD,
    lr: float | None = None,
    top_up: bool | None = None,
    out: str | Path = "results",
    name: str = "audit",
    budget: float = 10.0,
    key: str = "",
) -> Plan:
    """Return what is trained; seeds and widths are added (`top_up`) unless a number of seeds is given.

    Raises:
        ValueError: if widths are fewer than a slope needs, no later step is recorded, or a number is out of its range.
    """
    widths, record = tuple(sorted(set(widths))), tuple(sorted(set(record)))
    if len(widths) < FEWEST_WIDTHS or widths[0] < 1:
        shown = ",".join(map(str, widths))
        raise ValueError(f"widths {shown!r} are not at least {FEWEST_WIDTHS}, as a slope needs; try 64,128,256")
    if len(record) < 2 or record[0] < 0:
        raise ValueError(f"record {','.join(map(str, record))!r} is not 0 and a later step at least; try 0,1,2,3")
    if lr is not None and not 0 < lr < math.inf:
        raise ValueError(f"lr {lr:g} is no learning rate above 0; try 0.001")
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds {seeds} is not at least 1; try {SEEDS}")
    n_seeds, more = SEEDS if seeds is None else seeds, seeds is None if top_up is None else top_up
    options: dict[str, Any] = {"lr": lr, "out": Path(out), "name": check_name(name), "budget": budget, "key": key}
    return Plan(user, widths, tuple(range(n_seeds)), record, top_up=more, **options)


def audit(plan: Plan, tell: Callable[[str], None] | None = None) -> None:
    """Train what a plan asks for and write it; with `top_up` go on until all is decided, or the budget is used.

    Args:
        tell: called with a line on how far it is.

    Raises:
        ValueError: if the model does not get wider, cannot be recorded, or has a loss that is
            none; nothing of that run is written.
        UserCodeError: if the user's code raises.
        StoreError: if results cannot be stored.
    """
    check_growth(plan)
    start, widths, done = time.monotonic(), plan.widths, set()
    while True:
        cells = [(width, seed) for seed in plan.seeds for width in plan.widths]
        _write_plan(plan, cells)
        for width, seed in cells:
            if (width, seed) not in done:
                with one_thread():  # small products on several threads take longer
                    run_one(plan, width, seed)
                done.add((width, seed))
        if tell is not None:
            tell(f"{plan.name}: {len(done)} runs in {time.monotonic() - start:.0f} s, into {plan.folder}")
        more = None if time.monotonic() - start > 60 * plan.budget or not plan.top_up else _more(plan, widths)
        if more is None:
            return
        plan = replace(plan, widths=tuple(more.widths), seeds=tuple(range(max(more.n_seeds, len(plan.seeds)))))


def check_growth(plan: Plan) -> None:
    """Raise ValueError where the two smallest widths have the same number of values: the width reaches no weight."""
    widths = plan.widths[:2]
    counts = [sum(each.numel() for each in built(plan.user, width).parameters()) for width in widths]
    if counts[0] >= counts[1]:
        said = (
            f"build({widths[0]}) and build({widths[1]}) of {plan.user.name} have {counts[0]:,} and {counts[1]:,} values"
        )
        raise ValueError(f"{said}; let the width reach the weights")


def run_one(plan: Plan, width: int, seed: int) -> None:
    """Train and write one run."""
    user = plan.user
    seeded(width, seed)
    model = built(user, width)
    optimizers, after = stepping(user, model, plan.lr)
    batch = default_batch(model, seed, user.name) if user.batch is None else user.call("batch", seed)
    recorder = Recorder(model, optimizers, width=width, seed=seed, out=plan.out, name=plan.name, record=plan.record)
    for step in range(max(plan.record) + 1):
        with recorder.step() as now:
            loss = default_loss(user, model, batch) if user.loss is None else user.call("loss", model, batch)
            now.loss = checked(loss, f"{user.name} at width {width}, seed {seed}, step {step}", first=step == 0)
            if not math.isfinite(now.loss.detach().item()):
                break
            user.guard(loss.backward, "the backward pass")
            for each in (*optimizers, *after):
                user.guard(each.step, f"a step of {type(each).__name__}")
            for optimizer in optimizers:
                optimizer.zero_grad()
    recorder.write(key=plan.digest)


def seeded(width: int, seed: int) -> None:
    """Seed torch by width and seed alone, whatever else is trained."""
    torch.manual_seed(int.from_bytes(hashlib.sha256(f"{width} {seed}".encode()).digest()[:4], "little"))


def built(user: UserModel, width: int) -> nn.Module:
    """Return the user's model of a width.

    Raises:
        ValueError: if it is no module.
    """
    model = user.call("build", width)
    if not isinstance(model, nn.Module):
        raise ValueError(f"build({width}) of {user.name} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def stepping(user: UserModel, model: nn.Module, lr: float | None) -> tuple[list[Optimizer], list[Any]]:
    """Return the optimizers of a model, and what steps after them, as schedulers do.

    Raises:
        ValueError: if there is none, or an lr is given to a function that takes none.
    """
    if user.optimizer is None:
        return [default_optimizer(model, LR if lr is None else lr)], []
    takes_lr = "lr" in inspect.signature(user.optimizer).parameters
    if lr is not None and not takes_lr:
        raise ValueError(
            f"optimizer(model) of {user.name} takes no lr; write optimizer(model, lr=...) to set it from here"
        )
    made = user.call("optimizer", model, **({"lr": lr} if lr is not None else {}))
    parts = list(made) if isinstance(made, tuple | list) else [made]
    optimizers = [each for each in parts if isinstance(each, Optimizer)]
    after = [each for each in parts if not isinstance(each, Optimizer)]
    if not optimizers or any(not callable(getattr(each, "step", None)) for each in after):
        wrong = next((each for each in after if not callable(getattr(each, "step", None))), made)
        raise ValueError(
            f"optimizer(model) of {user.name} returned {type(wrong).__name__}, not a torch.optim.Optimizer"
        )
    return optimizers, after


def checked(loss: Any, where: str, *, first: bool) -> Tensor:
    """Return a loss that is a scalar with a gradient, and at the first step a number.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ValueError(f"the loss of {where} is {what}, not a scalar; return its mean")
    if not loss.requires_grad:
        raise ValueError(f"the loss of {where} has no gradient; compute it from the model's output, without no_grad")
    if first and not math.isfinite(float(loss.detach())):
        raise ValueError(
            f"the loss of {where} is {float(loss.detach())}; look at the model's initial values and the batch"
        )
    return loss


def _write_plan(plan: Plan, cells: Sequence[tuple[int, int]]) -> None:
    spec: dict[str, Any] = {
        "kind": "coord",
        "widths": list(plan.widths),
        "seeds": list(plan.seeds),
        "record": list(plan.record),
    }
    spec |= {"model": plan.user.name, "lr": plan.lr, "top_up": plan.top_up}
    write_sweep(plan.folder, {"name": plan.name, "spec": spec, "run_ids": [plan.run_id(*cell) for cell in cells]})


def _more(plan: Plan, widths: Sequence[int]) -> Any:
    """Return what decides what is open (`coordinates.top_up`), None where nothing is or would."""
    from mupcheck.coordinates.folder import judge_folder
    from mupcheck.coordinates.top_up import next_round

    _, judgements = judge_folder(plan.folder)
    return next_round(judgements, widths=widths)
