"""From a user's model to files: one run for each width and seed, a few steps on one batch, under a recorder."""

import hashlib
import inspect
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from mupcheck.audit.cells import (
    Cell,
    Follow,
    Source,
    Where,
    done_before,
    drain,
    mend_before,
    moved,
    placed,
    seeded,
    train_missing,
)
from mupcheck.audit.user_file import LR, UserModel, default_batch, default_loss, default_optimizer
from mupcheck.recording.recorder import Recorder
from mupcheck.recording.tables import check_name, run_id_of
from mupcheck.results.files import StoreError
from mupcheck.roles.described import described
from mupcheck.roles.infer import fused_rows, infer_roles
from mupcheck.sweep.plan import find_devices

WIDTHS, SEEDS, RECORD = (64, 128, 256), 4, (0, 1, 2, 3)
FEWEST_WIDTHS = 3  # two points always lie on a line


@dataclass(frozen=True)
class Plan(Where):
    """What is trained.

    Attributes:
        user: the model.
        widths, seeds: every one of the former with each of the latter.
        record: the steps that are recorded; the last one ends a run.
        lr: given to an optimizer that takes it; None leaves it its own.
        top_up: whether seeds and widths are added until all is decided.
        budget: minutes after which no more are.
        key: what else makes a run another one than its file.
    """

    user: UserModel
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    record: tuple[int, ...] = RECORD
    lr: float | None = None
    top_up: bool = False
    budget: float = 10.0
    key: str = ""

    @property
    def digest(self) -> str:
        """Return a hash of what makes the runs of this plan others than those of another."""
        return hashlib.sha256(repr((self.key, self.record, self.lr)).encode()).hexdigest()

    def run_id(self, width: int, seed: int) -> str:
        """Return the name of one run."""
        return run_id_of(self.name, width, seed, self.digest)

    @property
    def cells(self) -> list[Cell]:
        """Return all runs."""
        n_steps = max(self.record) + 1
        return [Cell(self.run_id(width, seed), width, seed, n_steps) for seed in self.seeds for width in self.widths]


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
    device: str | None = None,
    jobs: int | None = None,
    source: Source | None = None,
    fresh: bool = False,
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
    for width in widths:
        user.check_width(width)
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds {seeds} is not at least 1; try {SEEDS}")
    n_seeds, more = SEEDS if seeds is None else seeds, seeds is None if top_up is None else top_up
    options: dict[str, Any] = {"lr": lr, "out": Path(out), "name": check_name(name), "budget": budget}
    known = user.sources + (repr(sorted(user.provenance.items())) if user.provenance else "")
    options |= {"key": known, "device": device, "jobs": jobs, "source": source, "fresh": fresh}
    options |= {"devices": ("cpu",) if device is None else find_devices(device)}
    return Plan(user, widths, tuple(range(n_seeds)), record, top_up=more, **options)


def audit(plan: Plan, tell: Callable[[str], None] | None = None, *, follow: Follow = drain) -> list[str]:
    """Train what is missing of a plan; with `top_up` go on until all is decided, or the budget is used.

    Args:
        tell: called with a line on how far it is.
        follow: shows how far it is, and returns what went wrong.

    Returns:
        What went wrong with runs whose process was lost, which only `follow` may take note of.

    Raises:
        ValueError: if the model does not get wider, cannot be recorded, or has a loss that is
            none; nothing of that run is written.
        UserCodeError: if the user's code raises.
        StoreError: if results cannot be stored, or a run was lost that nobody follows.
    """
    on = check_growth(plan.user, plan.widths)
    mend_before(plan)
    parameters = _parameters(plan.user, plan.widths)
    start, widths, done = time.monotonic(), plan.widths, done_before(plan)
    while True:
        errors = train_missing(
            plan,
            run_one,
            done=done,
            sweep=_described(plan) | {"parameters": parameters},
            model_device=on,
            follow=follow,
        )
        done |= {cell.run_id for cell in plan.cells}
        if tell is not None:
            tell(f"{plan.name}: {len(plan.cells)} runs in {time.monotonic() - start:.0f} s, into {plan.folder}")
        if errors and follow is drain:
            raise StoreError(f"{len(errors)} of {len(plan.cells)} runs failed: {errors[0]}")
        spent = time.monotonic() - start > 60 * plan.budget
        more = None if spent or errors or not plan.top_up else _more(plan, widths)
        if more is None or any(plan.user.refuses and plan.user.refuses(width) for width in more.widths):
            return errors
        plan = replace(plan, widths=tuple(more.widths), seeds=tuple(range(max(more.n_seeds, len(plan.seeds)))))


def check_growth(user: UserModel, widths: Sequence[int]) -> str:
    """Return the device that `build` puts a model on, "cpu" or "cuda", once it is known that models grow.

    Raises:
        ValueError: where the two smallest widths have the same number of values: the width reaches no weight.
    """
    models = []
    for width in sorted(widths)[:2]:
        seeded(width, 0)
        models.append(list(built(user, width).parameters()))
    counts = [sum(each.numel() for each in model) for model in models]
    if len(counts) > 1 and counts[0] >= counts[1]:
        low, high = sorted(widths)[:2]
        said = f"build({low}) and build({high}) of {user.name} have {counts[0]:,} and {counts[1]:,} values"
        raise ValueError(f"{said}; let the width reach the weights")
    return models[0][0].device.type.replace("meta", "cpu") if models[0] else "cpu"


def run_one(plan: Plan, user: UserModel, cell: Cell, device: str | None) -> Generator[int]:
    """Train and write one run; yield after each step."""
    width, seed = cell.width, cell.seed
    seeded(width, seed)
    model = user.guard(lambda: placed(built(user, width), device, user.name), f"putting the model on {device}")
    optimizers, after = stepping(user, model, plan.lr)
    batch = moved(default_batch(model, seed, user.name) if user.batch is None else user.call("batch", seed), device)
    given: dict[str, Any] = {"out": plan.out, "name": plan.name, "record": plan.record}
    given["rows"] = fused_rows(model, roles=user.stated)
    recorder = Recorder(model, optimizers, width=width, seed=seed, **given)
    for step in range(cell.n_steps):
        with recorder.step() as now:
            loss = loss_of(user, model, batch)
            now.loss = checked(loss, f"{user.name} at width {width}, seed {seed}, step {step}", first=step == 0)
            if not math.isfinite(now.loss.detach().item()):
                break
            take_step(user, loss, optimizers, after)
        yield 1
    recorder.write(key=plan.digest)


def loss_of(user: UserModel, model: nn.Module, batch: Any) -> Tensor:
    """Return the loss of a batch, by the user's function or the default one."""
    return default_loss(user, model, batch) if user.loss is None else user.call("loss", model, batch)


def take_step(
    user: UserModel,
    loss: Tensor,
    optimizers: Sequence[Optimizer],
    after: Sequence[Any],
    before: Callable[[], None] | None = None,
) -> None:
    """Take a step of everything that steps, what comes `before` it as clipping does, and forget the gradients."""
    user.guard(loss.backward, "the backward pass")
    if before is not None:
        before()
    for each in (*optimizers, *after):
        user.guard(each.step, f"a step of {type(each).__name__}")
    for optimizer in optimizers:
        optimizer.zero_grad()


def built(user: UserModel, width: int) -> nn.Module:
    """Return the user's model of a width.

    Raises:
        ValueError: if it is no module.
    """
    model = user.call("build", width)
    if not isinstance(model, nn.Module):
        raise ValueError(f"build({width}) of {user.name} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def stepping(
    user: UserModel, model: nn.Module, lr: float | None, steps: int | None = None
) -> tuple[list[Optimizer], list[Any]]:
    """Return the optimizers of a model, and what steps after them, as schedulers do.

    Args:
        steps: of the run, given to a function that takes them.

    Raises:
        ValueError: if there is none, or an lr is given to a function that takes none, or none to one that needs it.
    """
    if user.optimizer is None:
        return [default_optimizer(model, LR if lr is None else lr)], []
    takes = inspect.signature(user.optimizer).parameters
    if lr is None and "lr" in takes and takes["lr"].default is inspect.Parameter.empty:
        raise ValueError(f"optimizer(model, lr) of {user.name} has no lr of its own; give one with --lr, such as 0.001")
    if lr is not None and "lr" not in takes:
        raise ValueError(
            f"optimizer(model) of {user.name} takes no lr; write optimizer(model, lr=...) to set it from here"
        )
    given = {"lr": lr, "steps": steps}
    made = user.call(
        "optimizer", model, **{name: each for name, each in given.items() if each is not None and name in takes}
    )
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


def _parameters(user: UserModel, widths: Sequence[int]) -> list[dict[str, Any]]:
    """Return the roles of a model's parameters as sweep.json keeps them, none where they cannot be told."""
    base, model = (built(user, width) for width in sorted(widths)[:2])
    try:
        return described(infer_roles(model, base, roles=user.stated))
    except ValueError:
        return []  # `mupcheck roles` says why; an audit needs none


def _described(plan: Plan) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "kind": "coord",
        "widths": list(plan.widths),
        "seeds": list(plan.seeds),
        "record": list(plan.record),
    }
    spec |= {"model": plan.user.name, "lr": plan.lr, "top_up": plan.top_up, **plan.user.provenance}
    return {"name": plan.name, "spec": spec, "run_ids": [cell.run_id for cell in plan.cells]}


def _more(plan: Plan, widths: Sequence[int]) -> Any:
    """Return what decides what is open (`coordinates.top_up`), None where nothing is or would."""
    from mupcheck.coordinates.folder import judge_folder
    from mupcheck.coordinates.top_up import next_round

    _, judgements = judge_folder(plan.folder)
    return next_round(judgements, widths=widths)
