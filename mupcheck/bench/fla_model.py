"""The model of a step written with FLA's own layers, as its users do, with the weights of one of ours.

FLA's GatedDeltaNet layer has the same mixer as ours: q, k, v through one fused short convolution with SiLU, q and k
normalised, the decay and write gates computed in its kernels, RMSNorm with an output gate fused.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from mupcheck.model.lm import LanguageModel
from mupcheck.spec.model import ModelSpec


def fla_model(spec: ModelSpec, device: str) -> nn.Module:
    """Return the model of a spec: tokens [B, T] to logits [B, T, vocab].

    Raises:
        ImportError: if FLA, or transformers that its layers need, is missing.
        ValueError: if the spec has what FLA's layer does not.
    """
    layer, modules = import_module("fla.layers").GatedDeltaNet, import_module("fla.modules")

    heads, k_dim, v_dim = spec.heads
    if v_dim % k_dim or spec.tied:
        raise ValueError(f"FLA's layer has V a multiple of K and no tied readout; K={k_dim}, V={v_dim}")
    width, eps = spec.width, spec.norm_eps

    class Block(nn.Module):
        def __init__(self, index: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = modules.RMSNorm(width, eps=eps), modules.RMSNorm(width, eps=eps)
            self.mixer = layer(
                hidden_size=width, expand_v=v_dim // k_dim, head_dim=k_dim, num_heads=heads,
                conv_size=spec.conv_size, layer_idx=index, norm_eps=eps,
            )  # fmt: skip
            self.mlp = modules.GatedMLP(width, intermediate_size=spec.mlp_ratio * width)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.mixer(self.norm1(x))[0]
            y: Tensor = x + self.mlp(self.norm2(x))
            return y

    layers = [Block(i) for i in range(spec.n_layers)]
    readout = nn.Linear(width, spec.vocab_size, bias=False)
    embedding, norm = nn.Embedding(spec.vocab_size, width), modules.RMSNorm(width, eps=eps)
    return nn.Sequential(embedding, *layers, norm, readout).to(device)


@torch.no_grad()
def copy_weights(model: nn.Module, ours: LanguageModel) -> None:
    """Give an FLA model the weights of replica 0 of ours, whose multipliers must all be 1.

    Raises:
        ValueError: if a weight has no place or another shape there.
    """
    taken = dict(model.named_parameters())
    last = len(ours.blocks)
    given = {
        "0.weight": ours.embedding.weight[0],
        f"{last + 1}.weight": ours.final_norm_gain.weight[0],
        f"{last + 2}.weight": ours.readout.weight[0].T,
    }
    block: Any
    for i, block in enumerate(ours.blocks, start=1):
        mixer = block.mixer
        given |= {f"{i}.{name}.weight": getattr(block, f"{name}_gain").weight[0] for name in ("norm1", "norm2")}
        for name in ("gate_proj", "up_proj", "down_proj"):
            given[f"{i}.mlp.{name}.weight"] = getattr(block, name).weight[0].T
        for name in ("q_proj", "k_proj", "v_proj", "g_proj", "a_proj", "b_proj", "o_proj"):
            given[f"{i}.mixer.{name}.weight"] = getattr(mixer, name).weight[0].T
        for name in ("q_conv1d", "k_conv1d", "v_conv1d"):
            given[f"{i}.mixer.{name}.weight"] = getattr(mixer, name).weight[0].T[:, None]
        given |= {f"{i}.mixer.{name}": getattr(mixer, name).weight[0] for name in ("A_log", "dt_bias")}
        given[f"{i}.mixer.o_norm.weight"] = mixer.o_norm_gain.weight[0]
    if taken.keys() != given.keys():
        raise ValueError(f"weights without a place: {', '.join(sorted(taken.keys() ^ given.keys()))[:200]}")
    for name, parameter in taken.items():
        if parameter.shape != given[name].shape:
            raise ValueError(f"{name} is {list(parameter.shape)} there and {list(given[name].shape)} here")
        parameter.copy_(given[name])
