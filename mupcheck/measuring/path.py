"""Is the path that is trained right? The delta rule as a model calls it, against the reference in float64.

Both get the same inputs, the model's own q, k, v, log_alpha and beta, rounded as they come. Outputs, final state and
the gradients of every input are compared token by token, for some pairs of a sequence and a head: pairs do not see
each other, so the reference, a loop over tokens, need not go through all of them while the backend does.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import takewhile
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupcheck.model.gdn import DeltaRule
from mupcheck.model.lm import LanguageModel
from mupcheck.ops.chunk import CHUNK, LONGEST_SINGLE_CHUNK
from mupcheck.ops.reference import gated_delta_rule_reference

INPUTS = ("q", "k", "v", "log_alpha", "beta")
# Longer than two of any backend's chunks, and not a multiple of one, so that states are carried and a chunk is padded.
LONG = 2 * LONGEST_SINGLE_CHUNK + CHUNK + 5
SEGMENT = 32  # tokens whose states the reference keeps at once; of the others it keeps one a segment
# A head whose sizes are below this share of the others' is measured against them: what decays at once leaves gradients
# of log_alpha that are rounding beside those of its neighbours.
SMALLEST_SHARE = 0.1
# A sequence of one token, or one in which all is forgotten at once, has no gradient of log_alpha but rounding: below
# this share of the rms of o, whose size it comes in, it is measured against that.
SMALLEST_LOG_ALPHA = 0.01
# Keys are pulled so far towards their mean direction: cosines of 0.86 on average, where those of a new model are at 0.1
# to 0.2. A series for the inverse of a chunk is off by a factor there; the chunk form stays within 3e-6 up to 0.99.
ALIKE = 2.0
TINY = 1e-100  # where all is zero, as v may be, nothing is off
# Of the rms error over the rms of a tensor. The chunk form on a CPU, widths 32 to 512, 16 to 512 tokens, both modes,
# two tables: at most 8e-7, 2.6e-3 and 4e-14. float32 and float64 round sums of many terms, and tf32 would miss 1e-5 by
# a factor 30; bfloat16 rounds what goes in and out, by 2^-9, and kernels that also multiply in it are at 4e-3.
TOLERANCES = {"float32": 1e-5, "bfloat16": 1e-2, "float64": 1e-12}
TOKEN_TIMES = 16.0  # a single token may be off by so many tolerances; clean ones were by 2.3 at most
TOKEN_STARTS = 4.0  # and one off by so many is where a departure begins or ends


class Call(NamedTuple):
    """One call of the delta rule by a model: `rule` and its inputs, [R * B, T, H, ...] each, as INPUTS names them."""

    layer: int
    rule: nn.Module
    inputs: tuple[Tensor, ...]


class Error(NamedTuple):
    """How far one tensor of one layer is off, relative to its rms; inf where a value is not finite or there is none.

    Attributes:
        what: "o", "final_state" or "gradient of q".
        error: rms difference over rms, of the worst pair.
        by_token: rms difference of each token over the rms of all, of the worst pair each; empty for the final state.
        factor: what the reference is to be multiplied by to come nearest, nan where nothing is there.
        rest: the error that is left then.
        missing: whether there is no such tensor, as of an input that nothing flows back to.
    """

    layer: int
    what: str
    error: float
    by_token: tuple[float, ...]
    factor: float
    rest: float
    missing: bool = False

    def departs(self, tolerance: float) -> bool:
        """Say whether it is beyond what rounding does, as a whole or at one token."""
        return self.error > tolerance or max(self.by_token, default=0.0) > TOKEN_TIMES * tolerance

    def departing(self, tolerance: float) -> tuple[int, ...]:
        """Return the tokens that are off."""
        return tuple(t for t, off in enumerate(self.by_token) if off > TOKEN_STARTS * tolerance)


def tolerance_of(dtype: str) -> float:
    """Return what rounding in a run's dtype may do; float32 products that torch may round to tf32 count as bfloat16."""
    lower = dtype == "float32" and torch.get_float32_matmul_precision() != "highest"
    return TOLERANCES["bfloat16" if lower else dtype]


@torch.no_grad()
def capture(model: LanguageModel, tokens: Tensor, autocast: AbstractContextManager) -> list[Call]:
    """Return the calls of the delta rule, one a layer, of one forward pass over tokens [R, B, T]."""
    calls: list[Call] = []
    handles = []
    for layer, found in enumerate(module for module in model.modules() if isinstance(module, DeltaRule)):

        def keep(rule: nn.Module, inputs: tuple[Tensor, ...], layer: int = layer) -> None:
            calls.append(Call(layer, rule, inputs))

        handles.append(found.register_forward_pre_hook(keep))
    try:
        with autocast:
            model(tokens)
    finally:
        for handle in handles:
            handle.remove()
    return calls


class Picked(NamedTuple):
    """What the backend made of some calls of one shape, for the pairs that are compared, and what the reference takes.

    Attributes:
        layers: of the calls.
        got: of each call o, the gradients of INPUTS and the final state, each [P, ...] of its pairs.
        given: INPUTS and the gradients of o and of the final state, of all calls' pairs in float64: [calls * P, ...].
    """

    layers: tuple[int, ...]
    got: list[list[Tensor | None]]
    given: list[Tensor]


def compare(calls: Sequence[Call], pairs: int, autocast: AbstractContextManager) -> list[Error]:
    """Compare values and gradients of every call with the reference; calls of one shape.

    Args, returns and errors are those of `through_backend` and `errors_of`.
    """
    return errors_of([through_backend(calls, pairs, autocast)])[0]


def through_backend(calls: Sequence[Call], pairs: int, autocast: AbstractContextManager) -> Picked:
    """Send calls of one shape through their rule and back.

    Args:
        calls: as `capture` returns them.
        pairs: of a sequence and a head that the reference goes through, of each call; spread over all there are.
        autocast: as in training.

    Returns:
        What is compared of the calls, up to one whose inputs are not finite: that is what a call before it gave.

    Raises:
        ValueError: if there are no calls, or the first one's inputs are not finite.
    """
    if not calls:
        raise ValueError("the model does not call the delta rule")
    usable = list(takewhile(lambda call: all(x.isfinite().all() for x in call.inputs), calls))
    if not usable:
        raise ValueError("what the model gives the delta rule is not finite")
    got, given = [], []
    for call in usable:
        leaves = [x.detach().clone().requires_grad_() for x in call.inputs]
        with autocast:
            o, state = call.rule(*leaves)
        upstream = [_projection(o), _projection(state)]
        gradients = _gradients((o, state), leaves, upstream)
        chosen = _spread(leaves[0], pairs)
        got.append([_pick(x, chosen) for x in (o.detach(), *gradients)] + [_pick_state(state.detach(), chosen)])
        picked = [_pick(x.detach(), chosen) for x in (*leaves, upstream[0])]
        given.append([x for x in picked if x is not None] + [_pick_state(upstream[1], chosen)])
    columns = [torch.cat(parts).double() for parts in zip(*given, strict=True)]
    return Picked(tuple(call.layer for call in usable), got, columns)


def errors_of(picked: Sequence[Picked], *, together: int = 0) -> list[list[Error]]:
    """Return the errors of every tensor of the calls, a list for each of `picked`.

    Args:
        together: values of states that the reference may go through at once; 0: those of one `Picked` at a time. A loop
            over tokens takes a GPU as long for many pairs as for a few.

    Raises:
        ValueError: if what the reference makes of any is not finite.
    """
    names = ("o", *(f"gradient of {name}" for name in INPUTS), "final_state")
    found = []
    for (layers, got, _), right in zip(picked, _references(picked, together), strict=True):
        errors = []
        for i, (layer, mine) in enumerate(zip(layers, got, strict=True)):
            n_pairs = len(right[0]) // len(layers)
            of_call = [x[i * n_pairs : (i + 1) * n_pairs] for x in right]
            if not all(x.isfinite().all() for x in of_call):
                raise ValueError(f"what the reference makes of the inputs of layer {layer} is not finite")
            floors = dict.fromkeys(names, 0.0) | {"gradient of log_alpha": SMALLEST_LOG_ALPHA * _rms(of_call[0])}
            for name, one, expected in zip(names, mine, of_call, strict=True):
                errors.append(_error(layer, name, one, expected, floors[name]))
        found.append(errors)
    return found


def _references(picked: Sequence[Picked], together: int) -> Iterator[list[Tensor]]:
    """Yield what the reference makes of each; of several at once if their states have at most `together` values.

    Shorter ones are filled up with zeros, which change nothing: tokens that write nothing and keep the state as it is
    (beta and log_alpha 0), and keys and values that are not there.
    """
    waiting = list(picked)
    while waiting:
        count = 1
        while count < len(waiting) and _states(waiting[: count + 1]) <= together:
            count += 1
        alike, waiting = waiting[:count], waiting[count:]
        if count == 1:
            yield _reference(alike[0].given[:5], alike[0].given[5:])
            continue
        columns = []
        for parts in zip(*(each.given for each in alike), strict=True):
            size = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].dim())]
            columns.append(torch.cat([_filled(part, size) for part in parts]))
        outs = _reference(columns[:5], columns[5:])
        start = 0
        for each in alike:
            q, k, v, log_alpha, beta, _, d_state = each.given
            shapes = [x.shape[1:] for x in (v, q, k, v, log_alpha, beta, d_state)]
            of_each = [out[start : start + len(q)] for out in outs]
            yield [x[(slice(None), *map(slice, shape))] for x, shape in zip(of_each, shapes, strict=True)]
            start += len(q)


def _states(picked: Sequence[Picked]) -> int:
    """Return how many values the states of all have, each as large as the largest."""
    shapes = [(len(each.given[0]), each.given[0].shape[1], *each.given[6].shape[2:]) for each in picked]
    pairs, *largest = sum(shape[0] for shape in shapes), *(max(sizes) for sizes in list(zip(*shapes, strict=True))[1:])
    return int(pairs * math.prod(largest))


def _filled(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return x [P, ...] with zeros behind, up to `size`."""
    missing = [(0, full - there) for full, there in zip(size, x.shape[1:], strict=True)]
    return F.pad(x, [side for pair in reversed(missing) for side in pair])


def strained(calls: Sequence[Call]) -> list[Call]:
    """Return the calls with keys that are alike, as training at a large lr makes them; all else is the model's own."""
    changed = []
    for layer, rule, (q, k, *rest) in calls:
        mean = F.normalize(k.double().mean(1, keepdim=True), dim=-1)
        changed.append(Call(layer, rule, (q, F.normalize(k.double() + ALIKE * mean, dim=-1).to(k), *rest)))
    return changed


def _gradients(outputs: Sequence[Tensor], leaves: Sequence[Tensor], upstream: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradient of each leaf, None where nothing flows back to it."""
    flowing = [(x * grad).sum() for x, grad in zip(outputs, upstream, strict=True) if x.requires_grad]
    # a loss each, as torch imports sympy for half a second where it is handed the gradients of its outputs
    return list(torch.autograd.grad(flowing, leaves, allow_unused=True)) if flowing else [None] * len(leaves)


def _projection(x: Tensor) -> Tensor:
    """Return a fixed random gradient of x, in its dtype: of the loss sum(x * projection)."""
    generator = torch.Generator().manual_seed(x.ndim * 1000 + x.shape[1])
    return torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)


def _spread(q: Tensor, pairs: int) -> list[tuple[int, int]]:
    """Return up to `pairs` of (sequence, head) of q [B, T, H, K], the first and the last among them."""
    batch, _, heads, _ = q.shape
    count = min(pairs, batch * heads)
    places = torch.linspace(0, batch * heads - 1, count).round().long().tolist() if count > 1 else [0]
    return [(place // heads, place % heads) for place in places]


def _pick(x: Tensor | None, chosen: Sequence[tuple[int, int]]) -> Tensor | None:
    """[B, T, H, X] or [B, T, H] -> [P, T, 1, X] or [P, T, 1] of the chosen pairs."""
    return None if x is None else torch.stack([x[b, :, h : h + 1] for b, h in chosen])


def _pick_state(x: Tensor, chosen: Sequence[tuple[int, int]]) -> Tensor:
    """[B, H, K, V] -> [P, 1, K, V] of the chosen pairs."""
    return torch.stack([x[b, h : h + 1] for b, h in chosen])


def _reference(inputs: Sequence[Tensor], upstream: Sequence[Tensor]) -> list[Tensor]:
    """Return o, the gradients of the inputs and the final state: autograd of the reference, a segment at a time.

    The states of one segment are kept for its way back, and of the others the one that enters: of every token it is
    gigabytes at the widest.
    """
    q, v = inputs[0], inputs[2]
    entering = [q.new_zeros(len(q), 1, q.shape[-1], v.shape[-1])]
    starts = range(0, q.shape[1], SEGMENT)
    outputs: list[Tensor] = []
    grads: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for start in starts:
            span = [x[:, start : start + SEGMENT] for x in inputs]
            o, state = gated_delta_rule_reference(*[*span, entering[-1]])
            outputs.append(o)
            entering.append(state)
    d_o, d_state = upstream
    for start, state in zip(reversed(starts), reversed(entering[:-1]), strict=True):
        span = [x[:, start : start + SEGMENT].clone().requires_grad_() for x in inputs]
        leaves = [*span, state.requires_grad_()]
        ends = gated_delta_rule_reference(*leaves)
        losses = [(x * grad).sum() for x, grad in zip(ends, (d_o[:, start : start + SEGMENT], d_state), strict=True)]
        *of_inputs, d_state = torch.autograd.grad(losses, leaves)
        grads.insert(0, tuple(of_inputs))
    return [torch.cat(outputs, 1), *(torch.cat(parts, 1) for parts in zip(*grads, strict=True)), entering[-1].detach()]


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def _error(layer: int, what: str, got: Tensor | None, right: Tensor, floor: float) -> Error:
    """Return how far [P, T, 1, X], [P, T, 1] or, of the state, [P, 1, K, V] is from what is right.

    Args:
        floor: an rms below it counts as so large.
    """
    inf, nan = float("inf"), float("nan")
    tokens = what != "final_state"
    if got is None:
        return Error(layer, what, inf, (inf,) * (right.shape[1] if tokens else 0), nan, nan, missing=True)
    wide = right.flatten(2) if tokens else right.flatten(1)[:, None]  # [P, T, X]
    mine = got.double().reshape(wide.shape)
    of_pair = wide.square().mean((1, 2)).sqrt()
    scale = of_pair.clamp(min=max(SMALLEST_SHARE * _rms(wide), floor, TINY))
    by_token = ((mine - wide).square().mean(2).sqrt() / scale[:, None]).nan_to_num(nan=inf, posinf=inf)  # [P, T]
    factor = float((mine * wide).sum() / wide.square().sum().clamp(min=TINY**2))
    rest = float(((mine - factor * wide).square().mean((1, 2)).sqrt() / scale).amax())
    return Error(
        layer,
        what,
        float(by_token.square().mean(1).sqrt().amax()),
        tuple(by_token.amax(0).tolist()) if tokens else (),
        factor,
        rest,
    )
