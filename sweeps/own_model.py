"""A small transformer in plain torch with muP by hand: mupcheck audit sweeps/own_model.py

`mupcheck audit` builds it at each width and judges what every parameter's update does. To see it fail, set MUP = False.
"""

import torch
import torch.nn.functional as F
from torch import nn

MUP, BASE, VOCAB, HEAD = True, 32, 64, 16


class Block(nn.Module):
    """Attention and an MLP, on a residual stream."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        """Map [B, T, D] to the same."""
        y = self.norm1(x)
        q, k, v = (of(y).unflatten(-1, (-1, HEAD)).transpose(1, 2) for of in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Model(nn.Module):
    """Tokens to logits."""

    def __init__(self, width):
        super().__init__()
        self.m = width / BASE if MUP else 1.0
        self.embedding = nn.Embedding(VOCAB, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(2))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, VOCAB, bias=False)
        if MUP:
            nn.init.normal_(self.head.weight, std=BASE**-0.5)

    def forward(self, tokens):
        """Map [B, T] to [B, T, VOCAB]."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)) / self.m  # muP: logits over m


def build(width):
    """Return the model of a width."""
    return Model(width)


def optimizer(model, lr=2**-10):
    """Return AdamW, the lr of hidden matrices over m."""
    hidden = [p for p in model.layers.parameters() if p.ndim == 2]  # fan-in std is torch's default for these
    others = [p for p in model.parameters() if all(p is not h for h in hidden)]
    groups = [{"params": hidden, "lr": lr / model.m}, {"params": others, "lr": lr}]
    return torch.optim.AdamW(groups, eps=1e-12, weight_decay=0)
