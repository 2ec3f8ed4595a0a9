"""Weights of one shape that go through an optimizer together."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mupcheck.measuring.declared import Declared

Block = tuple[slice, slice]  # of replicas, and of rows
Blocks = Callable[[Sequence[int]], list[Block]]  # of a shape


class Stack:
    """Some weights of one shape [R, M, N], as if one of [weights * R, M, N], and what their update is made from.

    Attributes:
        weight_decay: declared, float64 [weights * R].
        state: of AdamW the moments; of SGD the velocity, and the step before its lr.
        old: the weights before the update.
        blocks: what is gone through at once.
        scratch: values of the largest of them.
    """

    def __init__(self, weights: Sequence[Tensor], given: Sequence[Declared], blocks: Blocks) -> None:
        self.weights = list(weights)
        self.weight_decay = torch.cat([each.weight_decay for each in given])
        like = matrix(weights[0])
        shape = (len(weights) * len(like), *like.shape[1:])
        self.state = [like.new_zeros(shape) for _ in range(2)]
        self.old = like.new_empty(shape)
        self.blocks = blocks(shape)
        self.scratch = max(math.prod(self.old[block].shape) for block in self.blocks)


def joined(weights: Sequence[Tensor | None]) -> Tensor | None:
    """Return weights, or their gradients, [R, ...] as one [weights * R, M, N]; None where one is not there."""
    there = [matrix(w) for w in weights if w is not None]
    if len(there) < len(weights):
        return None
    return there[0] if len(there) == 1 else torch.cat(there)


def matrix(x: Tensor) -> Tensor:
    """Return x [R, N] as one row of N columns, and a matrix [R, M, N] as it is."""
    return x if x.dim() == 3 else x.unsqueeze(1)
