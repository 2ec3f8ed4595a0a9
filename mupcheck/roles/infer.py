"""The role of every parameter of any model, from two widths of it: how each side grows, its name, what its user states.

Growth decides where it can. A side that grows with width and one that does not tell an input weight (embedding) from an
output weight (readout; inside a block a gate, a router, a projection to a fixed number of heads) and both from a hidden
one; a name of a known family says what growth does not, and is asked about where the two disagree.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

from torch import nn

from mupcheck.results.printing import said
from mupcheck.roles.families import O_NORMS, OUTPUTS, in_mixer
from mupcheck.roles.growing import Side, fits, known_or_grown, needs, says, turned, unexplained
from mupcheck.roles.names import Use, uses_of
from mupcheck.roles.sides import EITHER, TABLE, Shape, Sides, sides_of
from mupcheck.roles.stated import Stated, cut, sliced, stated_of
from mupcheck.theory.parametrization import MODES, Role

HEAD_DIM, HEADS = MODES
Rows = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Slice:
    """One parameter, or some rows of it, at two widths, and what it does there.

    `rows` are (start, stop) of its first axis, () where it is the whole, `base_rows` those at the base width;
    `base_shape` and `shape` are those of the slice. `fan_in` and `fan_out` are sizes at the base width and at this
    one, `growth` the powers of width by which they grow. `m` is the factor that the exponents of its role are powers
    of: how much its fan-in has grown, or what it is a vector over. `role` is None where `question` says what is
    unclear. `tied` are the names of readouts that share it, `site` is the place of a forward multiplier beside it, if
    it has one: "logits" and "mixer_out" behind it, "o_raw" before it.
    """

    name: str
    part: str
    rows: Rows
    base_rows: Rows
    base_shape: Shape
    shape: Shape
    fan_in: tuple[int, int] | None
    fan_out: tuple[int, int]
    growth: tuple[float, float]
    role: Role | None
    mode: str
    m: float
    why: str
    question: str = ""
    tied: tuple[str, ...] = ()
    site: str = ""

    @property
    def title(self) -> str:
        """Return "layers.0.in_proj_ba.weight rows b", or the name alone."""
        return f"{self.name} rows {self.part}" if self.part else self.name


def infer_roles(model: nn.Module, base: nn.Module, *, roles: Stated | None = None) -> list[Slice]:
    """Return the role of every parameter of a model, row slices of fused projections apart.

        for each in mupcheck.infer_roles(build(256), build(64)):
            print(each.title, each.role or each.question)

    Args:
        model, base: the same model at two widths; shapes are read and no values, so both may be on "meta".
        roles: what the user states, by name or pattern: {"blocks.*.temperature": "gate_scalar"}. For a fused weight the
            rows in order, {"blocks.*.in_proj.weight": [("q", 64), ("gate", 4, "gate")]}, or {"parts": [...],
            "blocks": 4} where that order repeats. As numbers of rows change with width: a function of the model.

    Raises:
        ValueError: if the two have other parameters or the same shapes, or what is stated fits no parameter or not how
            it grows.
    """
    now, before = uses_of(_module(model, "model")), uses_of(_module(base, "base"))
    named, named_before = ({uses[0].name: p for p, uses in each.items()} for each in (now, before))
    if apart := named.keys() ^ named_before.keys():
        where = "the model" if min(apart) in named else "its base"
        raise ValueError(
            f"parameter {min(apart)} is in {where} alone; the two must be one model at two widths, of the same depth"
        )
    pairs = {name: (tuple(named_before[name].shape), tuple(parameter.shape)) for name, parameter in named.items()}
    for name, (first, second) in pairs.items():
        if len(first) != len(second):
            raise ValueError(f"parameter {name} has shape {list(first)} at the base width and {list(second)} here")
    m = width_ratio(now, before)
    stated, stated_before = stated_of(roles, model, list(pairs)), stated_of(roles, base, list(pairs))
    found: list[Slice] = []
    for uses in now.values():
        name = uses[0].name
        other = before[named_before[name]]
        parts = cut(uses[0], pairs[name][1], stated.get(name))
        parts_before = cut(other[0], pairs[name][0], stated_before.get(name))
        if [part for part, *_ in parts] != [part for part, *_ in parts_before]:
            raise ValueError(f"parameter {name} is fused of other parts at the base width than here")
        for (part, rows, say), (_, rows_before, _) in zip(parts, parts_before, strict=True):
            shapes = sliced(pairs[name][0], rows_before), sliced(pairs[name][1], rows)
            found.append(_slice(uses, part, (rows, rows_before), shapes, m, say, now))
    return _with_modes(found)


def fused_rows(model: nn.Module, *, roles: Stated | None = None) -> dict[str, dict[str, Rows]]:
    """Return where the parts of every fused weight of one model are: {"in_proj_ba.weight": {"b": ..., "a": ...}}.

    Rows are (start, stop) of the first axis, several where the order of parts repeats.
    """
    uses = uses_of(_module(model, "model"))
    stated = stated_of(roles, model, [each[0].name for each in uses.values()])
    cuts = {each[0].name: cut(each[0], tuple(p.shape), stated.get(each[0].name)) for p, each in uses.items()}
    return {name: {part: rows for part, rows, _ in parts} for name, parts in cuts.items() if parts[0][1]}


def width_ratio(now: Mapping[nn.Parameter, Sequence[Use]], before: Mapping[nn.Parameter, Sequence[Use]]) -> float:
    """Return width / base width: of the rows of an embedding, else of most sides that differ.

    Raises:
        ValueError: if no side differs.
    """
    shapes = {uses[0].name: tuple(parameter.shape) for parameter, uses in before.items()}
    ratios: Counter[float] = Counter()
    for parameter, uses in now.items():
        old = shapes[uses[0].name]
        if sides_of(uses[0], tuple(parameter.shape)).what == TABLE and old[1] != parameter.shape[1]:
            return float(parameter.shape[1] / old[1])
        ratios.update(a / b for a, b in zip(parameter.shape, old, strict=True) if a != b)
    if not ratios:
        raise ValueError(
            "the two models have the same shapes, so nothing tells which sides grow with width; give models of two "
            "widths, and see that build(width) uses its width"
        )
    return ratios.most_common(1)[0][0]


def ratio_of(model: nn.Module, base: nn.Module) -> float:
    """Return width / base width of two models, see `width_ratio`."""
    return width_ratio(uses_of(model), uses_of(base))


def same_shapes(model: nn.Module, base: nn.Module) -> bool:
    """Say whether two models are of one width."""
    shapes = [{uses[0].name: tuple(p.shape) for p, uses in uses_of(each).items()} for each in (model, base)]
    return shapes[0] == shapes[1]


# --- from sides to a role ---------------------------------------------------------------------------------------------


def _slice(
    uses: Sequence[Use], part: str, rows: tuple[Rows, Rows], shapes: tuple[Shape, Shape], m: float,
    stated: Role | None, now: Mapping[nn.Parameter, Sequence[Use]],
) -> Slice:  # fmt: skip
    """Return a slice with its role, or with the question that it leaves."""
    vocabularies = {p.shape[0] for p, each in now.items() if sides_of(each[0], tuple(p.shape)).what == TABLE}
    answers = []
    for use in uses:
        old, new = sides_of(use, shapes[0]), sides_of(use, shapes[1])
        answers.append(_answer(use, part, old, new, m, stated if use is uses[0] else None, vocabularies))
    first = answers[0]
    roles = {answer.role for answer in answers}
    tied: tuple[str, ...] = ()
    question = first.question
    if roles == {Role.EMBEDDING, Role.READOUT}:
        first = next(answer for answer in answers if answer.role == Role.EMBEDDING)
        tied = tuple(use.name for use, each in zip(uses, answers, strict=True) if each.role == Role.READOUT)
        question = ""
    elif len(roles) > 1 and not question:
        names = " and as ".join(f"{use.name} ({answer.role})" for use, answer in zip(uses, answers, strict=True))
        question = f"it is shared, as {names}, which want different settings; untie them"
    return replace(
        first, name=uses[0].name, part=part, rows=rows[0], base_rows=rows[1], base_shape=shapes[0], shape=shapes[1],
        question=question, role=None if question else first.role, tied=tied, site=_site(uses[0], first.role, tied),
    )  # fmt: skip


def _site(use: Use, role: Role | None, tied: tuple[str, ...]) -> str:
    """Return the site of the forward multiplier beside a weight, "" where there is none."""
    if role == Role.READOUT or tied:
        return "logits"
    if use.leaf != "weight" or not in_mixer(use):
        return ""
    if role == Role.HEAD_NORM_GAIN and use.holder in O_NORMS:
        return "o_raw"
    return "mixer_out" if use.holder in OUTPUTS else ""


def _answer(
    use: Use, part: str, old: Sides, new: Sides, m: float, stated: Role | None, vocabularies: set[int]
) -> Slice:
    """Return a slice of one use, its own name and shapes left to the caller."""
    fan_in = None if old.fan_in is None or new.fan_in is None else (old.fan_in, new.fan_in)
    fan_out = (old.fan_out, new.fan_out)
    growth = (log(fan_in[1] / fan_in[0], m) if fan_in else 0.0, log(fan_out[1] / fan_out[0], m))
    side = Side(use, new.what, *growth, part=part)
    role, why, question = None, "", unexplained(side)
    if not question:
        if stated is not None:
            role, why = stated, "stated"
            question = ""
            if not fits(role, side):
                title = f"{use.name} rows {part}" if part else use.name
                raise ValueError(f"roles: {title} is stated to be {role}, {needs(role)}; {says(side)}")
        else:
            role, why, question = known_or_grown(side, new.fan_out, vocabularies)
    if new.what == EITHER and role is not None and turned(role, side):
        fan_in, fan_out, growth = fan_out, fan_in or fan_out, growth[::-1]
    by_in = role in (Role.HIDDEN, Role.GATE, Role.READOUT) and fan_in is not None
    grown, before = (fan_in if by_in and fan_in else fan_out)[::-1]
    # what does not grow itself goes by the model's width; but a vector over outputs that do not grow has no width
    own = grown / before
    factor = own if own != 1 or role in (Role.NORM_GAIN, Role.EMBEDDING) else m
    return Slice(
        use.name, part, (), (), (), (), fan_in, fan_out, growth, role, _own_mode(role, growth), factor, why, question
    )


# --- modes ------------------------------------------------------------------------------------------------------------


def _own_mode(role: Role | None, growth: tuple[float, float]) -> str:
    """Return which column of a table a role goes by, as its own growth says; "" where that says nothing.

    In head-dim mode gates are mapped to a fixed number of heads and a head's norm grows; in heads mode the reverse.
    """
    if role in (Role.GATE, Role.GATE_SCALAR):
        return HEADS if growth[1] else HEAD_DIM
    if role == Role.HEAD_NORM_GAIN:
        return HEAD_DIM if growth[1] else HEADS
    return ""


def _with_modes(slices: list[Slice]) -> list[Slice]:
    """Give what grows alike in both modes the mode of the model: that of its gate scalars, else of its head norms."""
    for role in (Role.GATE_SCALAR, Role.HEAD_NORM_GAIN):
        modes = Counter(each.mode for each in slices if each.role == role and each.mode)
        if modes:
            break
    mode = modes.most_common(1)[0][0] if modes else HEADS
    return [each if each.mode else replace(each, mode=mode) for each in slices]


def _module(given: Any, called: str) -> nn.Module:
    if not isinstance(given, nn.Module):
        raise ValueError(f"{called} is {said(given)}, expected a torch.nn.Module")
    if not any(True for _ in given.parameters()):
        raise ValueError(f"{called} is a {type(given).__name__} without parameters")
    return given
