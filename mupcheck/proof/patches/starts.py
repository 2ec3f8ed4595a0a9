"""Faults of how a run starts: initial values, factors of width, seeds and batches."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mupcheck.model import build
from mupcheck.model.layers import Weight
from mupcheck.model.lm import LanguageModel
from mupcheck.proof.faults import Where
from mupcheck.proof.patches import Change
from mupcheck.spec.model import ModelSpec
from mupcheck.spec.run import RunSpec
from mupcheck.theory.parametrization import Factors, Role, factors
from mupcheck.training import train

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def place_of(name: str) -> tuple[str, int]:
    """Return (site, layer) of a parameter's path in the model."""
    parts = name.split(".")
    return parts[-1], int(parts[1]) if parts[0] == "blocks" else -1


# --- initial values --------------------------------------------------------------------------------------------------


def init_scaled(where: Where, *, factor: float, part: float = 1.0) -> Iterator[Change]:
    """Draw weights with another std, all or the first `part` of their columns."""
    draw = build._base_values

    def scaled(name: str, module: Weight, run: RunSpec) -> np.ndarray:
        values = draw(name, module, run).copy()
        if module.std and where.has(*place_of(name), run.width):
            values[..., : int(part * values.shape[-1])] *= np.float32(factor)
        return values

    yield Change(build, "_base_values", scaled)


def drawn_from(where: Where, *, draw: Draw) -> Iterator[Change]:
    """Draw the weights of a std from another distribution of the same std."""
    normal = build._base_values

    def other(name: str, module: Weight, run: RunSpec) -> np.ndarray:
        if not module.std or not where.has(*place_of(name), run.width):
            return normal(name, module, run)
        bits = build._generator("other", run.seed, run.width, name)
        return (draw(bits, tuple(module.weight.shape[1:])) * module.std).astype(np.float32)

    yield Change(build, "_base_values", other)


def uniform(bits: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return values of std 1, uniform."""
    return bits.uniform(-(3**0.5), 3**0.5, shape)


def narrow(bits: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return uniform values within one std, as a bound that is taken for a std gives."""
    return bits.uniform(-1, 1, shape)


def coins(bits: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return 1 or -1."""
    return np.sign(bits.random(shape) - 0.5)


def truncated(bits: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return normal values cut off at 2 std, whose own std is 0.88."""
    return np.clip(bits.standard_normal(shape), -2, 2) * 0.9


def orthogonal(bits: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return an orthogonal matrix scaled to std 1; other shapes are normal."""
    values = bits.standard_normal(shape)
    if len(shape) != 2 or min(shape) < 8:
        return values
    basis = np.linalg.qr(values if shape[0] >= shape[1] else values.T)[0] * max(shape) ** 0.5
    return basis if shape[0] >= shape[1] else basis.T


def rank_one(bits: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return the outer product of two normal vectors."""
    return np.outer(bits.standard_normal(shape[0]), bits.standard_normal(shape[-1])).reshape(shape)


def positive(bits: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return values of mean square 1, all positive."""
    return np.abs(bits.standard_normal(shape))


def zero(bits: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:  # noqa: ARG001
    """Return zeros."""
    return np.zeros(shape)


def after_initialise(where: Where, *, edit: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[Change]:
    """Change initial weights [R, ...] once they are drawn."""
    initialise = build._initialise

    @torch.no_grad()
    def edited(model: LanguageModel, runs: Any) -> None:
        initialise(model, runs)
        for site, layer, module in build.named_weights(model):
            if where.has(site, layer, runs[0].width):
                module.weight.copy_(edit(module.weight.clone()))

    yield Change(build, "_initialise", edited)


def to_bfloat16(weight: torch.Tensor) -> torch.Tensor:
    """Round to bfloat16."""
    return weight.bfloat16().to(weight.dtype)


def equal_rows(weight: torch.Tensor) -> torch.Tensor:
    """Repeat the first row."""
    return weight[:, :1].expand_as(weight)


def readout_as_embedding(_: Where) -> Iterator[Change]:
    """Start the readout as a copy of the embedding, with its own std."""
    initialise = build._initialise

    @torch.no_grad()
    def copies(model: LanguageModel, runs: Any) -> None:
        initialise(model, runs)
        model.readout.weight.copy_(model.embedding.weight.transpose(1, 2) * runs[0].readout_std)

    yield Change(build, "_initialise", copies)


def gates_by_width(_: Where) -> Iterator[Change]:
    """Draw the gate scalars afresh at each width."""
    draw, make = build._base_values, build._generator

    def fresh(name: str, module: Weight, run: RunSpec) -> np.ndarray:
        if module.std is not None or module.value is not None:
            return draw(name, module, run)
        uniform_values = make(run.seed, run.width, name).random(run.heads[0])
        return build.GATE_SCALAR_DRAWS[place_of(name)[0]](uniform_values).astype(np.float32)

    yield Change(build, "_base_values", fresh)


# --- seeds -----------------------------------------------------------------------------------------------------------


def one_init(_: Where) -> Iterator[Change]:
    """Draw the same initial values for every seed."""
    make = build._generator
    yield Change(build, "_generator", lambda seed, *key: make(0, *key))  # noqa: ARG005


def other_seeds(_: Where) -> Iterator[Change]:
    """Draw initial values from seeds 1,000 further on."""
    make = build._generator
    yield Change(build, "_generator", lambda seed, *key: make(seed + 1000, *key))


def one_batch(_: Where) -> Iterator[Change]:
    """Give every seed the batches of seed 0."""
    batch = train.train_batch
    yield Change(train, "train_batch", lambda corpus, *, seed, **of: batch(corpus, seed=0, **of))  # noqa: ARG005


def one_seed(where: Where) -> Iterator[Change]:
    """Let the seed reach nothing."""
    yield from one_init(where)
    yield from one_batch(where)


def alike_layers(_: Where) -> Iterator[Change]:
    """Draw the same initial values in every layer."""
    make = build._generator

    def generator(*key: Any) -> np.random.Generator:
        *rest, name = key
        return make(*rest, name.replace("blocks.1.", "blocks.0."))

    yield Change(build, "_generator", generator)


# --- factors of width ------------------------------------------------------------------------------------------------


def other_factors(
    where: Where, *, change: Callable[[RunSpec, Role, Factors], Factors], roles: Collection[Role] = tuple(Role)
) -> Iterator[Change]:
    """Give roles other factors than their table does."""
    right = build._factors

    def wrong(run: RunSpec, role: Role) -> Factors:
        found = right(run, role)
        return change(run, role, found) if role in roles and where.width in (None, run.width) else found

    yield Change(build, "_factors", wrong)


def _at(run: RunSpec, role: Role, m: float, optimizer: str = "") -> Factors:
    how = {"optimizer": optimizer or run.optimizer, "mode": run.mode, "decay_mode": run.decay_mode}
    return factors(run.table, role, m=m, **how)


def lr_of_half_base(run: RunSpec, role: Role, found: Factors) -> Factors:
    """Take the lr for half the base width."""
    return replace(found, lr=_at(run, role, 2 * run.m).lr)


def init_of_half_base(run: RunSpec, role: Role, found: Factors) -> Factors:
    """Take the init for half the base width."""
    return replace(found, init=_at(run, role, 2 * run.m).init)


def of_other_optimizer(run: RunSpec, role: Role, _: Factors) -> Factors:
    """Take the rows of the other optimizer."""
    return _at(run, role, run.m, "sgd" if run.optimizer == "adamw" else "adamw")


def lr_of_one(run: RunSpec, role: Role, found: Factors) -> Factors:  # noqa: ARG001
    """Take the lr of the base width."""
    return replace(found, lr=1.0)


def other_m(_: Where, *, m: Callable[[ModelSpec], float]) -> Iterator[Change]:
    """Compute m in another way."""
    yield Change(ModelSpec, "m", property(m))


def half_base(spec: ModelSpec) -> float:
    """Return m of half the base width."""
    return 2 * spec.width / spec.base_width


def of_head_dim(spec: ModelSpec) -> float:
    """Return by what a head grows."""
    return spec.heads[1] / spec.base_heads[1]


def of_heads(spec: ModelSpec) -> float:
    """Return by what the number of heads grows."""
    return spec.heads[0] / spec.base_heads[0]


def capped(spec: ModelSpec, *, most: float = 2.0) -> float:
    """Return m, and no more than so much."""
    return min(spec.width / spec.base_width, most)


def of_parameters(spec: ModelSpec) -> float:
    """Return by what a matrix grows, m^2."""
    return (spec.width / spec.base_width) ** 2
