"""The model's training loss from fused kernels: what `lm` and `gdn` say, in fewer passes over memory.

Every projection of one input is one product, the residual sum goes with the norm behind it, and the readout with the
loss. Weights, roles and multipliers are those of the modules. A site that is watched is shown its value, without a
gradient and computed again where no kernel leaves it; where a weight is hooked, as by a full probe, modules compute.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupcheck.model.layers import Linear, Site, Weight
from mupcheck.ops import fused


def fits(model: nn.Module, x: Tensor) -> bool:
    """Say whether fused kernels can compute the model's loss: where they run, and no weight's input is asked for."""
    return fused.enabled(x) and not any(
        module._forward_pre_hooks or (module._forward_hooks and isinstance(module, Weight))
        for module in model.modules()
        if isinstance(module, Site | Weight)
    )


def loss(model: Any, tokens: Tensor) -> Tensor:
    """Return what `LanguageModel.loss` does, [R]; tokens [R, B, T + 1]."""
    from mupcheck.ops.kernels.cross_entropy import readout_loss

    with fused.on_device_of(tokens):
        x = _last_norm(model, tokens[..., :-1])
        targets = tokens[..., 1:].reshape(len(tokens), -1)
        tied = model.spec.tied
        end = model.embedding if tied else model.readout
        factors = {"factor": model.logits_multiplier.factor, "multiplier": end.multiplier.factor}
        _show(model.sites, "logits", lambda: _logits(x, end.weight.mT if tied else end.weight, **factors))
        return readout_loss(x, end.weight, targets, **factors, tied=tied)


def _show(sites: nn.ModuleDict, name: str, value: Tensor | Callable[[], Tensor]) -> None:
    """Let a site's watchers see a value, which may be computed for them alone."""
    site = sites[name]
    if isinstance(site, Site) and site.watched:
        with torch.no_grad():
            shown = (value if isinstance(value, Tensor) else value()).detach()
            if site(shown) is not shown:
                raise RuntimeError(
                    f"a hook replaces what passes {name}; do so within mupcheck.ops.fused.switched_off()"
                )


def _logits(x: Tensor, weight: Tensor, *, factor: Tensor | None, multiplier: Tensor | None) -> Tensor:
    logits = torch.bmm(x, _times(weight, multiplier).to(x.dtype))
    return _times(logits, factor)


def _times(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else x * factor.view(-1, *[1] * (x.dim() - 1)).to(x.dtype)


def _last_norm(model: Any, tokens: Tensor) -> Tensor:
    """Return the final norm's output, [R, B * T, D] in the dtype of products."""
    from mupcheck.ops.kernels.norms import add_rms_norm, rms_norm

    eps, batch = model.spec.norm_eps, tokens.shape[1]
    x = model.embedding(tokens.flatten(1))
    dtype = fused.product_dtype(x)
    _show(model.sites, "embedding", x)
    gains = [gain() for block in model.blocks for gain in (block.norm1_gain, block.norm2_gain)]
    gains.append(model.final_norm_gain())
    normed = rms_norm(x, gains[0], eps, dtype)
    for index, block in enumerate(model.blocks):
        _show(block.sites, "norm1", normed)
        x, normed = add_rms_norm(x, _mixer(block.mixer, normed, batch), gains[2 * index + 1], eps, dtype)
        _show(block.sites, "norm2", normed)
        x, normed = add_rms_norm(x, _mlp(block, normed), gains[2 * index + 2], eps, dtype)
        _show(block.sites, "residual", x)
    _show(model.sites, "final_norm", normed)
    return normed


def _mixer(mixer: Any, x: Tensor, batch: int) -> Tensor:
    from mupcheck.ops.kernels.mixer import Weights, rule_inputs
    from mupcheck.ops.kernels.norms import gated_rms_norm
    from mupcheck.ops.kernels.products import projection

    sites, gain = mixer.sites, mixer.o_norm_gain()
    projections = (mixer.q_proj, mixer.k_proj, mixer.v_proj, mixer.g_proj, mixer.a_proj, mixer.b_proj)
    convs = [conv.multiplier(conv.weight) for conv in (mixer.q_conv1d, mixer.k_conv1d, mixer.v_conv1d)]
    scalars = (mixer.A_log(), mixer.dt_bias())
    weights = Weights._make([*(projection.weight for projection in projections), *convs, *scalars])
    factors = [factor_of(projection) for projection in projections]
    inputs, g, product = rule_inputs(x, weights, factors, batch=batch, heads=mixer.heads)
    o, state = mixer.rule(*inputs, final_state=sites["state"].watched)
    o = o.reshape(*x.shape[:2], *o.shape[2:])
    if any(isinstance(site, Site) and site.watched for site in sites.values()):
        _show_mixer(mixer, product.parts(), weights, inputs, o, state)
    product.value = None  # what keeps it for the backward pass lets go of it there
    settings = {"factor": mixer.o_multiplier.factor, "gradient": product.of_g}
    out = projection(
        gated_rms_norm(o, g, gain, mixer.norm_eps, **settings), mixer.o_proj.weight, factor_of(mixer.o_proj)
    )
    _show(sites, "mixer_out", out)
    return out


def _show_mixer(
    mixer: Any, parts: Any, weights: Any, inputs: tuple[Tensor, ...], o: Tensor, state: Tensor | None
) -> None:
    """Show what is inside a mixer, from the parts of its joint product and what the delta rule takes and gives."""
    from mupcheck.ops.kernels.conv import conv_forward

    sites = mixer.sites
    q, k, v, log_alpha, beta = inputs
    batch = len(q) // len(o)
    heads = log_alpha.shape[-1]
    lead = (*o.shape[:2], heads)
    for name, conv, unit in (("q", weights.q_conv, q), ("k", weights.k_conv, k)):
        pre = getattr(parts, name)
        _show(sites, f"{name}_pre", pre)
        _show(sites, f"{name}_conv", partial(conv_forward, pre, conv, batch=batch))
        _show(sites, f"{name}_unit", unit)
    _show(sites, "v_pre", parts.v)
    _show(sites, "v_conv", v)
    _show(sites, "z_alpha", parts.gates[..., :heads])
    _show(sites, "z_beta", parts.gates[..., heads : 2 * heads])
    _show(sites, "alpha", lambda: log_alpha.exp().view(lead))
    _show(sites, "beta", beta.view(lead))
    _show(sites, "qk", lambda: (q.float() * k.float()).sum(-1))
    if state is not None:
        _show(sites, "state", state)
    _show(sites, "o_raw", lambda: _times(o, mixer.o_multiplier.factor))
    _show(
        sites, "o_norm", lambda: _head_norm(_times(o, mixer.o_multiplier.factor), mixer.o_norm_gain(), mixer.norm_eps)
    )
    _show(sites, "gate", lambda: F.silu(parts.g))


def _head_norm(o: Tensor, gain: Tensor, eps: float) -> Tensor:
    from mupcheck.ops.kernels.norms import rms_norm

    return rms_norm(o.flatten(1, 2), gain, eps, o.dtype).view(o.shape)


def _mlp(block: Any, x: Tensor) -> Tensor:
    from mupcheck.ops.kernels.products import swiglu
    from mupcheck.ops.kernels.swiglu import swiglu_forward

    gate, up, down = block.gate_proj, block.up_proj, block.down_proj
    kept: list[Tensor] = []
    factors = [factor_of(linear) for linear in (gate, up, down)]
    out = swiglu(x, gate.weight, up.weight, down.weight, factors, kept)
    _show(block.sites, "mlp_hidden", lambda: swiglu_forward(kept[0]))
    _show(block.sites, "mlp_out", out)
    return out


def factor_of(linear: Linear) -> Tensor | None:
    """Return the product of a projection's multipliers, of its weight and of its output, [R]; None is 1."""
    factors = [m.factor for m in (linear.multiplier, linear.output) if m is not None and m.factor is not None]
    return torch.stack(factors).prod(0) if len(factors) > 1 else factors[0] if factors else None
