"""The table applied to our own model: draws initial values and sets multipliers, and lr, eps and decay factors."""

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from mupcheck.model.layers import Multiplier, Weight
from mupcheck.model.lm import LanguageModel
from mupcheck.results.printing import said
from mupcheck.spec.model import ModelSpec
from mupcheck.spec.reading import explain
from mupcheck.spec.run import RunSpec
from mupcheck.theory.parametrization import DECAYED, MULTIPLIER_SITES, Factors, Role, factors
from mupcheck.theory.rules_file import find_table

MOST_DRAWING_THREADS = 16  # more than copies to a GPU keep up with
AHEAD_BYTES = 2**32
_ahead: dict[tuple, Future[Tensor]] = {}  # what threads draw for the next model


@dataclass(frozen=True)
class ParameterGroup:
    """One weight with what the optimizer multiplies its lr, eps and weight decay by, each [R]."""

    site: str
    layer: int
    role: Role
    weight: torch.nn.Parameter
    lr: Tensor
    eps: Tensor
    weight_decay: Tensor


def build_model(
    runs: ModelSpec | RunSpec | Sequence[RunSpec],
    device: str | torch.device = "cpu",
    *,
    parametrization: str | None = None,
    optimizer: str | None = None,
    seed: int | None = None,
) -> LanguageModel:
    """Build a model set up as its table says: initial values, and the multipliers of its forward pass.

        model = build_model(ModelSpec(width=128, base_width=64), parametrization="gdn-mup", seed=0)
        logits = model(tokens)  # [R, B, T] -> [R, B * T, vocab]; R = 1 here: tokens[None] of a batch [B, T]

    R is the number of replicas, models that are computed side by side and never see each other: one for a ModelSpec,
    one for each of several runs. Initial values depend on (seed, width, parameter) only: not on parametrization, the
    other replicas or the device.

    Args:
        runs: a model's spec; or runs that agree in everything but parametrization, lr and seed.
        device: "meta" gives the shapes without values.
        parametrization: of a ModelSpec, the name of a table or a TOML file with one (default "gdn-mup").
        optimizer: of a ModelSpec, "adamw" or "sgd", the one whose rules the table follows (default "adamw").
        seed: of a ModelSpec (default 0).
    Raises:
        ValueError: if the runs differ in more than that, a name is unknown, or runs come with what they say themselves.
    """
    runs = _as_runs(runs, parametrization=parametrization, optimizer=optimizer, seed=seed)
    first = runs[0]
    if any(run.group != first.group for run in runs):
        raise ValueError("replicas of one model may differ in parametrization, lr and seed only; group the runs first")
    with torch.device(device):
        model = LanguageModel(len(runs), first, first.backend)
    if torch.device(device).type == "meta":
        return model
    model.to(torch.float64 if first.dtype == "float64" else torch.float32)
    _initialise(model, runs)
    _set_multipliers(model, runs)
    return model


def _as_runs(given: Any, **settings: Any) -> Sequence[RunSpec]:
    """Return runs as they are, and a ModelSpec as one run with these settings."""
    named = {name: value for name, value in settings.items() if value is not None}
    if isinstance(given, ModelSpec) and not isinstance(given, RunSpec):
        fields: dict[str, Any] = {"parametrization": "gdn-mup", "optimizer": "adamw", "seed": 0} | named
        table = find_table(fields.pop("parametrization"))
        # the lr has no part in how a model starts
        spec: dict[str, Any] = given.model_dump() | fields | {"parametrization": table.name, "table": table, "lr": 1.0}
        try:
            return [RunSpec(**spec)]
        except ValidationError as error:
            raise ValueError(f"build_model(): {explain(error, RunSpec.model_fields)}") from None
    runs = [given] if isinstance(given, RunSpec) else given
    if not isinstance(runs, Sequence) or not runs or not all(isinstance(run, RunSpec) for run in runs):
        raise ValueError(
            f"build_model() takes a ModelSpec, such as ModelSpec(width=128, base_width=64), or a list of RunSpec, "
            f"not {'an empty list' if isinstance(runs, list) and not runs else said(given)}"
        )
    if named:
        raise ValueError(f"{next(iter(named))} belongs to a ModelSpec; runs bring their own")
    return runs


def named_weights(model: torch.nn.Module) -> Iterator[tuple[str, int, Weight]]:
    """Yield (site, layer, weight) of every Weight; layer is -1 outside blocks.

    Raises:
        ValueError: if a parameter is not held by a Weight and so has no role.
    """
    weights = {name: module for name, module in model.named_modules() if isinstance(module, Weight)}
    for name, _ in model.named_parameters():
        if name.removesuffix(".weight") not in weights:
            raise ValueError(f"parameter {name} has no role; make it with Weight, Linear, Embedding or ShortConv")
    for name, weight in weights.items():
        parts = name.split(".")
        yield parts[-1], int(parts[1]) if parts[0] == "blocks" else -1, weight


def parameter_groups(model: LanguageModel, runs: Sequence[RunSpec]) -> list[ParameterGroup]:
    """Return every weight with its factors under each run's table."""
    groups = []
    for site, layer, module in named_weights(model):
        per_run = [_factors(run, module.role) for run in runs]
        decayed = float(module.role in DECAYED)

        def row(values: list[float], weight: Tensor = module.weight) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=weight.device)

        groups.append(
            ParameterGroup(
                site,
                layer,
                module.role,
                module.weight,
                lr=row([f.lr for f in per_run]),
                eps=row([f.eps for f in per_run]),
                weight_decay=row([decayed * f.weight_decay for f in per_run]),
            )
        )
    return groups


def parameter_values(run: RunSpec) -> list[dict[str, Any]]:
    """Return what each parameter of a run's first block and of its ends gets: role, shape, start and factors."""
    rows = []
    for site, layer, module in named_weights(build_model([run], "meta")):
        if layer > 0:
            continue
        factor = _factors(run, module.role)
        std = module.value and 0.0 if module.std is None else module.std * factor.init
        rows.append(
            {
                "site": site,
                "role": str(module.role),
                "shape": tuple(module.weight.shape[1:]),
                "init_std": std,
                "init_value": None if module.value is None else module.value * factor.init,
                "lr": factor.lr,
                "weight_decay": factor.weight_decay if module.role in DECAYED else 0.0,
                "eps": factor.eps,
                "multiplier": factor.multiplier,
            }
        )
    return rows


def applied_values(run: RunSpec) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return what a run's optimizer gives each parameter, as values and not as factors, and the forward multipliers.

    Rows are those of `parameter_values`, with `lr`, `weight_decay` and `eps` (None under SGD) as they are applied at
    the top of the schedule; the multipliers are of the sites that have one, constants included.
    """
    adamw = run.optimizer == "adamw"
    rows = [
        row
        | {
            "lr": row["lr"] * run.lr,
            "weight_decay": row["weight_decay"] * run.weight_decay,
            "eps": row["eps"] * run.eps if adamw else None,
        }
        for row in parameter_values(run)
    ]
    sites = {}
    for module in build_model([run], "meta").modules():
        if isinstance(module, Multiplier) and module.site in MULTIPLIER_SITES:
            sites[module.site] = module.constant * run.m ** run.table.multiplier(module.site, mode=run.mode)
    return rows, sites


def _factors(run: RunSpec, role: Role) -> Factors:
    return factors(run.table, role, optimizer=run.optimizer, mode=run.mode, m=run.m, decay_mode=run.decay_mode)


def _generator(*key: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


@torch.no_grad()
def _initialise(model: LanguageModel, runs: Sequence[RunSpec]) -> None:
    device = model.embedding.weight.device
    for module, alike, values in initial_values(model, runs):
        # a few pinned buffers, in turn: to pin all that is drawn takes as long as to draw it
        drawn = (values.pin_memory() if device.type == "cuda" else values).to(module.weight, non_blocking=True)
        for replica in alike:
            torch.mul(drawn, factor_at_start(runs[replica], module), out=module.weight[replica])


def initial_values(model: LanguageModel, runs: Sequence[RunSpec]) -> Iterator[tuple[Weight, list[int], Tensor]]:
    """Yield each weight, replicas that start alike, and what they start from over `factor_at_start`, of one replica."""
    draws = _draws(model, runs)
    tasks = [_taken(_key(draw)) or partial(_drawn, draw) for draw in draws]
    threads = _drawing_threads(model.embedding.weight.device)
    for draw, values in zip(draws, _done(tasks, threads), strict=True):
        yield draw.module, draw.replicas, values


def factor_at_start(run: RunSpec, module: Weight) -> float:
    """Return what a run's table multiplies a weight's initial values by."""
    return _factors(run, module.role).init


class Draw(NamedTuple):
    """What is drawn for one weight and seed, and the replicas that start from it."""

    name: str
    module: Weight
    run: RunSpec
    replicas: list[int]


def _draws(model: LanguageModel, runs: Sequence[RunSpec]) -> list[Draw]:
    """Return what a model starts from, the largest first, so that threads end together."""
    replicas: dict[int, list[int]] = {}
    for replica, run in enumerate(runs):
        replicas.setdefault(run.seed, []).append(replica)
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, Weight)]
    modules.sort(key=lambda item: -item[1].weight.numel())
    return [Draw(name, module, runs[alike[0]], alike) for name, module in modules for alike in replicas.values()]


def draw_ahead(runs: Sequence[RunSpec], device: str) -> None:
    """Begin to draw what `build_model(runs, device)` starts from, in threads beside what a GPU does now.

    Up to AHEAD_BYTES; what an earlier call began for others and nobody took is forgotten.
    """
    place, draws = torch.device(device), _draws(build_model(runs, "meta"), runs)
    so_far = accumulate(4 * draw.module.weight[0].numel() for draw in draws)
    draws = [draw for draw, n_bytes in zip(draws, so_far, strict=True) if n_bytes <= AHEAD_BYTES]
    if _ahead.keys() == {_key(draw) for draw in draws}:
        return
    for future in _ahead.values():
        future.cancel()
    _ahead.clear()
    pool = ThreadPoolExecutor(_drawing_threads(place))
    _ahead.update((_key(draw), pool.submit(_drawn, draw)) for draw in draws)
    pool.shutdown(wait=False)


def _key(draw: Draw) -> tuple:
    """Return all that `_base_values` depends on."""
    module, run = draw.module, draw.run
    shape = tuple(module.weight.shape[1:])
    return draw.name, run.seed, run.width, run.base_heads, shape, module.std, module.value


def _taken(key: tuple) -> Callable[[], Tensor] | None:
    return _ahead.pop(key).result if key in _ahead else None


def _drawn(draw: Draw) -> Tensor:
    return torch.from_numpy(_base_values(draw.name, draw.module, draw.run))


def _drawing_threads(device: torch.device) -> int:
    """Return how many threads draw: a CPU has a process a core already; beside a GPU wait cores, shared by all GPUs."""
    if device.type != "cuda":
        return torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_DRAWING_THREADS, cores // torch.cuda.device_count()))


def _done(tasks: Sequence[Callable[[], Tensor]], threads: int) -> Iterator[Tensor]:
    """Yield what each task returns, in order; some of the next are underway, as NumPy draws without Python's lock."""
    if threads == 1:
        yield from (task() for task in tasks)
        return
    underway: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for task in tasks:
            underway.append(pool.submit(task))
            if len(underway) > 2 * threads:
                yield underway.popleft().result()
        while underway:
            yield underway.popleft().result()


def _base_values(name: str, module: Weight, run: RunSpec) -> np.ndarray:
    """Return the parameter's values with base-width std, float32, in the shape of one replica."""
    shape = tuple(module.weight.shape[1:])
    site = name.rpartition(".")[2]
    if module.value is not None:
        return np.full(shape, module.value, dtype=np.float32)
    if module.std is not None:
        if module.std == 0:
            return np.zeros(shape, dtype=np.float32)
        values = _generator(run.seed, run.width, name).standard_normal(shape, dtype=np.float32)
        values *= np.float32(module.std)
        return values
    # Common random numbers: drawn once for the base width's heads and repeated, so that widths do not differ by luck.
    uniform = _generator(run.seed, name).random(run.base_heads[0])
    values = GATE_SCALAR_DRAWS[site](uniform)
    return np.resize(values, shape).astype(np.float32)


def _draw_A_log(uniform: np.ndarray) -> np.ndarray:
    """A ~ U(0, 16), as in the paper's code; the floor keeps the log finite."""
    return np.log(np.maximum(16 * uniform, 1e-4))


def _draw_dt_bias(uniform: np.ndarray) -> np.ndarray:
    """Return the inverse softplus of dt, log-uniform in [1e-3, 0.1], as in the paper's code."""
    dt = np.exp(math.log(1e-3) + uniform * (math.log(0.1) - math.log(1e-3)))
    return dt + np.log(-np.expm1(-dt))


GATE_SCALAR_DRAWS = {"A_log": _draw_A_log, "dt_bias": _draw_dt_bias}


def _set_multipliers(model: LanguageModel, runs: Sequence[RunSpec]) -> None:
    for module in model.modules():
        if isinstance(module, Weight):
            _set(module.multiplier, [_factors(run, module.role).multiplier for run in runs], model)
        elif isinstance(module, Multiplier) and module.site in MULTIPLIER_SITES:
            exponents = [run.table.multiplier(module.site, mode=run.mode) for run in runs]
            _set(module, [module.constant * run.m**e for run, e in zip(runs, exponents, strict=True)], model)


def _set(multiplier: Multiplier, values: list[float], model: LanguageModel) -> None:
    like = model.embedding.weight
    is_one = all(value == 1.0 for value in values)
    multiplier.factor = None if is_one else torch.tensor(values, dtype=like.dtype, device=like.device)
