"""Models and optimizers as users give them to an audit, and the audit of them."""

import torch
import torch.nn.functional as F
from own_models import SETTINGS, Transformer, split
from plain_gdn import PlainGDN
from torch import nn

import mupcheck
from mupcheck.audit.run import Plan, audit
from mupcheck.audit.user_file import model_of
from mupcheck.spec.model import ModelSpec

WIDTHS, BASE, LR = (32, 64, 128), 32, 2**-10


def audited(tmp_path, build, optimizer=None, widths=WIDTHS, seeds=4, first=0, top_up=False, name="mine", **given):
    """Return the judgement on an audit of so many seeds from the first on."""
    user = model_of({"build": build, "optimizer": optimizer, **given}, name="mine")
    plan = Plan(user, tuple(widths), tuple(range(first, first + seeds)), out=tmp_path, name=name, top_up=top_up)
    audit(plan)
    (judgement,) = mupcheck.judge(mupcheck.load_results(plan.folder))
    return judgement


def said(judgement):
    return "\n".join([judgement.reason, *map(str, judgement.causes), *map(str, judgement.findings)])


def transformer(**options):
    def build(width):
        model = Transformer(width, **{"mup": True, "base": BASE, **options})
        if options.get("tied"):
            nn.init.normal_(model.head.weight, std=0.5)
        return model

    return build


def gdn(mode="heads", **options):
    """Return our model in plain torch, head sizes growing or heads."""

    def build(width):
        model = PlainGDN(ModelSpec(width=width, base_width=BASE, mode=mode, vocab_size=64, **options))
        if options.get("tied"):
            nn.init.normal_(model.embed.weight, std=0.25)  # or the softmax of the base width is certain
        return model

    return build


class Mix(nn.Module):
    """A block of what else there is: experts in one 3-D weight, a router, a low-rank gate, fused rows."""

    def __init__(self, width, experts=4, rank=8, gates=4):
        super().__init__()
        self.norm, self.split = nn.RMSNorm(width), (width, gates)
        self.in_proj = nn.Linear(width, width + gates, bias=False)
        self.low_a, self.low_b = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.Module()
        self.experts.up_proj = nn.Parameter(torch.randn(experts, width, width) * width**-0.5)
        self.experts.down_proj = nn.Parameter(torch.randn(experts, width, width) * width**-0.5)
        self.conv = nn.Conv1d(width, width, 3, groups=width, padding=2)

    def forward(self, x):
        y = self.norm(x)
        y = F.silu(self.conv(y.mT)[..., : x.shape[1]].mT)
        up, gates = self.in_proj(y).split(self.split, -1)
        y = torch.tanh(up) * gates.sigmoid().mean(-1, keepdim=True) * self.low_b(self.low_a(y)).sigmoid()
        shares = self.router(y).softmax(-1).movedim(-1, 0)[..., None]
        flat = y.flatten(0, 1).expand(len(shares), -1, -1)
        hidden = F.gelu(torch.bmm(flat, self.experts.up_proj.mT))
        return x + (shares.flatten(1, 2) * torch.bmm(hidden, self.experts.down_proj.mT)).sum(0).view_as(x)


class Mixed(nn.Module):
    def __init__(self, width, vocab=64, layers=2):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocab, width), nn.Embedding(32, width)
        self.layers = nn.ModuleList(Mix(width) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocab, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def rows_of_mixed(model):
    width = model.embedding.embedding_dim
    return {"layers.*.in_proj.weight": [("up", width), ("gates", 4, "gate")]}


def under(build, table="gdn-mup", opt="adamw", lr=LR, settings=None, edit=None, roles=None, **options):
    """Return an optimizer that parametrizes the model, whose groups `edit` may change."""

    def optimizer(model):
        torch.manual_seed(0)
        base = build(BASE)
        given = {"lr": lr, "roles": roles, "eps": 1e-12} | options
        groups = mupcheck.parametrize(model, base=base, table=table, optimizer=opt, **given)
        m = width_of(model) / BASE
        if edit is not None:
            groups = edit(groups, model, m)
        if opt == "sgd":
            return torch.optim.SGD(groups, **{"momentum": 0.0} | (settings or {}))
        return torch.optim.AdamW(groups, **{"betas": (0.9, 0.95)} | (settings or {}))

    return optimizer


def width_of(model):
    return next(each for each in model.modules() if isinstance(each, nn.Embedding)).embedding_dim


def times(power, *ends):
    """Return an edit: parameters whose names end so get lr x m^power."""

    def edit(groups, model, m):
        ids = {id(p) for name, p in model.named_parameters() if name.endswith(ends)}
        assert ids
        found = []
        for group in groups:
            moved = [p for p in group["params"] if id(p) in ids]
            found.append({**group, "params": [p for p in group["params"] if id(p) not in ids]})
            if moved:
                found.append({**group, "params": moved, "lr": group["lr"] * m**power})
        return [group for group in found if group["params"]]

    return edit


def hidden_and_rest(hidden=-1.0, rest=0.0, opt="adamw", lr=LR, **settings):
    """Return an optimizer by hand: exponents of hidden matrices and of all others."""

    def optimizer(model):
        groups = zip(split(model), (hidden, rest), strict=True)
        groups = [{"params": of, "lr": lr * model.m**power} for of, power in groups]
        return torch.optim.SGD(groups, **settings) if opt == "sgd" else torch.optim.AdamW(groups, **SETTINGS | settings)

    return optimizer
