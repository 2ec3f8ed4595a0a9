"""Layers over a leading replica axis R: every weight is [R, ...], has a role, and says how it acts on its input."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mupcheck.ops.lookup import flat_rows, lookup
from mupcheck.ops.products import product
from mupcheck.theory.parametrization import Role


class SizeHook:
    """A hook of a site that asks for the rms of what passes alone.

    Where kernels can sum squares of what lies in memory already, or passes through their registers, a site has no value
    to show: they ask for `room` and leave their sums there.
    """

    def __call__(self, module: nn.Module, args: tuple, out: Tensor) -> None:
        """Take up what passes, [R, ...]."""
        raise NotImplementedError

    def room(self, programs: int, values: int) -> Tensor:
        """Return where so many programs leave the sums of squares of so many values of a replica, [R, programs]."""
        raise NotImplementedError


class Site(nn.Module):
    """A named place in the forward pass; returns its input, so that a probe can hook what passes through."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x [R, ...] itself."""
        return x

    @property
    def watched(self) -> bool:
        """Return whether a probe listens, so that what only a probe reads is not computed without one."""
        return bool(self._forward_hooks)

    @property
    def size_hook(self) -> SizeHook | None:
        """Return the hook if there is but one and it asks for the rms alone."""
        hooks = list(self._forward_hooks.values())
        return hooks[0] if len(hooks) == 1 and isinstance(hooks[0], SizeHook) else None


class Multiplier(nn.Module):
    """A forward multiplier at a site: constant * m ** exponent, one number per replica, set by `model.build`."""

    factor: Tensor | None

    def __init__(self, site: str, constant: float = 1.0) -> None:
        super().__init__()
        self.site = site
        self.constant = constant
        self.register_buffer("factor", None)

    def forward(self, x: Tensor) -> Tensor:
        """Scale x [R, ...] by each replica's factor; nothing is computed where every factor is 1."""
        return x if self.factor is None else x * per_replica(self.factor, x).to(x.dtype)


class Weight(nn.Module):
    """A parameter [R, *shape] with its role and its std (or constant value) at the base width.

    `std` None means the constant `value`, or values that `model.build` draws by the parameter's name.
    The weight acts through `act`, with the multiplier of its role included, so that
    `act(W_t - W_0, x)` is its effective update (theory.md, section 4).
    """

    def __init__(
        self, n_replicas: int, *shape: int, role: Role, std: float | None = None, value: float | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_replicas, *shape))
        self.role = role
        self.std = std
        self.value = value
        self.multiplier = Multiplier("weight")

    def forward(self, x: Tensor | None = None) -> Tensor:
        """Apply the weight to its input x (a gain or scalar has none and is returned itself)."""
        return self.act(self.weight, x)

    def act(self, weight: Tensor, x: Tensor | None) -> Tensor:
        """Apply `weight` [R, *shape], this one or a change of it, as this layer does."""
        assert x is None
        return self.multiplier(weight)


class Linear(Weight):
    """y = x W with W [R, d_in, d_out], then the output multiplier if there is one."""

    def __init__(
        self, n_replicas: int, d_in: int, d_out: int, *, role: Role, std: float, output: Multiplier | None = None
    ) -> None:
        super().__init__(n_replicas, d_in, d_out, role=role, std=std)
        self.output = output

    def act(self, weight: Tensor, x: Tensor | None) -> Tensor:
        """Map x [R, N, d_in] to [R, N, d_out]."""
        assert x is not None
        if self.output is None:
            return product(x, self.multiplier(weight))
        if x.shape[2] < weight.shape[2]:  # of the two places the one with fewer numbers
            return product(self.output(x), self.multiplier(weight))
        return self.output(product(x, self.multiplier(weight)))


class Embedding(Weight):
    """Rows of W [R, vocab, D] looked up by token."""

    def __init__(self, n_replicas: int, vocab_size: int, width: int, *, std: float) -> None:
        super().__init__(n_replicas, vocab_size, width, role=Role.EMBEDDING, std=std)

    def act(self, weight: Tensor, x: Tensor | None) -> Tensor:
        """Map tokens [R, N] to [R, N, D]."""
        assert x is not None
        if weight.is_cuda:
            return self.multiplier(lookup(weight, x))
        return self.multiplier(F.embedding(flat_rows(x, weight.shape[1]), weight.reshape(-1, weight.shape[2])))


class ShortConv(Weight):
    """Depthwise causal convolution over time with one filter of `taps` per channel, W [R, taps, channels]."""

    def __init__(self, n_replicas: int, channels: int, taps: int, *, std: float) -> None:
        super().__init__(n_replicas, taps, channels, role=Role.SHORT_CONV, std=std)

    def act(self, weight: Tensor, x: Tensor | None) -> Tensor:
        """Map x [R, B, T, C] to the same shape; y_t = sum_j w_j x_{t - taps + 1 + j}."""
        assert x is not None
        return _CausalConv.apply(x, self.multiplier(weight).to(x.dtype))


class _CausalConv(torch.autograd.Function):
    """The convolution of ShortConv in place: autograd of the same four lines moves three times the memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = x * _tap(weight, 0)
        for lag in _lags(x, weight):
            y[:, :, lag:].addcmul_(x[:, :, :-lag], _tap(weight, lag))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (dy,), (x, weight) = grads, ctx.saved_tensors
        dx, dweight = dy * _tap(weight, 0), torch.zeros_like(weight)
        dweight[:, -1] = (dy * x).sum((1, 2))
        for lag in _lags(x, weight):
            dx[:, :, :-lag].addcmul_(dy[:, :, lag:], _tap(weight, lag))
            dweight[:, -1 - lag] = (dy[:, :, lag:] * x[:, :, :-lag]).sum((1, 2))
        return dx, dweight


def _tap(weight: Tensor, lag: int) -> Tensor:
    """Return the taps that act on the token `lag` steps back, [R, 1, 1, C]."""
    return weight[:, -1 - lag, None, None]


def _lags(x: Tensor, weight: Tensor) -> range:
    return range(1, min(weight.shape[1], x.shape[2]))


def per_replica(values: Tensor, like: Tensor) -> Tensor:
    """Shape values [R] so that they broadcast over like [R, ...]."""
    return values.view(-1, *([1] * (like.dim() - 1)))


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Return x / rms(x) * gain, the rms over the last axis; x [R, ..., D], gain [R, D]."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    normed: Tensor = _RMSNorm.apply(wide, gain.view(gain.shape[0], *([1] * (x.dim() - 2)), -1), eps)
    return normed.to(x.dtype)


def unit_norm(x: Tensor) -> Tensor:
    """Return x / |x|_2 over the last axis; the eps keeps the gradient finite at x = 0."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    unit: Tensor = _UnitNorm.apply(wide)
    return unit.to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    """x / rms(x) * gain with its gradient written out: half of the passes over memory that autograd takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        normed = x * inverse
        ctx.save_for_backward(normed, inverse, gain)
        return normed * gain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, inverse, gain = ctx.saved_tensors
        along = dy * normed
        dgain = along.sum_to_size(gain.shape)
        inward = (along * gain).mean(-1, keepdim=True)  # not in place: with one token dgain is `along` itself
        return (dy * gain).addcmul_(normed, inward, value=-1).mul_(inverse), dgain, None


class _UnitNorm(torch.autograd.Function):
    """x / |x| with its gradient written out, as _RMSNorm is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
        unit = x * inverse
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        unit, inverse = ctx.saved_tensors
        inward = (dy * unit).sum(-1, keepdim=True)
        return torch.addcmul(dy, unit, inward, value=-1).mul_(inverse)


def fan_in_std(fan_in: int, factor: float) -> float:
    """Return factor / sqrt(fan_in), the std that keeps an output of the size of its input."""
    return factor / math.sqrt(fan_in)
