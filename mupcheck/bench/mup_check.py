"""The coordinate check of microsoft/mup (1.0.0) of a plain torch Gated DeltaNet model, as its users write it.

nn.Linear, nn.Conv1d, nn.RMSNorm, the recurrence as a loop over tokens (16 of them, so that it costs less than a chunked
form would), MuReadout, MuAdamW, one seed after another. Its `get_coord_data` records l1 of every module's output.
"""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKENS, VOCAB, HEADS, LAYERS, TAPS, EPS = 16, 256, 4, 2, 4, 1e-6


class Mixer(nn.Module):
    """q, k, v through projection, convolution and SiLU; the recurrence; an output gate."""

    def __init__(self, width: int, k_dim: int, v_dim: int) -> None:
        super().__init__()
        self.shape = k_dim, v_dim
        readout = import_module("mup").MuReadout  # which mup wants wherever the fan-out is finite
        for name, dim in (("q", k_dim), ("k", k_dim), ("v", v_dim)):
            size = HEADS * dim
            self.add_module(f"{name}_proj", nn.Linear(width, size, bias=False))
            conv = nn.Conv1d(size, size, TAPS, groups=size, padding=TAPS - 1, bias=False)
            self.add_module(f"{name}_conv", conv)
        self.g_proj = nn.Linear(width, HEADS * v_dim, bias=False)
        self.a_proj, self.b_proj = (readout(width, HEADS, bias=False) for _ in range(2))
        self.A_log = nn.Parameter(torch.log(torch.empty(HEADS).uniform_(1e-4, 16)))
        self.dt_bias = nn.Parameter(torch.zeros(HEADS))
        self.norm = nn.RMSNorm(v_dim, eps=EPS)
        self.o_proj = nn.Linear(HEADS * v_dim, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens: x [B, T, D] to the same shape."""
        batch, time, _ = x.shape
        k_dim, v_dim = self.shape

        def branch(name: str, dim: int) -> Tensor:
            proj, conv = (self.get_submodule(f"{name}_{part}") for part in ("proj", "conv"))
            y = conv(proj(x).transpose(1, 2))[..., :time].transpose(1, 2)
            return F.silu(y).reshape(batch, time, HEADS, dim)

        q, k = (F.normalize(branch(name, k_dim), dim=-1) for name in ("q", "k"))
        v = branch("v", v_dim)
        alpha = torch.exp(-self.A_log.exp() * F.softplus(self.a_proj(x) + self.dt_bias))
        beta = torch.sigmoid(self.b_proj(x))
        state, outputs = x.new_zeros(batch, HEADS, k_dim, v_dim), []
        for t in range(time):
            state = alpha[:, t, :, None, None] * state
            read = torch.einsum("bhk,bhkv->bhv", k[:, t], state)
            written = beta[:, t, :, None] * (v[:, t] - read)
            state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], written)
            outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
        gate = F.silu(self.g_proj(x)).view(batch, time, HEADS, v_dim)
        mixed: Tensor = self.o_proj((self.norm(torch.stack(outputs, 1)) * gate).flatten(2))
        return mixed


class Block(nn.Module):
    """x += mixer(norm(x)); x += SwiGLU(norm(x))."""

    def __init__(self, width: int, k_dim: int, v_dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=EPS), nn.RMSNorm(width, eps=EPS)
        self.mixer = Mixer(width, k_dim, v_dim)
        self.gate_proj, self.up_proj = (nn.Linear(width, 4 * width, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map the residual stream [B, T, D] to the next one."""
        x = x + self.mixer(self.norm1(x))
        hidden = self.norm2(x)
        y: Tensor = x + self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return y


class Model(nn.Module):
    """Tokens [B, T] to logits [B * T, vocab], with the heads of `mupcheck coord`: K = 3/4 width / 4, V = 2 K."""

    def __init__(self, width: int) -> None:
        super().__init__()
        k_dim = 3 * width // (4 * HEADS)
        self.embedding = nn.Embedding(VOCAB, width)
        self.blocks = nn.ModuleList(Block(width, k_dim, 2 * k_dim) for _ in range(LAYERS))
        self.final_norm = nn.RMSNorm(width, eps=EPS)
        self.readout = import_module("mup").MuReadout(width, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.readout(self.final_norm(x)).flatten(0, 1)
        return logits


def base_shapes(widths: Sequence[int]) -> Any:
    """Return what mup calls base shapes, which its users make once and keep in a file."""
    mup = import_module("mup")
    base, delta = Model(min(widths)), Model(2 * min(widths))
    return mup.make_base_shapes(mup.get_shapes(base), mup.get_shapes(delta))


def check(widths: Sequence[int], shapes: Any, *, seeds: int, steps: int, on_gpu: bool) -> int:
    """Run mup's coordinate check with its defaults, which record l1 of outputs; return how many numbers it recorded.

    Raises:
        ImportError: if mup, or pandas or yaml that it needs, is missing.
    """
    mup, coord_check = import_module("mup"), import_module("mup.coord_check")

    def make(width: int) -> nn.Module:
        model = Model(width)
        mup.set_base_shapes(model, shapes)
        return model

    tokens = torch.randint(0, VOCAB, (1, TOKENS + 1), generator=torch.Generator().manual_seed(0))
    batch = [(tokens[:, :-1], tokens[:, 1:].flatten())]
    frame = coord_check.get_coord_data(
        {width: partial(make, width) for width in widths}, batch, optimizer="adamw", lr=2.0**-12, mup=True,
        nsteps=steps, nseeds=seeds, cuda=on_gpu, show_progress=False,
    )  # fmt: skip
    return len(frame)
