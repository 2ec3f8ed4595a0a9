"""The model's training loss from fused kernels: what `lm` and `gdn` say, in fewer passes over memory.

Every projection of one input is one product, the residual sum goes with the norm behind it, and the readout with the
loss. Weights, roles and multipliers are those of the modules. A site that is watched is shown its value, without a
gradient and computed again where no kernel leaves it; of a site whose size alone is asked for, kernels sum the squares
instead. Where a weight is hooked, as by a full probe, modules compute.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupcheck.model.layers import Linear, Site, SizeHook, Weight
from mupcheck.ops import fused

# Sites whose sizes kernels of `mupcheck.ops.kernels.sizes` make from what a mixer has at hand, in their order there.
INSIDE = (
    *("q_pre", "k_pre", "q_conv", "k_conv", "q_unit", "k_unit", "qk"),
    *("z_alpha", "z_beta", "alpha", "beta", "o_raw", "o_norm", "gate"),
)


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
        _show_together(
            [(model.sites, "logits", lambda: _logits(x, end.weight.mT if tied else end.weight, **factors))],
        )
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


def _rooms(sites: nn.ModuleDict, *names: str) -> list[Callable[[int, int], Tensor]] | None:
    """Return where sums of squares go, if of all these sites sizes alone are asked for."""
    hooks = [getattr(sites[name], "size_hook", None) for name in names]
    rooms: list[Callable[[int, int], Tensor]] = [hook.room for hook in hooks if isinstance(hook, SizeHook)]
    return rooms if len(rooms) == len(names) else None


def _show_together(shown: Sequence[tuple[nn.ModuleDict, str, Tensor | Callable[[], Tensor]]]) -> None:
    """Show some values [R, N, C], with one launch for all of them where their sizes alone are asked for."""
    rooms = [_rooms(sites, name) for sites, name, _ in shown]
    if not all(rooms):
        for each in shown:
            _show(*each)
        return
    from mupcheck.ops.kernels.sizes import square_sums

    with torch.no_grad():
        values = [value if isinstance(value, Tensor) else value() for _, _, value in shown]
        square_sums(values, [room for some in rooms for room in some or ()])


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
    _show_together([(model.sites, "embedding", x)])
    gains = [gain() for block in model.blocks for gain in (block.norm1_gain, block.norm2_gain)]
    gains.append(model.final_norm_gain())
    normed = rms_norm(x, gains[0], eps, dtype)
    for index, block in enumerate(model.blocks):
        x, normed = add_rms_norm(x, _mixer(block, normed, batch), gains[2 * index + 1], eps, dtype)
        x, normed = _mlp(block, x, normed, gains[2 * index + 2], dtype)
    _show_together([(model.sites, "final_norm", normed)])
    return normed


def _mixer(block: Any, x: Tensor, batch: int) -> Tensor:
    from mupcheck.ops.kernels.mixer import Weights, rule_inputs
    from mupcheck.ops.kernels.norms import gated_rms_norm
    from mupcheck.ops.kernels.products import projection

    mixer = block.mixer
    sites, gain = mixer.sites, mixer.o_norm_gain()
    projections = (mixer.q_proj, mixer.k_proj, mixer.v_proj, mixer.g_proj, mixer.a_proj, mixer.b_proj)
    convs = [conv.multiplier(conv.weight) for conv in (mixer.q_conv1d, mixer.k_conv1d, mixer.v_conv1d)]
    scalars = (mixer.A_log(), mixer.dt_bias())
    weights = Weights._make([*(projection.weight for projection in projections), *convs, *scalars])
    factors = [factor_of(projection) for projection in projections]
    inputs, g, product = rule_inputs(x, weights, factors, batch=batch, heads=mixer.heads)
    o, state = mixer.rule(*inputs, final_state=sites["state"].watched)
    o = o.reshape(*x.shape[:2], *o.shape[2:])
    parts = product.parts()
    if any(isinstance(site, Site) and site.watched for site in sites.values()):
        _show_mixer(mixer, parts, weights, inputs, o)
    product.value = None  # what keeps it for the backward pass lets go of it there
    settings = {"factor": mixer.o_multiplier.factor, "gradient": product.of_g}
    out = projection(
        gated_rms_norm(o, g, gain, mixer.norm_eps, **settings), mixer.o_proj.weight, factor_of(mixer.o_proj)
    )
    lead = (len(x), -1, inputs[2].shape[-1])
    shown: list[tuple[nn.ModuleDict, str, Tensor | Callable[[], Tensor]]] = [(block.sites, "norm1", x)]
    shown += [(sites, "v_pre", parts.v), (sites, "v_conv", inputs[2].reshape(lead)), (sites, "mixer_out", out)]
    _show_together(shown if state is None else [*shown, (sites, "state", state.reshape(lead))])
    return out


def _show_mixer(mixer: Any, parts: Any, weights: Any, inputs: tuple[Tensor, ...], o: Tensor) -> None:
    """Show what is inside a mixer, from the parts of its joint product and what the delta rule takes and gives."""
    from mupcheck.ops.kernels.conv import conv_forward

    sites, gain, eps, factor = mixer.sites, mixer.o_norm_gain(), mixer.norm_eps, mixer.o_multiplier.factor
    q, k, _, log_alpha, beta = inputs
    batch = len(q) // len(o)
    rooms = _rooms(sites, *INSIDE)
    if rooms is not None:
        from mupcheck.ops.kernels import sizes

        with torch.no_grad():
            convs, conv_weights = (parts.q, parts.k), (weights.q_conv, weights.k_conv)
            sizes.conv_sums(convs, conv_weights, rooms[:2], rooms[2:4], batch=batch)
            sizes.dot_sums(q, k, *rooms[4:7], replicas=len(o))
            sizes.gate_sums(parts.gates, log_alpha, beta, rooms[7:11])
            sizes.output_sums(o, parts.g, gain, eps, rooms[11:], factor=factor)
        return
    heads = log_alpha.shape[-1]
    lead = (*o.shape[:2], heads)
    for name, conv, unit in (("q", weights.q_conv, q), ("k", weights.k_conv, k)):
        pre = getattr(parts, name)
        _show(sites, f"{name}_pre", pre)
        _show(sites, f"{name}_conv", partial(conv_forward, pre, conv, batch=batch))
        _show(sites, f"{name}_unit", unit)
    _show(sites, "z_alpha", parts.gates[..., :heads])
    _show(sites, "z_beta", parts.gates[..., heads : 2 * heads])
    _show(sites, "alpha", lambda: log_alpha.exp().view(lead))
    _show(sites, "beta", beta.view(lead))
    _show(sites, "qk", lambda: (q.float() * k.float()).sum(-1))
    _show(sites, "o_raw", lambda: _times(o, factor))
    _show(sites, "o_norm", lambda: _head_norm(_times(o, factor), gain, eps))
    _show(sites, "gate", lambda: F.silu(parts.g))


def _head_norm(o: Tensor, gain: Tensor, eps: float) -> Tensor:
    from mupcheck.ops.kernels.norms import rms_norm

    return rms_norm(o.flatten(1, 2), gain, eps, o.dtype).view(o.shape)


def _mlp(block: Any, x: Tensor, normed: Tensor, gain: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the residual stream behind a block's MLP, and its norm in `dtype` with the gain of what comes next."""
    from mupcheck.ops.kernels.norms import add_rms_norm
    from mupcheck.ops.kernels.products import swiglu
    from mupcheck.ops.kernels.swiglu import swiglu_forward

    gate, up, down = block.gate_proj, block.up_proj, block.down_proj
    kept: list[Tensor] = []
    factors = [factor_of(linear) for linear in (gate, up, down)]
    rooms = _rooms(block.sites, "mlp_hidden")
    out = swiglu(normed, gate.weight, up.weight, down.weight, factors, kept, room=rooms[0] if rooms else None)
    if not rooms:
        _show(block.sites, "mlp_hidden", lambda: swiglu_forward(kept[0]))
    stream, after = add_rms_norm(x, out, gain, block.norm_eps, dtype)
    _show_together([(block.sites, "norm2", normed), (block.sites, "mlp_out", out), (block.sites, "residual", stream)])
    return stream, after


def factor_of(linear: Linear) -> Tensor | None:
    """Return the product of a projection's multipliers, of its weight and of its output, [R]; None is 1."""
    factors = [m.factor for m in (linear.multiplier, linear.output) if m is not None and m.factor is not None]
    return torch.stack(factors).prod(0) if len(factors) > 1 else factors[0] if factors else None
