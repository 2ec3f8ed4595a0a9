"""Our model as a user would write it in plain torch, and our own initial values put into it."""

import torch
import torch.nn.functional as F
from torch import nn

from mupcheck.model.build import named_weights
from mupcheck.ops import gated_delta_rule


class Mixer(nn.Module):
    def __init__(self, width, heads, k_dim, v_dim, norm_eps):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, heads * k_dim, bias=False)
        self.k_proj = nn.Linear(width, heads * k_dim, bias=False)
        self.v_proj = nn.Linear(width, heads * v_dim, bias=False)
        self.g_proj = nn.Linear(width, heads * v_dim, bias=False)
        self.a_proj = nn.Linear(width, heads, bias=False)
        self.b_proj = nn.Linear(width, heads, bias=False)
        for name, channels in (("q", heads * k_dim), ("k", heads * k_dim), ("v", heads * v_dim)):
            setattr(self, f"{name}_conv1d", nn.Conv1d(channels, channels, 4, groups=channels, padding=3, bias=False))
        self.A_log = nn.Parameter(torch.zeros(heads))
        self.dt_bias = nn.Parameter(torch.zeros(heads))
        self.o_norm = nn.RMSNorm(v_dim, eps=norm_eps)
        self.o_proj = nn.Linear(heads * v_dim, width, bias=False)

    def forward(self, x):
        batch, time, _ = x.shape

        def branch(name):
            y = getattr(self, f"{name}_proj")(x)
            y = F.silu(getattr(self, f"{name}_conv1d")(y.mT)[..., :time].mT)
            return y.reshape(batch, time, self.heads, -1)

        q, k = (y * (y.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for y in (branch("q"), branch("k")))
        log_alpha = -self.A_log.exp() * F.softplus(self.a_proj(x) + self.dt_bias)
        o, _ = gated_delta_rule(q, k, branch("v"), log_alpha, self.b_proj(x).sigmoid())
        return self.o_proj(self.o_norm(o).flatten(2) * F.silu(self.g_proj(x)))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate_proj = nn.Linear(width, 4 * width, bias=False)
        self.up_proj = nn.Linear(width, 4 * width, bias=False)
        self.down_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, width, heads, norm_eps):
        super().__init__()
        self.norm1, self.norm2 = (nn.RMSNorm(width, eps=norm_eps) for _ in range(2))
        self.mixer, self.mlp = Mixer(width, *heads, norm_eps), Mlp(width)

    def forward(self, x):
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PlainGDN(nn.Module):
    """The model of a ModelSpec; a forward pass maps tokens [B, T] to logits [B, T, vocab]."""

    def __init__(self, spec):
        super().__init__()
        self.embed = nn.Embedding(spec.vocab_size, spec.width)
        self.layers = nn.ModuleList(Block(spec.width, spec.heads, spec.norm_eps) for _ in range(spec.n_layers))
        self.final_norm = nn.RMSNorm(spec.width, eps=spec.norm_eps)
        self.lm_head = nn.Linear(spec.width, spec.vocab_size, bias=False)
        if spec.tied:
            self.lm_head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.final_norm(x))


ELSEWHERE = {
    "embedding": "embed.weight",
    "readout": "lm_head.weight",
    "final_norm_gain": "final_norm.weight",
    "norm1_gain": "norm1.weight",
    "norm2_gain": "norm2.weight",
    "o_norm_gain": "mixer.o_norm.weight",
    "A_log": "mixer.A_log",
    "dt_bias": "mixer.dt_bias",
    **{name: f"mlp.{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")},
}


def plain_name(site, layer):
    """Return what a weight of ours is called in PlainGDN."""
    inner = ELSEWHERE.get(site, f"mixer.{site}.weight")
    return f"layers.{layer}.{inner}" if layer >= 0 else inner


@torch.no_grad()
def plain_copy(ours, spec):
    """Return PlainGDN with the values of one of our models, replica 0."""
    plain = PlainGDN(spec).to(ours.embedding.weight.dtype)
    named = dict(plain.named_parameters())
    for site, layer, weight in named_weights(ours):
        values = weight.weight[0]
        if site.endswith("conv1d"):
            values = values.T[:, None]
        elif values.dim() == 2 and site != "embedding":
            values = values.T
        named[plain_name(site, layer)].copy_(values)
    return plain


def losses_of_plain(model, optimizer, tokens, steps):
    """Return the losses of some steps on one batch."""
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        found.append(loss.item())
        optimizer.step()
    return found
