"""Faults of the kernel that trains: the reference stays right."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mupcheck import ops
from mupcheck.proof.faults import Where
from mupcheck.proof.patches import Change

Rule = Callable[..., tuple[Tensor, Tensor]]
LONG = 64  # tokens, beyond which there is more than one chunk


def kernel(_: Where, *, wrong: Callable[..., tuple[Tensor, Tensor]], long: bool = False) -> Iterator[Change]:
    """Compute the rule by wrong(right, q, k, v, log_alpha, beta, state), of long sequences only or of all."""
    right = ops.gated_delta_rule_chunk

    def compute(q: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        if long and q.shape[1] <= LONG:
            return right(q, *given)
        return wrong(right, q, *given)

    yield Change(ops, "gated_delta_rule_chunk", compute)


def by_reference(_: Rule, *given: Any) -> tuple[Tensor, Tensor]:
    """Compute it by the recurrence, step by step, which is right."""
    return ops.gated_delta_rule_reference(*given)


def state_lost(rule: Rule, *given: Any) -> tuple[Tensor, Tensor]:
    """Start every 64 tokens from nothing."""
    parts = [rule(*(x[:, at : at + LONG] for x in given[:5]), None) for at in range(0, given[0].shape[1], LONG)]
    return torch.cat([o for o, _ in parts], 1), parts[-1][1]


def tail_scaled(rule: Rule, *given: Any) -> tuple[Tensor, Tensor]:
    """Scale what is read beyond 64 tokens."""
    o, state = rule(*given)
    return torch.cat([o[:, :LONG], 1.1 * o[:, LONG:]], 1), state


def last_chunk_empty(rule: Rule, *given: Any) -> tuple[Tensor, Tensor]:
    """Read nothing in a last chunk that is not full."""
    o, state = rule(*given)
    rest = o.shape[1] % 32
    return (torch.cat([o[:, :-rest], 0 * o[:, -rest:]], 1) if rest else o), state


def decayed_twice(rule: Rule, q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, *given: Any) -> Any:
    """Let the state decay twice a step."""
    return rule(q, k, v, 2 * log_alpha, *given)


def writes_all(rule: Rule, q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, beta: Tensor, *given: Any) -> Any:
    """Write with strength 1."""
    return rule(q, k, v, log_alpha, 0 * beta + 1, *given)


def read_by_root_k(rule: Rule, q: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    """Read q / sqrt(K), as attention does."""
    return rule(q / q.shape[-1] ** 0.5, *given)


def in_bfloat16(rule: Rule, *given: Any) -> tuple[Tensor, Tensor]:
    """Round every input to bfloat16."""
    return rule(*(x if x is None else x.bfloat16().to(x.dtype) for x in given))


def state_doubled(rule: Rule, *given: Any) -> tuple[Tensor, Tensor]:
    """Return twice the final state."""
    o, state = rule(*given)
    return o, 2 * state


def wide_heads_wrong(rule: Rule, q: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    """Leave the key dims beyond 16 out."""
    kept = (torch.arange(q.shape[-1]) < 16).to(q.dtype)
    return rule(q * kept, *given)


class _GradientScaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * grads[0], None


def gradient_scaled(rule: Rule, *given: Any, which: int, factor: float) -> tuple[Tensor, Tensor]:
    """Return a wrong gradient of one input: 0 q, 1 k, 2 v, 3 log_alpha, 4 beta."""
    inputs = list(given)
    inputs[which] = _GradientScaled.apply(inputs[which], factor)
    return rule(*inputs)
