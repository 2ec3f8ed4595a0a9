"""Rows of a fused weight are measured as weights of their own are."""

import pytest
import torch
import torch.nn.functional as F
from own_models import loss_of, tokens, train
from torch import nn

from mupcheck.recording.recorder import Recorder

D, GATES, VOCAB = 24, 4, 20


class Linears(nn.Module):
    """Two products of one input, fused in one of several ways, then a convolution over both."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        if how == "apart":
            self.up, self.gates = nn.Linear(D, D, bias=False), nn.Linear(D, GATES, bias=False)
            self.conv_up, self.conv_gates = (nn.Conv1d(n, n, 3, groups=n, padding=2, bias=False) for n in (D, GATES))
        else:
            self.joint = nn.Linear(D, D + GATES, bias=False)
            self.conv = nn.Conv1d(D + GATES, D + GATES, 3, groups=D + GATES, padding=2, bias=False)

    def forward(self, x):
        time = x.shape[1]
        if self.how == "apart":
            up, gates = (conv(of(x).mT)[..., :time].mT for of, conv in (
                (self.up, self.conv_up), (self.gates, self.conv_gates)
            ))  # fmt: skip
        else:
            w = self.joint.weight
            joint = {
                "linear": lambda: self.joint(x),
                "matmul": lambda: x @ w.T,
                "slices": lambda: torch.cat([F.linear(x, w[:D]), x @ w[D:].T], -1),
            }[self.how]()
            up, gates = self.conv(joint.mT)[..., :time].mT.split((D, GATES), -1)
        return x + torch.tanh(up) * gates.sigmoid().mean(-1, keepdim=True)


class Net(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.tokens, self.layers = nn.Embedding(VOCAB, D), nn.ModuleList(Linears(how) for _ in range(2))
        self.head = nn.Linear(D, VOCAB, bias=False)

    def forward(self, tokens):
        x = self.tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def rows_of(model):
    names = [name for name, _ in model.named_parameters() if ".joint." in name or ".conv." in name]
    return {name: {"up": ((0, D),), "gates": ((D, D + GATES),)} for name in names}


def recorded(model, rows=None):
    optimizer = torch.optim.AdamW(model.parameters(), lr=2**-8, eps=1e-12)
    recorder = Recorder(model, optimizer, width=D, rows=rows)
    train(model, optimizer, tokens(vocab=VOCAB, shape=(2, 9)), 3, recorder, loss=loss_of)
    rows = recorder.sizes.rows
    return {(row.step, row.site, row.layer, row.kind, row.stat): row.values[0] for row in rows}, recorder


PLACES = {
    "joint.weight rows up": "up.weight", "joint.weight rows gates": "gates.weight",
    "conv.weight rows up": "conv_up.weight", "conv.weight rows gates": "conv_gates.weight",
}  # fmt: skip


@pytest.mark.parametrize("how", ["linear", "matmul", "slices"])
def test_rows_of_a_fused_weight_are_measured_as_weights_of_their_own(how):
    torch.manual_seed(0)
    apart, fused = Net("apart").double(), Net(how).double()
    with torch.no_grad():
        fused.tokens.weight.copy_(apart.tokens.weight)
        fused.head.weight.copy_(apart.head.weight)
        for one, two in zip(fused.layers, apart.layers, strict=True):
            one.joint.weight.copy_(torch.cat([two.up.weight, two.gates.weight]))
            one.conv.weight.copy_(torch.cat([two.conv_up.weight, two.conv_gates.weight]))
    theirs, other = recorded(apart)
    ours, recorder = recorded(fused, rows_of(fused))
    compared = 0
    for (step, site, layer, kind, stat), value in ours.items():
        inner = PLACES.get(site.removeprefix("layers.*."))
        if inner is None or (kind == "diagnostic" and stat == "multiplier"):
            continue
        # float64; the same sums in another order
        assert value == pytest.approx(theirs[step, f"layers.*.{inner}", layer, kind, stat], rel=1e-9), (site, kind)
        compared += kind == "effective_update"
    assert compared == 2 * 4 * 2  # layers, parts, steps after 0
    assert not any(site.endswith((".joint.weight", ".conv.weight")) for _, site, *_ in ours)
    norms = [[step.grad_norm for step in each.steps] for each in (recorder, other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-9)


def test_rows_that_are_not_each_once_are_refused():
    model = Net("linear")
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(ValueError, match=r"rows of layers\.0\.joint\.weight are not each of its 28 rows once"):
        Recorder(model, optimizer, width=D, rows={"layers.0.joint.weight": {"up": ((0, D),), "gates": ((0, GATES),)}})


@pytest.mark.parametrize(("before", "behind"), [(0.5, 1.0), (1.0, 0.25), (0.5, 0.25)])
def test_numbers_before_and_behind_a_weight_count_in_what_a_new_one_makes(before, behind):
    class Scaled(Net):
        def forward(self, tokens):
            return self.head(torch.tanh(self.tokens(tokens)) * before) * behind

    model = Scaled("linear")
    found, _ = recorded(model)
    gain = float(model.head.weight.detach().square().mean().sqrt()) * D**0.5 * before * behind
    # three steps later, each of 2^-8 of a weight of 0.1
    assert found[0, "head.weight", -1, "weight_gain", "rms"] == pytest.approx(gain, rel=0.2)
