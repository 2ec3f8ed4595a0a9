"""The model's training loss from fused kernels, where nothing is watched: what `lm` and `gdn` say, in fewer passes.

Every projection of one input is one product, the residual sum goes with the norm behind it, and the readout with the
loss. Weights, roles and multipliers are those of the modules; a probe's hook anywhere and the modules compute instead.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mupcheck.model.layers import Linear, Site, Weight
from mupcheck.ops import fused


def fits(model: nn.Module, x: Tensor) -> bool:
    """Say whether fused kernels can compute the model's loss: where they run, and no site or weight is hooked."""
    return fused.enabled(x) and not any(
        module._forward_hooks or module._forward_pre_hooks
        for module in model.modules()
        if isinstance(module, Site | Weight)
    )


def loss(model: Any, tokens: Tensor) -> Tensor:
    """Return what `LanguageModel.loss` does, [R]; tokens [R, B, T + 1]."""
    from mupcheck.ops.kernels.cross_entropy import readout_loss

    x = _last_norm(model, tokens[..., :-1])
    targets = tokens[..., 1:].reshape(len(tokens), -1)
    tied = model.spec.tied
    end = model.embedding if tied else model.readout
    return readout_loss(
        x, end.weight, targets, factor=model.logits_multiplier.factor, multiplier=end.multiplier.factor, tied=tied
    )


def _last_norm(model: Any, tokens: Tensor) -> Tensor:
    """Return the final norm's output, [R, B * T, D] in the dtype of products."""
    from mupcheck.ops.kernels.norms import add_rms_norm, rms_norm

    eps, batch = model.spec.norm_eps, tokens.shape[1]
    x = model.embedding(tokens.flatten(1))
    dtype = fused.product_dtype(x)
    gains = [gain() for block in model.blocks for gain in (block.norm1_gain, block.norm2_gain)]
    gains.append(model.final_norm_gain())
    normed = rms_norm(x, gains[0], eps, dtype)
    for index, block in enumerate(model.blocks):
        x, normed = add_rms_norm(x, _mixer(block.mixer, normed, batch), gains[2 * index + 1], eps, dtype)
        x, normed = add_rms_norm(x, _mlp(block, normed), gains[2 * index + 2], eps, dtype)
    return normed


def _mixer(mixer: Any, x: Tensor, batch: int) -> Tensor:
    from mupcheck.ops.kernels.mixer import Weights, rule_inputs
    from mupcheck.ops.kernels.norms import gated_rms_norm
    from mupcheck.ops.kernels.products import projection

    projections = (mixer.q_proj, mixer.k_proj, mixer.v_proj, mixer.g_proj, mixer.a_proj, mixer.b_proj)
    convs = [conv.multiplier(conv.weight) for conv in (mixer.q_conv1d, mixer.k_conv1d, mixer.v_conv1d)]
    scalars = (mixer.A_log(), mixer.dt_bias())
    weights = Weights._make([*(projection.weight for projection in projections), *convs, *scalars])
    factors = [factor_of(projection) for projection in projections]
    inputs, g, joint = rule_inputs(x, weights, factors, batch=batch, heads=mixer.heads)
    o, _ = mixer.rule(*inputs, final_state=False)
    o = gated_rms_norm(
        o.reshape(len(x), x.shape[1], *o.shape[2:]), g, mixer.o_norm_gain(), mixer.norm_eps,
        factor=mixer.o_multiplier.factor, gradient=joint.of_g,
    )  # fmt: skip
    return projection(o, mixer.o_proj.weight, factor_of(mixer.o_proj))


def _mlp(block: Any, x: Tensor) -> Tensor:
    from mupcheck.ops.kernels.products import swiglu

    gate, up, down = block.gate_proj, block.up_proj, block.down_proj
    return swiglu(x, gate.weight, up.weight, down.weight, [factor_of(linear) for linear in (gate, up, down)])


def factor_of(linear: Linear) -> Tensor | None:
    """Return the product of a projection's multipliers, of its weight and of its output, [R]; None is 1."""
    factors = [m.factor for m in (linear.multiplier, linear.output) if m is not None and m.factor is not None]
    return torch.stack(factors).prod(0) if len(factors) > 1 else factors[0] if factors else None
