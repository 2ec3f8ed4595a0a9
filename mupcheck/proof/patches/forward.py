"""Faults of the forward pass: what passes a site, what a weight acts as, norms, the loss."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupcheck.model import gdn, lm
from mupcheck.model.layers import Multiplier, ShortConv, Site, Weight
from mupcheck.model.lm import Block, LanguageModel
from mupcheck.proof.faults import Where
from mupcheck.proof.patches import Change
from mupcheck.spec.model import ModelSpec

Bend = Callable[[Tensor, ModelSpec], Tensor]


class _BentSite(Site):
    """A site that returns something else than its input."""

    def __init__(self, bend: Bend, spec: ModelSpec) -> None:
        super().__init__()
        self.bend, self.spec = bend, spec

    def forward(self, x: Tensor) -> Tensor:
        return self.bend(x, self.spec)


class _BentMultiplier(Multiplier):
    """A multiplier behind which a weight is another one."""

    def __init__(self, site: str, constant: float, bend: Bend, spec: ModelSpec) -> None:
        super().__init__(site, constant)
        self.bend, self.spec = bend, spec

    def forward(self, x: Tensor) -> Tensor:
        return self.bend(super().forward(x), self.spec)


def _built(change: Callable[[LanguageModel, ModelSpec], None]) -> Iterator[Change]:
    """Change every model once it is made, before it has values."""
    init = LanguageModel.__init__

    def __init__(self: Any, n_replicas: int, spec: ModelSpec, *given: Any) -> None:
        init(self, n_replicas, spec, *given)
        change(self, spec)

    yield Change(LanguageModel, "__init__", __init__)


def _places(model: nn.Module, kind: type[nn.Module]) -> Iterator[tuple[nn.Module, str, str, int]]:
    """Yield (owner, key in it, name, layer) of every module of a kind."""
    for path, module in list(model.named_modules()):
        if isinstance(module, kind):
            parts = path.split(".")
            layer = int(parts[1]) if parts[0] == "blocks" else -1
            yield model.get_submodule(".".join(parts[:-1])), parts[-1], parts[-1], layer


def bent_site(where: Where, *, bend: Bend) -> Iterator[Change]:
    """Let what passes a site be changed there."""

    def change(model: LanguageModel, spec: ModelSpec) -> None:
        for owner, key, site, layer in _places(model, Site):
            if where.has(site, layer, spec.width):
                owner._modules[key] = _BentSite(bend, spec)

    return _built(change)


def bent_weight(where: Where, *, bend: Bend) -> Iterator[Change]:
    """Let a weight act as another one than is stored and trained."""

    def change(model: LanguageModel, spec: ModelSpec) -> None:
        for owner, key, site, layer in _places(model, Weight):
            weight = owner._modules[key]
            if isinstance(weight, Weight) and where.has(site, layer, spec.width):
                weight.multiplier = _BentMultiplier("weight", 1.0, bend, spec)

    return _built(change)


# --- bends -----------------------------------------------------------------------------------------------------------


def times(x: Tensor, spec: ModelSpec, *, factor: float = 1.0, exponent: float = 0.0) -> Tensor:
    """Scale by a constant and a power of m."""
    return x * (factor * spec.m**exponent)


def power(x: Tensor, _: ModelSpec, *, exponent: float) -> Tensor:
    """Return sign(x) |x|^exponent."""
    return x.sign() * x.abs() ** exponent


def log_abs(x: Tensor, _: ModelSpec) -> Tensor:
    """Return ln |x|, so that exp gives |x|."""
    return x.abs().clamp(min=1e-4).log()


def logit(x: Tensor, _: ModelSpec) -> Tensor:
    """Undo a sigmoid."""
    return x.logit()


def stale(x: Tensor, _: ModelSpec) -> Tensor:
    """Return a value that no gradient passes, and one that is nothing with all of the gradient."""
    return x.detach()


def nothing(x: Tensor, _: ModelSpec) -> Tensor:
    """Return zeros that depend on x."""
    return x * 0


def dropped_out(x: Tensor, _: ModelSpec, *, share: float = 0.1) -> Tensor:
    """Zero a share of the values, another one each time, and scale up the rest."""
    return F.dropout(x, share)


def half(x: Tensor, _: ModelSpec) -> Tensor:
    """Round to bfloat16."""
    return x.bfloat16().to(x.dtype)


def first_half_only(x: Tensor, _: ModelSpec) -> Tensor:
    """Zero the second half of the last axis."""
    kept = torch.ones_like(x)
    kept[..., x.shape[-1] // 2 :] = 0
    return x * kept


def rolled(x: Tensor, _: ModelSpec) -> Tensor:
    """Take the neighbour along the last axis."""
    return x.roll(1, -1)


def sigmoid_of_silu(x: Tensor, _: ModelSpec) -> Tensor:
    """Return another smooth gate of the same size."""
    return 1.1 * torch.tanh(x)


# --- norms -----------------------------------------------------------------------------------------------------------


def _shaped(gain: Tensor, x: Tensor) -> Tensor:
    return gain.view(gain.shape[0], *([1] * (x.dim() - 2)), -1)


def other_norm(where: Where, *, norm: Callable[[Tensor, Tensor, float], Tensor]) -> Iterator[Change]:
    """Compute norms in another way: o_norm, the others, or all where none is named."""
    if where.about("o_norm"):
        yield Change(gdn, "rms_norm", norm)
    if where.about("norm1"):
        yield Change(lm, "rms_norm", norm)


def with_eps(x: Tensor, gain: Tensor, _: float, *, eps: float) -> Tensor:
    """Norm with another eps."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * _shaped(gain, x)


def none(x: Tensor, gain: Tensor, _: float) -> Tensor:
    """Only the gain."""
    return x * _shaped(gain, x)


def by_mean_abs(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Divide by the mean of |x|."""
    return x / (x.abs().mean(-1, keepdim=True) + eps) * _shaped(gain, x)


def by_length(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Divide by |x| and not by |x| / sqrt(d)."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps) * _shaped(gain, x)


def over_time(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Average over tokens and not over the last axis."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + eps) * _shaped(gain, x)


def over_all(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Average over everything of a replica."""
    return x * torch.rsqrt(x.square().flatten(1).mean(1).view(-1, *[1] * (x.dim() - 1)) + eps) * _shaped(gain, x)


def centred(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Take the mean out first, as LayerNorm does."""
    x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * _shaped(gain, x)


def gain_squared(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Scale by the square of the gain."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * _shaped(gain, x).square()


def other_unit_norm(_: Where, *, norm: Callable[[Tensor], Tensor]) -> Iterator[Change]:
    """Norm q and k in another way."""
    yield Change(gdn, "unit_norm", norm)


def not_normed(x: Tensor) -> Tensor:
    """Leave q and k as they are."""
    return x


def rms_normed(x: Tensor) -> Tensor:
    """Give q and k the rms 1 and not the length 1."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def normed_over_heads(x: Tensor) -> Tensor:
    """Norm over all heads of a token together."""
    return x * torch.rsqrt(x.square().sum((-2, -1), keepdim=True) + 1e-6)


# --- the rest --------------------------------------------------------------------------------------------------------


def other_conv(_: Where, *, act: Callable[..., Tensor]) -> Iterator[Change]:
    """Convolve in another way."""
    yield Change(ShortConv, "act", partial_method(act, ShortConv.act))


def partial_method(function: Callable[..., Any], before: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that calls function(before, self, ...)."""
    return lambda self, *given: function(before, self, *given)


def from_the_future(act: Callable[..., Tensor], conv: ShortConv, weight: Tensor, x: Tensor) -> Tensor:
    """Look ahead and not back."""
    return act(conv, weight, x.flip(2)).flip(2)


def beside_itself(act: Callable[..., Tensor], conv: ShortConv, weight: Tensor, x: Tensor) -> Tensor:
    """Leave the input as it is."""
    return x + 0 * act(conv, weight, x)


def relu_for_silu(_: Where) -> Iterator[Change]:
    """Use another nonlinearity in the token mixer."""

    class Functions:
        softplus = staticmethod(F.softplus)
        silu = staticmethod(F.relu)

    yield Change(gdn, "F", Functions)


def no_residual(_: Where) -> Iterator[Change]:
    """Let each half of a block replace the residual stream."""

    def forward(self: Any, x: Tensor, batch: int) -> Tensor:
        sites = self.sites
        x = self.mixer(sites["norm1"](lm.rms_norm(x, self.norm1_gain(), self.norm_eps)), batch)
        normed = sites["norm2"](lm.rms_norm(x, self.norm2_gain(), self.norm_eps))
        hidden = sites["mlp_hidden"](F.silu(self.gate_proj(normed)) * self.up_proj(normed))
        out: Tensor = sites["residual"](sites["mlp_out"](self.down_proj(hidden)))
        return out

    yield Change(Block, "forward", forward)


def shifted_targets(_: Where) -> Iterator[Change]:
    """Predict the token that is there and not the next one."""
    loss = LanguageModel.loss

    def same_token(self: Any, tokens: Tensor) -> Tensor:
        return loss(self, torch.cat([tokens[..., :1], tokens[..., :-1]], -1).roll(-1, -1)[..., : tokens.shape[-1]])

    yield Change(LanguageModel, "loss", same_token)


def shuffled_targets(_: Where) -> Iterator[Change]:
    """Predict the tokens of another replica."""
    forward = LanguageModel.forward

    def other(self: Any, tokens: Tensor) -> Tensor:
        return forward(self, tokens.roll(1, 0))

    yield Change(LanguageModel, "forward", other)


def multipliers_set(where: Where, *, exponent: float) -> Iterator[Change]:
    """Raise the factor that forward multipliers have to a power: 0 drops them, 2 applies them twice."""
    forward = Multiplier.forward

    def raised(self: Any, x: Tensor) -> Tensor:
        if self.factor is None or not where.about(self.site):
            return forward(self, x)
        kept = self.factor
        self.factor = math.copysign(1.0, exponent) * kept.abs() ** exponent
        out = forward(self, x)
        self.factor = kept
        return out

    yield Change(Multiplier, "forward", raised)


def at_width(x: Tensor, spec: ModelSpec, *, width: int, bend: Bend) -> Tensor:
    """Bend at one width only."""
    return bend(x, spec) if spec.width == width else x


Times = partial(times)
