"""More faults of user code, in a transformer, a Gated DeltaNet and a mixture: each caught, and the parameter named."""

import re

import pytest
import torch
from audited_models import (
    BASE,
    LR,
    Mixed,
    audited,
    gdn,
    hidden_and_rest,
    rows_of_mixed,
    said,
    times,
    transformer,
    under,
    width_of,
)  # fmt: skip
from torch import nn

SMALL, LARGE = r"lr too small by m\^\+1", r"lr too large by m\^\+1"
HALF = r"lr too large by m\^\+1/2"


class Over(nn.Linear):
    """A Linear whose outcome is divided by a number."""

    def forward(self, x):
        return super().forward(x) / self.m


def output_over_m(width):
    """The mixer's output times 1/m, as the paper's released code has it."""
    model = gdn()(width)
    for layer in model.layers:
        weight = layer.mixer.o_proj.weight
        layer.mixer.o_proj = Over(weight.shape[1], weight.shape[0], bias=False)
        layer.mixer.o_proj.weight, layer.mixer.o_proj.m = weight, width / BASE
    return model


def eps_of_norm(width):
    """An eps far above the mean square of what the delta rule gives, which falls as heads get wider."""
    model = gdn("head-dim")(width)
    for layer in model.layers:
        layer.mixer.o_norm.eps = 1.0
    return model


def scaled_twice(width):
    """A tied head whose logits are over m twice."""
    model = transformer(tied=True)(width)
    model.m = model.m**2
    return model


def loud_down(width):
    model = transformer()(width)
    for layer in model.layers:
        nn.init.normal_(layer.down.weight, std=0.1)
    return model


def loud_embedding(width):
    """Its output times sqrt(d), as of embeddings that are drawn with std d^-1/2 and are not here."""
    model = transformer()(width)

    class Times(nn.Embedding):
        def forward(self, tokens):
            return super().forward(tokens) * self.embedding_dim**0.5

    weight = model.embedding.weight
    model.embedding = Times(*weight.shape)
    model.embedding.weight = weight
    return model


class Reloads:
    """What loads the optimizer's groups of another width behind the first step."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        for group in self.optimizer.param_groups:
            group["lr"] = LR


def reloaded(model):
    optimizer = hidden_and_rest()(model)
    return optimizer, Reloads(optimizer)


def muon_of_fused(model):
    """Muon takes q, k, v and gates of one weight for one matrix."""
    ids = {id(p) for layer in model.layers for p in (layer.in_proj.weight,)}
    rest = under(Mixed, "mup", roles=rows_of_mixed)(model)
    for group in rest.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in ids]
    mine = [p for p in model.parameters() if id(p) in ids]
    return torch.optim.Muon(mine, lr=LR, weight_decay=0.0), rest


def loud_rows(width):
    """The rows of gates in a fused weight have one std at every width."""
    model = Mixed(width)
    for layer in model.layers:
        nn.init.normal_(layer.in_proj.weight[width:], std=0.2)
    return model


def without(*ends):
    def edit(groups, model, m):
        ids = {id(p) for name, p in model.named_parameters() if name.endswith(ends)}
        return [{**group, "params": [p for p in group["params"] if id(p) not in ids]} for group in groups]

    return edit


def one_width_off(model):
    """A special case for one width."""
    by = 4.0 if width_of(model) == 64 else 1.0
    return hidden_and_rest(lr=LR * by)(model)


def still(groups, model, m):
    """The lr of one layer's output projection is 0."""
    ids = {id(model.layers[0].low_a.weight)}
    found = [{**group, "params": [p for p in group["params"] if id(p) not in ids]} for group in groups]
    return [*found, {"params": [model.layers[0].low_a.weight], "lr": 0.0}]


def of_gdn(*moved):
    return gdn(), under(gdn(), edit=times(*moved))


def of_mixed(*moved, edit=None):
    return Mixed, under(Mixed, "mup", roles=rows_of_mixed, edit=edit or times(*moved))


MIXER = r"^layers\.\*\.mixer\."
FAULTS = {
    "short convolutions in the hidden group": (*of_gdn(-1, "conv1d.weight"), rf"{MIXER}[qkv]_conv1d: .* {SMALL}"),
    "gate scalars in the hidden group": (*of_gdn(-1, "A_log", "dt_bias"), rf"{MIXER}(A_log|dt_bias): .* {SMALL}"),
    "gates at the lr of vectors": (*of_gdn(1, "a_proj.weight", "b_proj.weight"), rf"{MIXER}[ab]_proj: .* {LARGE}"),
    "an output projection over m twice": (*of_gdn(-1, "o_proj.weight"), rf"{MIXER}o_proj: .* {SMALL}"),
    "the mixer's output over m": (output_over_m, under(gdn()), rf"{MIXER}o_proj: .* {SMALL}"),
    "a head norm's gain in the hidden group": (*of_gdn(-1, "o_norm.weight"), rf"{MIXER}o_norm: .* {SMALL}"),
    "the last norm in the hidden group": (*of_gdn(-1, "final_norm.weight"), rf"^final_norm: .* {SMALL}"),
    "a norm's eps": (eps_of_norm, under(gdn("head-dim"), "mup"), rf"{MIXER}o_proj: .* input falls"),
    "a tied head scaled twice": (
        scaled_twice, hidden_and_rest(-0.5), rf"^embedding as linear: effective update falls .* {SMALL}"
    ),
    "one std of a matrix in every layer": (
        loud_down, hidden_and_rest(), r"layers\.\*\.down: what a new weight makes .* std too large by m\^\+1/2"
    ),
    "an embedding times sqrt(d)": (loud_embedding, hidden_and_rest(), rf"^embedding: .* grows .* {HALF}"),
    "groups of another width loaded": (
        transformer(), reloaded, r"lr goes as m\^-1 at the first step and as m\^0 at step 1"
    ),
    "Adam's eps too large": (
        transformer(), hidden_and_rest(eps=1e-2), r"effective update falls .*: eps is .* of the gradient's rms"
    ),
    "SGD with AdamW's rule": (
        transformer(), hidden_and_rest(-1.0, 1.0, "sgd", lr=2**-2), rf"^layers\.\*\.\w+: .* falls .* {SMALL}"
    ),
    "SGD with one lr": (
        transformer(), hidden_and_rest(0.0, 0.0, "sgd", lr=2**-2),
        rf"^(embedding|head|norm|layers\.\*\.norm\d).* falls .* {SMALL}"
    ),
    "experts at the lr of vectors": (
        *of_mixed(1, "up_proj", "down_proj"), rf"^layers\.\*\.experts\.\w+_proj: .* grows .* {LARGE}"
    ),
    "a router at the lr of vectors": (*of_mixed(1, "router.weight"), rf"^layers\.\*\.router: .* {LARGE}"),
    "a low-rank gate's second matrix in the hidden group": (
        *of_mixed(-1, "low_b.weight"), rf"^layers\.\*\.low_b: .* {SMALL}"
    ),
    "positions in the hidden group": (*of_mixed(-1, "positions.weight"), rf"^positions: .* {SMALL}"),
    "biases of convolutions in the hidden group": (*of_mixed(-1, "conv.bias"), rf"^layers\.\*\.conv\.bias: .* {SMALL}"),
    "a fused weight in no group": (
        *of_mixed(edit=without("layers.1.in_proj.weight")), r"^layers\.\*\.in_proj in layer 1 is in no param group"
    ),
    "an lr of 0": (*of_mixed(edit=still), r"^layers\.\*\.low_a\S* in layer 0 has lr 0 at every recorded step"),
    "one std of some rows": (
        loud_rows, under(Mixed, "mup", roles=rows_of_mixed, rescale=False),
        r"^layers\.\*\.in_proj rows gates: what a new weight makes .* std too large by m\^\+1/2",
    ),
    "fused rows under one Muon": (Mixed, muon_of_fused, rf"in_proj rows gates: .* \(2 of 2 layers\): {HALF}"),
    "another lr at one width": (transformer(), one_width_off, r"width 64 is off by x[34]"),
}  # fmt: skip


# of which few seeds leave more than one layer's slope open; the command adds seeds by itself
NOISY = {
    "a norm's eps": {"seeds": 8},
    "fused rows under one Muon": {"widths": (32, 128, 512), "seeds": 6},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught_and_named(tmp_path, fault):
    build, optimizer, expected = FAULTS[fault]
    options = NOISY.get(fault, {})
    judgement = audited(
        tmp_path, build, optimizer, roles=rows_of_mixed if build in (Mixed, loud_rows) else None, **options
    )
    assert judgement.verdict == "fail", said(judgement)
    first = [judgement.reason, *(str(cause) for cause in judgement.causes)]
    assert any(re.search(expected, line) for line in first), said(judgement)
