"""What a parameter's axes are: the side it sums over (fan-in) and the one it makes (fan-out), by its module."""

from dataclasses import dataclass
from math import prod

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from mupcheck.model.layers import Embedding, Linear, ShortConv, Weight
from mupcheck.roles.families import EXPERTS
from mupcheck.roles.names import Use

Shape = tuple[int, ...]
VECTOR, MATRIX, EITHER, CONV, TABLE, OTHER = "vector", "matrix", "matrix of unknown sides", "conv", "table", "other"


@dataclass(frozen=True)
class Sides:
    """What a shape is: one of the words above, its fan-in (None of a vector) and its fan-out."""

    what: str
    fan_in: int | None
    fan_out: int


def sides_of(use: Use, shape: Shape) -> Sides:
    """Return the sides of a parameter of this shape at one of its places; those of a matrix are [out, in] in torch.

    A bare 2-D parameter may be used either way round, and its sides are then in the order of its shape, [out, in].
    """
    module, leaf = use.module, use.leaf
    if isinstance(module, Weight):
        return _sides_of_ours(module, shape[1:])
    if isinstance(module, _ConvNd) and leaf == "weight" and not isinstance(module, _ConvTransposeNd):
        return Sides(CONV, prod(shape[1:]), shape[0])
    if leaf == "weight" and is_table(module) and len(shape) == 2:
        return Sides(TABLE, shape[0], shape[1])
    if leaf == "weight" and len(shape) == 2:
        if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # GPT-2's: a Linear of [in, out]
            return Sides(MATRIX, shape[0], shape[1])
        return Sides(MATRIX, shape[1], shape[0])
    if use.leaf in EXPERTS and len(shape) == 3 and "expert" in use.name:
        return Sides(MATRIX, shape[2], shape[1])
    long = [n for n in shape if n > 1] or [1]
    if len(long) == 1 and (len(shape) == 1 or shape[0] == 1 or leaf not in ("weight",)):
        return Sides(VECTOR, None, long[0])
    if len(shape) == 2:
        return Sides(EITHER, shape[1], shape[0])
    return Sides(OTHER, None, prod(shape))


def _sides_of_ours(module: Weight, shape: Shape) -> Sides:
    """Return the sides of a weight of our own models, the replica axis left out."""
    if isinstance(module, Linear):
        return Sides(MATRIX, *shape)
    if isinstance(module, ShortConv | Embedding):
        return Sides(CONV if isinstance(module, ShortConv) else TABLE, *shape)
    return Sides(VECTOR, None, shape[0])


def is_matrix(what: str, shape: Shape) -> bool:
    """Say whether weight decay is for a parameter, as far as one width can tell: matrices, not depthwise filters."""
    return what in (MATRIX, EITHER, TABLE, OTHER) or (what == CONV and shape[1] > 1)


def is_table(module: nn.Module) -> bool:
    """Say whether a module looks rows up, as nn.Embedding does."""
    return isinstance(module, nn.Embedding) or hasattr(module, "num_embeddings")


def is_norm(use: Use) -> bool:
    """Say whether a parameter is a gain of a norm: by its module's class, or by the name of the one or the other."""
    words = (type(use.module).__name__, use.holder, use.leaf)
    return any("norm" in word.lower() or word.lower().startswith("ln") for word in words)


def is_bias(use: Use) -> bool:
    """Say whether a parameter is added to what a matrix or a convolution makes."""
    return use.leaf == "bias" and not is_norm(use)
