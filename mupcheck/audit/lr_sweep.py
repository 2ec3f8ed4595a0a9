"""A sweep of learning rates of a user's own model, into the tables that `lr-sweep` writes.

Every step of a run takes a batch of its own, the same for every lr and width of a seed: the next of `batches(seed)`;
else batch(1,000,000 seed + step), so that no two seeds share one; else tokens of a source of ours. A run whose loss is
not finite ends there, diverged.
"""

import hashlib
import math
import platform
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import metadata
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mupcheck.audit.cells import (
    Cell,
    Follow,
    Where,
    done_before,
    drain,
    mend_before,
    moved,
    placed,
    seeded,
    train_missing,
)
from mupcheck.audit.run import built, check_growth, checked, loss_of, stepping, take_step
from mupcheck.audit.user_file import UserModel, first_embedding
from mupcheck.recording.tables import check_name, run_id_of
from mupcheck.results.reading import finished_runs, load_results
from mupcheck.results.version import version
from mupcheck.results.writing import write_run
from mupcheck.spec.run import RunSpec
from mupcheck.sweep.group import device_name, final_loss
from mupcheck.sweep.plan import find_devices
from mupcheck.theory.required import OWN
from mupcheck.training.data.batches import train_batch
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.data.sources import open_corpus
from mupcheck.training.optim import lr_scale

SCHEDULES = get_args(RunSpec.model_fields["schedule"].annotation)
SEED_STRIDE = 1_000_000  # between the first batches of two seeds
LARGEST_VOCABULARY = 2**16  # that the synthetic source has
WIDTHS, LRS, SEEDS, STEPS = (32, 64, 128), tuple(2.0**i for i in range(-9, -2)), 6, 60


@dataclass(frozen=True)
class LrPlan(Where):
    """What is trained: widths x lrs x seeds, `steps` each; the rest is as in `audit.run.Plan`.

    Attributes:
        schedule, warmup_steps: of the lr, where the file has no scheduler of its own.
        batch_size, seq_len: of the default batches.
        clip: largest global gradient norm, 0 for none.
        refine, precision: whether lrs are added around an optimum, until it is known to so many octaves.
        added: lrs beyond the grid, by width.
    """

    user: UserModel
    widths: tuple[int, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int = STEPS
    schedule: str | None = None
    warmup_steps: int | None = None
    batch_size: int = 8
    seq_len: int = 48
    clip: float = 0.0
    refine: bool = False
    precision: float = 0.25
    added: tuple[tuple[int, tuple[float, ...]], ...] = ()

    def cell(self, width: int, lr: float, seed: int) -> Cell:
        """Return one run; its id is a hash of all that makes its numbers."""
        what = (self.user.sources, self.steps, self.schedule, self.warmup_steps, self.batch_size, self.seq_len)
        key = hashlib.sha256(repr((what, self.clip, lr, self.device)).encode()).hexdigest()
        return Cell(run_id_of(self.name, width, seed, key), width, seed, self.steps, lr)

    @property
    def cells(self) -> list[Cell]:
        """Return all runs."""
        more = dict(self.added)
        grid = [(width, lr) for width in self.widths for lr in (*self.lrs, *more.get(width, ()))]
        return [self.cell(width, lr, seed) for width, lr in grid for seed in self.seeds]


def plan_lr_sweep(
    user: UserModel,
    *,
    widths: Sequence[int] = WIDTHS,
    lrs: Sequence[float] = LRS,
    seeds: int = SEEDS,
    steps: int = STEPS,
    out: str | Path = "results",
    name: str = "lr",
    device: str | None = None,
    **more: Any,
) -> LrPlan:
    """Return what is trained.

    Args:
        more: other fields of LrPlan.

    Raises:
        ValueError: if a number is out of its range, or a value is named twice.
    """
    for what, values in (("widths", widths), ("lrs", lrs)):
        if not values or len(set(values)) < len(values) or not all(0 < each < math.inf for each in values):
            raise ValueError(f"{what} {','.join(map(str, values))!r} are not numbers above 0, each named once")
    numbers = {"seeds": seeds, "steps": steps} | {key: more.get(key, 1) for key in ("batch_size", "seq_len")}
    for what, value in numbers.items():
        if value < 1:
            raise ValueError(f"{what} {value} is not at least 1")
    if more.get("schedule") not in (None, *SCHEDULES):
        raise ValueError(f"schedule {more['schedule']!r} is unknown; known: {', '.join(SCHEDULES)}")
    if not 0 <= (more.get("warmup_steps") or 0) < steps:
        raise ValueError(f"warmup_steps={more['warmup_steps']} leaves nothing of steps={steps}; try fewer")
    if not 0 <= more.get("clip", 0.0) < math.inf or not 0 < more.get("precision", 1.0) < math.inf:
        raise ValueError("clip is to be 0 or above, and precision above 0")
    where: dict[str, Any] = {"out": Path(out), "name": check_name(name), "device": device}
    where |= {"devices": ("cpu",) if device is None else find_devices(device)}
    return LrPlan(user, tuple(sorted(widths)), tuple(lrs), tuple(range(seeds)), steps, **where, **more)


def lr_sweep(plan: LrPlan, *, follow: Follow = drain) -> list[str]:
    """Train what is missing of a sweep and write it; return what went wrong, as `audit` does.

    Raises:
        ValueError: as `audit`; also if batches end too early, or no lr reaches the optimizer.
    """
    on = check_growth(plan.user, plan.widths)
    check_reach(plan)
    mend_before(plan)
    done = done_before(plan)
    while True:
        errors = train_missing(plan, train_one, done=done, sweep=_described(plan), model_device=on, follow=follow)
        done |= {cell.run_id for cell in plan.cells} | (set() if plan.fresh else finished_runs(plan.folder))
        more = {} if errors or not plan.refine else _refined(plan)
        if not more:
            return errors
        before = dict(plan.added)
        plan = replace(plan, added=tuple((w, before.get(w, ()) + more.get(w, ())) for w in plan.widths))


def check_reach(plan: LrPlan) -> None:
    """Raise ValueError where the first and the last lr give the same optimizer: a sweep of them is none."""
    width, reached = plan.widths[0], []
    for lr in (plan.lrs[0], plan.lrs[-1]):
        seeded(width, 0)
        optimizers, _ = stepping(plan.user, built(plan.user, width), lr, plan.steps)
        reached.append([float(each.get("initial_lr", each["lr"])) for opt in optimizers for each in opt.param_groups])
    if plan.lrs[0] != plan.lrs[-1] and reached[0] == reached[1]:
        raise ValueError(
            f"optimizer(model, lr) of {plan.user.name} makes the same groups for lr {plan.lrs[0]:g} and "
            f"{plan.lrs[-1]:g}; let lr reach them"
        )


def train_one(plan: LrPlan, user: UserModel, cell: Cell, device: str | None) -> Generator[int]:
    """Train and write one run; yield after each step."""
    assert cell.lr is not None
    started = time.perf_counter()
    seeded(cell.width, cell.seed)
    model = user.guard(lambda: placed(built(user, cell.width), device, user.name), f"putting the model on {device}")
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizers, after = stepping(user, model, cell.lr, plan.steps)
    names = "+".join(dict.fromkeys(type(each).__name__.lower() for each in optimizers))
    own = bool(after)
    if own and plan.schedule is not None:
        raise ValueError(f"optimizer(model, lr) of {user.name} has a scheduler of its own; leave out the schedule")
    schedule, warmup = plan.schedule or "linear", plan.warmup_steps
    warmup = plan.steps // 10 if warmup is None else warmup
    after = after if own else [_scheduler(each, schedule, warmup, plan.steps) for each in optimizers]
    batches = batches_of(plan, user, model, cell.seed)
    losses: list[float] = []
    norms: list[float | None] = []
    for step in range(plan.steps):
        batch = moved(_next(user, batches, step, plan.steps, cell.seed), device)
        loss = loss_of(user, model, batch)
        where = f"{user.name} at width {cell.width}, lr {cell.lr:g}, seed {cell.seed}, step {step}"
        losses.append(float(checked(loss, where, first=step == 0).detach()))
        norms.append(None)
        if not math.isfinite(losses[-1]):
            break
        clip: Callable[[], None] | None = None
        if plan.clip:
            clip = lambda: norms.__setitem__(-1, float(nn.utils.clip_grad_norm_(parameters, plan.clip)))  # noqa: E731
        take_step(user, loss, optimizers, after, before=clip)
        yield 1
    lost = not math.isfinite(losses[-1])
    seconds = time.perf_counter() - started
    first = parameters[0]
    run = {
        "run_id": cell.run_id,
        "sweep": plan.name,
        "kind": "lr",
        "parametrization": OWN,
        "optimizer": names,
        "mode": OWN,
        "width": cell.width,
        "seed": cell.seed,
        "lr": cell.lr,
        "log2_lr": math.log2(cell.lr),
        "schedule": "own" if own else schedule,
        "warmup_steps": None if own else warmup,
        "clip": plan.clip or None,
        "clipped_fraction": sum((norm or 0.0) > plan.clip for norm in norms) / len(norms) if plan.clip else 0.0,
        "steps": plan.steps,
        "data": "own" if user.batches or user.batch else "synthetic",
        "data_hash": user.sources,
        "dtype": str(first.dtype).removeprefix("torch."),
        "backend": "torch",
        "n_params": sum(each.numel() for each in parameters),
        "status": "diverged" if lost else "ok",
        "diverged_step": len(losses) - 1 if lost else None,
        "reason": f"the loss is {losses[-1]} at step {len(losses) - 1}" if lost else None,
        "train_loss": losses[-1] if lost else final_loss(losses),
        "wall_seconds": seconds,
        "device": device_name(str(first.device)),
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
        "mupcheck": version(),
        "started_at": datetime.now(UTC) - timedelta(seconds=seconds),
    }
    rows = len(losses)
    steps: dict[str, Any] = {"step": list(range(rows)), "tokens": [0] * rows, "loss": losses, "grad_norm": norms}
    steps["lr_scale"] = [_scale(schedule, warmup, plan.steps, step) for step in range(rows)]
    # settings of a user's own model are not known: null, as of runs that were imported
    write_run(plan.folder, run, steps, imported=True)


def batches_of(plan: LrPlan, user: UserModel, model: nn.Module, seed: int) -> Iterator[Any]:
    """Return a batch for each step, the same for every lr and width of a seed."""
    if (made := user.batches) is not None:
        return user.guard(lambda: iter(made(seed)), f"batches({seed})")
    if user.batch is not None:
        return (user.call("batch", SEED_STRIDE * seed + step) for step in count())
    found = first_embedding(model)
    if found is None:
        raise ValueError(
            f"the model of {user.name} has no nn.Embedding to take tokens from; write batches(seed) and "
            "loss(model, batch)"
        )
    corpus = _synthetic(min(found.num_embeddings, LARGEST_VOCABULARY))
    shape = {"batch_size": plan.batch_size, "seq_len": plan.seq_len}
    at = found.weight.device
    return (torch.from_numpy(train_batch(corpus, seed=seed, step=step, **shape)).to(at) for step in count())


@cache
def _synthetic(vocab_size: int) -> Corpus:
    return open_corpus("synthetic", vocab_size=vocab_size)


def _next(user: UserModel, batches: Iterator[Any], step: int, steps: int, seed: int) -> Any:
    """Return the next batch.

    Raises:
        ValueError: if there is none.
    """
    nothing = object()
    own = user.batches is not None
    found = user.guard(lambda: next(batches, nothing), f"batches({seed})") if own else next(batches, nothing)
    if found is nothing:
        said = f"batches({seed}) of {user.name} ended after {step} of {steps} steps"
        raise ValueError(f"{said}; let it go on, or give fewer --steps")
    return found


def _scale(schedule: str, warmup: int, steps: int, step: int) -> float:
    """Return the factor on the lr at a step, as of our own runs."""
    run: Any = SimpleNamespace(schedule=schedule, warmup_steps=warmup, steps=steps, min_lr=0.0, lr=1.0)
    return lr_scale(run, min(step, steps - 1))


def _scheduler(optimizer: Optimizer, schedule: str, warmup: int, steps: int) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: _scale(schedule, warmup, steps, step))


def _described(plan: LrPlan) -> dict[str, Any]:
    spec: dict[str, Any] = {"kind": "lr", "widths": list(plan.widths), "lrs": list(plan.lrs)}
    spec |= {"seeds": list(plan.seeds), "steps": plan.steps, "model": plan.user.name, "refine": plan.refine}
    return {"name": plan.name, "spec": spec, "run_ids": [cell.run_id for cell in plan.cells]}


def _refined(plan: LrPlan) -> dict[int, tuple[float, ...]]:
    """Return the lrs to add at each width, none where every optimum is bracketed or will not be."""
    from mupcheck.learning_rates.refine import next_round

    runs = load_results(plan.folder, tables=("runs",)).runs
    found = next_round(runs, lrs=plan.lrs, precision=plan.precision)
    return {each.width: tuple(2.0**x for x in each.log2_lrs) for each in found if each.log2_lrs}
