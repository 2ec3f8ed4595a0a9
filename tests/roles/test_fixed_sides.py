"""What has a fixed number of channels under heads that grow: how its gradients fall, and SGD's lr for it."""

from collections import defaultdict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mupcheck.roles.infer import infer_roles
from mupcheck.roles.settings import setting_of
from mupcheck.theory.rules_file import find_table

WIDTHS, SEEDS, HEAD, KEYS = (64, 128, 256, 512), 8, 16, 2


class Mixer(nn.Module):
    """Linear attention; keys of two heads at every width, values of heads that grow, a convolution before each."""

    def __init__(self, d):
        super().__init__()
        self.k_proj, self.v_proj = nn.Linear(d, KEYS * HEAD, bias=False), nn.Linear(d, d, bias=False)
        self.q_proj, self.o_proj = nn.Linear(d, KEYS * HEAD, bias=False), nn.Linear(d, d, bias=False)
        for name, n in (("q", KEYS * HEAD), ("k", KEYS * HEAD), ("v", d)):
            conv = nn.Conv1d(n, n, 4, groups=n, padding=3, bias=False)
            nn.init.normal_(conv.weight, std=0.5)
            setattr(self, f"{name}_conv1d", conv)
        self.k_bias = nn.Parameter(torch.zeros(KEYS * HEAD))

    def forward(self, x):
        def branch(name):
            y = getattr(self, f"{name}_proj")(x).mT
            return F.silu(getattr(self, f"{name}_conv1d")(y)[..., : x.shape[1]].mT)

        q, k, v = branch("q"), branch("k") + self.k_bias, branch("v")
        q, k, v = (y.unflatten(-1, (-1, HEAD)).transpose(1, 2) for y in (q, k, v))
        q, k = (F.normalize(y, dim=-1).repeat_interleave(v.shape[1] // KEYS, 1) for y in (q, k))
        return self.o_proj(F.rms_norm(torch.tril(q @ k.mT) @ v, (HEAD,)).transpose(1, 2).flatten(2))


class Net(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.embedding, self.norm1, self.norm2 = nn.Embedding(64, d), nn.RMSNorm(d), nn.RMSNorm(d)
        self.layers, self.head = nn.ModuleList([Mixer(d)]), nn.Linear(d, 64, bias=False)
        nn.init.normal_(self.head.weight, std=0.125)
        self.m = d / 64

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(self.norm2(x + self.layers[0](self.norm1(x)))) / self.m


def test_gradients_of_a_fixed_number_of_channels_add_up_over_heads_that_grow():
    """d^-1/2, a sum over d heads of terms of size 1/d with signs of their own; 1/d where the channels grow."""
    found = defaultdict(list)
    for width in WIDTHS:
        for seed in range(SEEDS):
            torch.manual_seed(1000 * seed + width)
            model, tokens = Net(width).double(), torch.randint(64, (1, 17))
            F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
            for name, parameter in model.layers[0].named_parameters():
                found[name, width].append(float(parameter.grad.square().mean().sqrt().log2()))
    means = {name: [sum(found[name, width]) / SEEDS for width in WIDTHS] for name, _ in found}
    slopes = {name: (3 * (y[3] - y[0]) + y[2] - y[1]) / 10 for name, y in means.items()}
    fixed = {"q_proj.weight", "k_proj.weight", "q_conv1d.weight", "k_conv1d.weight", "k_bias"}
    # 8 seeds, widths over a factor of 8: within 0.1
    assert slopes == pytest.approx({name: -0.5 if name in fixed else -1.0 for name in slopes}, abs=0.2)


@pytest.mark.parametrize(
    ("optimizer", "lrs"),
    [("sgd", {"k_proj": -0.5, "v_proj": 0, "k_conv1d": 0.5, "v_conv1d": 1}),
     ("adamw", {"k_proj": -1, "v_proj": -1, "k_conv1d": 0, "v_conv1d": 0})],
)  # fmt: skip
def test_their_lr_under_sgd_is_that_of_a_gate_and_of_its_scalars(optimizer, lrs):
    """dW x = lr dL/dz |x|^2 of a matrix, with |x|^2 ~ d; lr dL/dz of a filter: of order one with these."""
    slices = infer_roles(Net(256), Net(64))
    found = {each.name.split(".")[-2]: each for each in slices if each.name.startswith("layers.0.")}
    table = find_table("gdn-mup")
    given = {name: setting_of(found[name], table, optimizer=optimizer).lr for name in lrs}
    assert given == pytest.approx({name: 4.0**power for name, power in lrs.items()})
