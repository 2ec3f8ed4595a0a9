"""Models as users write them, in plain torch, with muP by hand where it is asked for."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, head=16, kv=None):
        super().__init__()
        self.head = head
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, out or width, bias=False) for out in (0, kv, kv, 0))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        y = self.norm1(x)
        q, k, v = (of(y).unflatten(-1, (-1, self.head)).transpose(1, 2) for of in (self.q, self.k, self.v))
        x = x + self.o(
            F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
        )
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """`mup`: logits over m, and a readout of constant std; hidden weights have fan-in init by default."""

    def __init__(self, width, *, mup=False, layers=2, vocab=64, tied=False, base=64, kv=None):
        super().__init__()
        self.m = width / base if mup else 1.0
        self.embedding = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList(Block(width, kv=kv) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        if mup:
            nn.init.normal_(self.head.weight, std=0.125)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)) / self.m


def split(model):
    """Return hidden matrices and all others."""
    hidden = [p for p in model.layers.parameters() if p.dim() == 2]
    ids = {id(p) for p in hidden}
    return hidden, [p for p in model.parameters() if id(p) not in ids]


SETTINGS = {"eps": 1e-12, "weight_decay": 0.0, "betas": (0.9, 0.95)}


def adamw(model, lr=2**-10, **settings):
    """Return AdamW, hidden lr over m."""
    hidden, rest = split(model)
    groups = [{"params": hidden, "lr": lr / model.m}, {"params": rest, "lr": lr}]
    return torch.optim.AdamW(groups, **SETTINGS | settings)


def tokens(seed=0, vocab=64, shape=(1, 17)):
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


def loss_of(model, batch):
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, -2), batch[:, 1:].flatten())


def train(model, optimizer, batch, steps, recorder=None, loss=loss_of):
    """Return the losses of so many steps on one batch."""
    losses = []
    for _ in range(steps):
        if recorder is None:
            losses.append(_step(model, optimizer, batch, loss))
            continue
        with recorder.step() as step:
            losses.append(_step(model, optimizer, batch, loss))
            step.loss = losses[-1]
    return losses


def _step(model, optimizer, batch, loss):
    value = loss(model, batch)
    value.backward()
    optimizer.step()
    optimizer.zero_grad()
    return value.detach()
