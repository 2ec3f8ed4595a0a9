"""Rows of one weight that want different lrs train as weights of their own do."""

import pytest
import torch
from small_results import refusal
from torch import nn

import mupcheck

D0, D, VOCAB, GATES = 16, 32, 20, 4
OWN_LR = """
name = "gates-slower"
base = "mup"
[[rule]]
role = "gate"
lr = "-1/2"
"""


class Block(nn.Module):
    def __init__(self, d, fused, bias=False):
        super().__init__()
        self.fused = fused
        if fused:
            self.joint = nn.Linear(d, d + GATES, bias=bias)
        else:
            self.up, self.gates = nn.Linear(d, d, bias=False), nn.Linear(d, GATES, bias=False)

    def forward(self, x):
        up, gates = self.joint(x).split((x.shape[-1], GATES), -1) if self.fused else (self.up(x), self.gates(x))
        return x + torch.tanh(up) * gates.sigmoid().mean(-1, keepdim=True)


class Net(nn.Module):
    def __init__(self, d, fused, bias=False):
        super().__init__()
        self.tokens, self.blocks = nn.Embedding(VOCAB, d), nn.ModuleList(Block(d, fused, bias) for _ in range(2))
        self.head = nn.Linear(d, VOCAB, bias=False)

    def forward(self, tokens):
        x = self.tokens(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def stated(model):
    return {"*.joint.*": [("up", model.tokens.embedding_dim), ("gates", GATES)]} if model.blocks[0].fused else {}


def two(d, bias=False):
    """Return the same model with fused weights and with weights of their own."""
    torch.manual_seed(d)
    apart, fused = Net(d, False).double(), Net(d, True, bias).double()
    with torch.no_grad():
        fused.tokens.weight.copy_(apart.tokens.weight)
        fused.head.weight.copy_(apart.head.weight)
        for one, other in zip(fused.blocks, apart.blocks, strict=True):
            one.joint.weight.copy_(torch.cat([other.up.weight, other.gates.weight]))
    return fused, apart


def losses(model, optimizer, steps=4):
    tokens, found = torch.arange(VOCAB).view(2, -1), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        found.append(loss.item())
        optimizer.step()
    return found


def made(groups, optimizer):
    return torch.optim.AdamW(groups) if optimizer == "adamw" else torch.optim.SGD(groups, momentum=0.9, nesterov=True)


@pytest.fixture
def slower(tmp_path):
    (tmp_path / "slower.toml").write_text(OWN_LR)
    return str(tmp_path / "slower.toml")


@pytest.mark.parametrize(("optimizer", "hook"), [("sgd", "their gradient times 0.707107"), ("adamw", "times 1.41421")])
def test_rows_train_as_weights_of_their_own(optimizer, hook, slower):
    # gates of a fixed number: lr m^-1/2 under SGD in the paper's table; under AdamW no shipped one has another lr
    table = "gdn-mup" if optimizer == "sgd" else slower
    found, given = [], {"table": table, "optimizer": optimizer, "lr": 2**-4, "weight_decay": 0.1, "eps": 1e-12}
    for model, base in zip(two(D), two(D0), strict=True):
        groups = mupcheck.parametrize(model, base=base, roles=stated, **given)
        found.append(losses(model, made(groups, optimizer)))
        assert len(groups.hooked) == (2 if model.blocks[0].fused else 0)
        assert all(hook in each for each in groups.hooked)
    assert found[0][0] != pytest.approx(found[0][-1], abs=0.01)
    # float64; the smallest eps is for all rows, 1e-12 beside steps of 1
    assert found[0] == pytest.approx(found[1], rel=1e-7)
    # a control: without its hooks the fused one trains otherwise
    (model, _), (base, _) = two(D), two(D0)
    groups = mupcheck.parametrize(model, base=base, roles=stated, **given)
    groups.unhook()
    assert losses(model, made(groups, optimizer)) != pytest.approx(found[1], rel=1e-5)


def test_rows_that_want_the_same_are_one():
    (model, _), (base, _) = two(D), two(D0)
    groups = mupcheck.parametrize(model, base=base, roles=stated, table="mup", optimizer="adamw", lr=0.1)
    assert groups.hooked == []


def test_what_rows_cannot_have_is_refused(slower):
    (model, _), (base, _) = two(D), two(D0)
    given = {"base": base, "roles": stated, "weight_decay": 0.1, "lr": 0.1}
    coupled = given | {"table": "gdn-mup", "optimizer": "sgd", "decay_mode": "coupled"}
    assert "use decay_mode='independent'" in refusal(mupcheck.parametrize, model, **coupled)
    (model, _), (base, _) = two(D, bias=True), two(D0, bias=True)
    said = refusal(mupcheck.parametrize, model, **given | {"base": base, "table": slower, "optimizer": "adamw"})
    assert said.startswith(
        "blocks.0.joint.weight: its rows want different lrs, which AdamW gives to what a Linear without"
    )
