"""Identities: what must hold for every table whatever its exponents, measured on small models in a second or two.

    base width     at the base width a table is the same model as any other
    symmetry       a factor moved from a role's init into its multiplier, lr and eps moved with it, changes nothing
    replicas       a run among R replicas gives the numbers that it gives alone
    nan neighbour  a replica that turns NaN leaves the one beside it alone
    order          a run's numbers depend neither on the order of a sweep nor on the other runs in it

An identity that breaks is a fault of the code that applies the table, not of its exponents; no coordinate check can be
trusted before it is mended. Where a table's own factors blow the small model up, there is nothing to compare and the
answer is None: cannot tell.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mupcheck.spec.reading import make_sweep
from mupcheck.spec.run import RunSpec
from mupcheck.sweep.groups import group_runs
from mupcheck.theory.parametrization import TABLES, Role, Table
from mupcheck.theory.rules_file import find_table
from mupcheck.training.data.corpus import Corpus
from mupcheck.training.data.sources import open_corpus
from mupcheck.training.train import StepRow, one_thread, train

BASE_WIDTH = 16
SHAPE: dict[str, Any] = {
    "base_width": BASE_WIDTH,
    "n_heads": 2,
    # every row is then a multiple of 64 bytes: on some CPUs a product's rounding depends on where its matrix lies
    "head_k_dim": 8,
    "head_v_dim": 16,
    "readout_std": 0.25,  # behind a zero readout nothing else moves in the first step
    "steps": 4,
    "batch_size": 2,
    "seq_len": 16,
    "kind": "lr",
}
LRS = {"adamw": 2.0**-7, "sgd": 2.0**-4}
BLOWS_UP = 1e30
VOCAB_SIZE = 32

EXACT = 0.0  # the same operations on the same numbers
# A batched matrix product may sum in another order for another R or another place among the replicas, and training
# amplifies the rounding: 20 steps reach 2e-7 in float32 and 4e-16 in float64 (shipped tables, a CPU).
OTHER_KERNEL = {"float32": 1e-5, "float64": 1e-11}
# Exact where the exponents are multiples of 1/2: m = 4 then scales by powers of 2. 4 ** 0.3 is rounded, in float64.
MOVED_FACTOR = 1e-11


@dataclass(frozen=True)
class Identity:
    """One identity of one table: `measured` is the largest relative difference between what should be equal.

    `holds` is None where it cannot be told; `compared` says what was, `next_step` what to do ("" where it holds).
    """

    name: str
    parametrization: str
    optimizer: str
    mode: str
    holds: bool | None
    measured: float
    tolerance: float
    compared: str
    next_step: str


@dataclass(frozen=True)
class Setting:
    """How the small models are trained."""

    optimizer: str
    mode: str
    corpus: Corpus
    device: str = "cpu"
    dtype: str = "float64"


def check_identities(
    parametrization: str, *, optimizer: str, mode: str, corpus: Corpus | None = None, device: str = "cpu"
) -> list[Identity]:
    """Measure every identity of one table.

    Args:
        parametrization: a shipped table's name, or the path of a .toml file.
        optimizer: "adamw" or "sgd".
        mode: "head-dim" or "heads".
        corpus: tokens to train on (default: the synthetic source with 32 tokens).
        device: "cpu", "cuda" or "cuda:i".
    Raises:
        ValueError: if the table, optimizer or mode is unknown.
    """
    setting = Setting(optimizer, mode, corpus or open_corpus("synthetic", vocab_size=VOCAB_SIZE), device)
    with one_thread():
        return [identity(parametrization, setting) for identity in IDENTITIES]


def base_width(parametrization: str, setting: Setting) -> Identity:
    """Train the table and another one at the base width, tied and untied, weight decay on: bit for bit the same."""
    table = find_table(parametrization)
    other = TABLES["sp" if table.name == "gdn-mup" else "gdn-mup"]
    differences = []
    for tied in (False, True):
        runs = [_run(each, setting, tied=tied, weight_decay=0.1) for each in (table, other)]
        values = numbers(runs, setting)
        differences.append(difference(values[..., 0], values[..., 1]))
    return _identity(
        "base width", parametrization, setting, differences, EXACT,
        compared=f"losses and gradient norms against {other.name} at width {BASE_WIDTH} = base width, tied and untied, "
        "weight decay 0.1",
        next_step="a factor is not 1 at m = 1; print them: "
        f"mupcheck rules -p {parametrization} --width 256 --base-width 256",
    )  # fmt: skip


def symmetry(parametrization: str, setting: Setting) -> Identity:
    """Move a factor m = 4 and its inverse from init to multiplier, for every role; decay and clipping are off."""
    table = find_table(parametrization)
    partners = [(role, moved(table, role, power)) for role in Role for power in (1, -1)]
    measured = {}
    for tied in (False, True):
        runs = [_run(each, setting, width=4 * BASE_WIDTH, tied=tied) for each in (table, *(p for _, p in partners))]
        losses = numbers(runs, setting)[0]
        for (role, partner), moved_losses in zip(partners, losses.T[1:], strict=True):
            measured[role, partner.name, tied] = difference(moved_losses, losses[:, 0])
    broken = dict.fromkeys(role for (role, _, _), value in measured.items() if value > MOVED_FACTOR)
    return _identity(
        "symmetry", parametrization, setting, list(measured.values()), MOVED_FACTOR,
        compared="losses at m = 4, a factor 4 or 1/4 moved from init to multiplier, lr and eps with it, role by role",
        next_step=f"the init, lr, eps or multiplier of {', '.join(broken)} is not applied as the table says; look at "
        "the parameters of that role in mupcheck/model/build.py and mupcheck/optim.py",
    )  # fmt: skip


def replicas(parametrization: str, setting: Setting) -> Identity:
    """Train four runs, two lrs by two seeds, as replicas of one model and each alone; 20 steps."""
    table = find_table(parametrization)
    lr = LRS[setting.optimizer]
    varied: list[dict[str, Any]] = [{"lr": lr * scale, "seed": seed} for scale in (0.5, 2) for seed in (0, 1)]
    runs = [_run(table, setting, width=2 * BASE_WIDTH, steps=20, **each) for each in varied]
    together = numbers(runs, setting)
    measured = [difference(together[..., i], numbers([run], setting)[..., 0]) for i, run in enumerate(runs)]
    return _identity(
        "replicas", parametrization, setting, measured, OTHER_KERNEL[setting.dtype],
        compared=f"losses and gradient norms of {len(runs)} replicas (2 lrs x 2 seeds) against single runs, 20 steps",
        next_step="something sums, averages or draws over the replica axis; look for a reduction that takes it in",
    )  # fmt: skip


def nan_neighbour(parametrization: str, setting: Setting) -> Identity:
    """Train a run beside one that turns NaN, and beside one that does not: bit for bit the same."""
    table = find_table(parametrization)
    lr = LRS[setting.optimizer]
    healthy, other, sick = (
        _run(table, setting, width=2 * BASE_WIDTH, steps=12, lr=each) for each in (lr / 2, lr / 4, BLOWS_UP)
    )
    beside_nan = _trained([healthy, sick], setting)
    diverged = beside_nan[-1].diverged[1] is not None
    measured = difference(_numbers(beside_nan)[..., 0], numbers([healthy, other], setting)[..., 0])
    return _identity(
        "nan neighbour", parametrization, setting, [measured if diverged else math.nan], EXACT,
        compared=f"losses and gradient norms beside a replica that diverges (lr {BLOWS_UP:g}) and beside a healthy one",
        next_step="a NaN crosses from one replica to another; look for a product with 0 where a choice is meant",
    )  # fmt: skip


def order(parametrization: str, setting: Setting) -> Identity:
    """Train a sweep, the same in reversed order, and one that shares a run with it."""
    table = find_table(parametrization)
    references = [name for name in ("sp", "gdn-mup", "mup") if name != table.name]
    small, middle, large = (BASE_WIDTH * m for m in (1, 2, 4))
    sweep = _sweep([parametrization, references[0]], [small, middle], [0, 1], setting)
    backwards = _sweep([references[0], parametrization], [middle, small], [1, 0], setting)
    # as many replicas to a group, but other ones
    company = _sweep([parametrization, references[1]], [large, middle], [2, 1], setting)
    measured = [
        difference(backwards[run_id], values) if run_id in backwards else math.inf for run_id, values in sweep.items()
    ]
    shared = sweep.keys() & company.keys()
    measured += [difference(company[run_id], sweep[run_id]) for run_id in shared] or [math.inf]
    return _identity(
        "order", parametrization, setting, measured, OTHER_KERNEL[setting.dtype],
        compared="losses and gradient norms of a sweep of 2 tables x 2 widths x 2 seeds against the same in reversed "
        "order, and against one with another table, width and seed in it",
        next_step="a seed or a draw depends on the place in the sweep; it may depend on (seed, width, parameter) alone",
    )  # fmt: skip


IDENTITIES: tuple[Callable[[str, Setting], Identity], ...] = (base_width, symmetry, replicas, nan_neighbour, order)


def moved(table: Table, role: Role, power: int) -> Table:
    """Move m ** power from the init of a role into its multiplier, and its lr and eps with it.

    The weight is then smaller by t = m ** power and its gradient larger by t: AdamW's lr falls by t (its eps grows by
    t), SGD's by t^2 (TP-V, the symmetry behind its Tables 3 and 8).
    """
    lr = {"adamw": -power, "sgd": -2 * power}
    rules = {}
    for (optimizer, mode), rows in table.rules.items():
        row = rows[role]
        changed = replace(
            row,
            init=row.init - power,
            multiplier=row.multiplier + power,
            lr=row.lr + lr[optimizer],
            eps=row.eps + power,
        )
        rules[optimizer, mode] = {**rows, role: changed}
    return dataclasses.replace(table, name=f"{table.name}, {role} moved by m^{power}", rules=rules)


def numbers(runs: Sequence[RunSpec], setting: Setting) -> NDArray[np.float64]:
    """Train runs as replicas of one model; return loss and gradient norm of every step, [2, step, R]."""
    return _numbers(_trained(runs, setting))


def difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the largest relative difference over the steps [2, step] that both took.

    Infinite where only one of two numbers is finite; NaN, "nothing to compare", where neither is.
    """
    steps = min(a.shape[-1], b.shape[-1])  # a single run ends where it diverges, a replica is carried along
    a, b = a[..., :steps], b[..., :steps]
    if (np.isfinite(a) != np.isfinite(b)).any():
        return math.inf
    if not np.isfinite(a).all():
        return math.nan
    return float((np.abs(a - b) / np.maximum(np.abs(b), np.finfo(float).tiny)).max())


def _run(table: Table, setting: Setting, **changes: Any) -> RunSpec:
    named = {"parametrization": table.name, "table": table, "optimizer": setting.optimizer, "mode": setting.mode}
    common = {"width": BASE_WIDTH, "lr": LRS[setting.optimizer], "seed": 0, "vocab_size": setting.corpus.vocab_size}
    return RunSpec(**(SHAPE | named | common | {"dtype": setting.dtype} | changes))


def _sweep(
    parametrizations: Sequence[str], widths: Sequence[int], seeds: Sequence[int], setting: Setting
) -> dict[str, NDArray[np.float64]]:
    """Train a sweep as `runner` does, grouped by shape; return the numbers of each run, [2, step], by run id."""
    grid = {"parametrizations": parametrizations, "widths": widths, "seeds": seeds, "lrs": [LRS[setting.optimizer]]}
    how = {"optimizer": setting.optimizer, "mode": setting.mode, "dtype": setting.dtype, "data": setting.corpus.name}
    plain = {"logit_scale": 1.0, "schedule": "constant", "warmup_steps": 0, "eval_tokens": 0, "n_layers": 1}
    sweep = make_sweep(SHAPE | grid | how | plain)
    runs = sweep.runs(vocab_size=setting.corpus.vocab_size, data_hash=setting.corpus.hash)
    found: dict[str, NDArray[np.float64]] = {}
    for group in group_runs(runs, setting.device):
        values = numbers(group, setting)
        found |= {run.run_id: values[..., replica] for replica, run in enumerate(group)}
    return found


def _trained(runs: Sequence[RunSpec], setting: Setting) -> list[StepRow]:
    return list(train(runs, setting.corpus, device=setting.device))


def _numbers(rows: Sequence[StepRow]) -> NDArray[np.float64]:
    return np.array([[row.loss for row in rows], [row.grad_norm for row in rows]])


def _identity(
    name: str,
    parametrization: str,
    setting: Setting,
    measured: Sequence[float],
    tolerance: float,
    *,
    compared: str,
    next_step: str,
) -> Identity:
    """Judge what `difference` returned: one that is too large breaks the identity, one that is NaN leaves it open."""
    worst = max((value for value in measured if not math.isnan(value)), default=math.nan)
    holds: bool | None = True
    if worst > tolerance:
        holds = False
    elif any(map(math.isnan, measured)):
        holds, worst = None, math.nan
        next_step = (
            "the small model's losses are not finite, so there is nothing to compare; look for an exponent of the "
            f"wrong sign or size: mupcheck rules -p {parametrization}"
        )
    table, said = find_table(parametrization), "" if holds else next_step
    return Identity(name, table.name, setting.optimizer, setting.mode, holds, worst, tolerance, compared, said)
