"""Faults of user code, planted in a transformer with muP by hand: each caught, and the parameter named."""

import re

import pytest
import torch
from own_models import SETTINGS, Transformer, adamw, split
from torch import nn

import mupcheck
from mupcheck.audit.run import Plan, audit
from mupcheck.audit.user_file import model_of

WIDTHS, BASE, LR = (32, 64, 128), 32, 2**-10


def build(width, **options):
    return Transformer(width, **{"mup": True, "base": BASE, **options})


def judged(tmp_path, build=build, optimizer=adamw, widths=WIDTHS, seeds=4, top_up=False, **given):
    user = model_of({"build": build, "optimizer": optimizer, **given}, name="mine")
    audit(Plan(user, widths, tuple(range(seeds)), out=tmp_path, top_up=top_up))
    (judgement,) = mupcheck.judge(mupcheck.load_results(tmp_path))
    return judgement


def said(judgement):
    return "\n".join([judgement.reason, *map(str, judgement.causes), *map(str, judgement.findings)])


# --- right ones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"tied": True}, {"layers": 1}, {"frozen": True}, {"zero": True}],
    ids=["untied", "tied", "one layer", "frozen", "zero readout"],
)
def test_mup_by_hand_passes(tmp_path, options):
    frozen, zero = options.pop("frozen", False), options.pop("zero", False)

    def make(width):
        model = build(width, **options)
        if frozen:
            model.layers[0].q.requires_grad_(False)
        if zero:
            nn.init.zeros_(model.head.weight)
        if options.get("tied"):
            nn.init.normal_(model.head.weight, std=0.5)
        return model

    judgement = judged(tmp_path, make, top_up=True)
    assert judgement.verdict == "pass", said(judgement)
    assert judgement.counts["pass"] > 15


def test_sgd_by_hand_passes(tmp_path):
    """SGD: hidden lr 1, all vector-like and the ends m (TP-V Table 8, logits over m)."""

    def optimizer(model):
        hidden, rest = split(model)
        return torch.optim.SGD([{"params": hidden, "lr": 0.125}, {"params": rest, "lr": 0.125 * model.m}])

    judgement = judged(tmp_path, optimizer=optimizer)
    assert judgement.verdict != "fail", said(judgement)


# --- wrong ones -------------------------------------------------------------------------------------------------------


def one_lr(model):
    return torch.optim.AdamW(model.parameters(), lr=LR, **SETTINGS)


def grouped(*moved, to="hidden", without=()):
    """Return an optimizer with some parameters in the wrong group, and some in none."""

    def optimizer(model):
        hidden, rest = split(model)
        ids = {id(p) for name, p in model.named_parameters() if any(name.endswith(end) for end in moved)}
        lost = {id(p) for name, p in model.named_parameters() if any(part in name for part in without)}
        groups = {"hidden": hidden, "rest": rest}
        other = "rest" if to == "hidden" else "hidden"
        groups[to] = groups[to] + [p for p in groups[other] if id(p) in ids]
        groups[other] = [p for p in groups[other] if id(p) not in ids]
        lrs = {"hidden": LR / model.m, "rest": LR}
        return torch.optim.AdamW(
            [{"params": [p for p in of if id(p) not in lost], "lr": lrs[name]} for name, of in groups.items()],
            **SETTINGS,
        )

    return optimizer


def one_layer_lr(model):
    optimizer = adamw(model)
    mine = [p for p in model.layers[1].parameters() if p.dim() == 2]
    ids = {id(p) for p in mine}
    optimizer.param_groups[0]["params"] = [p for p in optimizer.param_groups[0]["params"] if id(p) not in ids]
    optimizer.add_param_group({"params": mine, "lr": LR})
    return optimizer


class Overwrites:
    """A scheduler that sets one lr for all groups."""

    def __init__(self, optimizer):
        self.optimizer, self.steps = optimizer, 0

    def step(self):
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = LR / (1 + 0.1 * self.steps)


def scheduled(model):
    optimizer = adamw(model)
    return optimizer, Overwrites(optimizer)


def twice(model):
    hidden, rest = split(model)
    return [
        torch.optim.AdamW([*hidden], lr=LR / model.m, **SETTINGS),
        torch.optim.AdamW([*rest, hidden[0]], lr=LR, **SETTINGS),
    ]


def loud(width):
    model = build(width)
    nn.init.normal_(model.layers[0].o.weight, std=0.2)
    return model


def std_002(width):
    model = build(width, mup=False)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.1)
    return model


def forgotten_head(width):
    """Its logits are not over m."""
    model = build(width)
    model.m = 1.0
    model.width_factor = width / BASE
    return model


def hidden_over(model):
    hidden, rest = split(model)
    by = getattr(model, "width_factor", model.m)
    return torch.optim.AdamW([{"params": hidden, "lr": LR / by}, {"params": rest, "lr": LR}], **SETTINGS)


TOO_SMALL, TOO_LARGE = (r"lr too small by m\^\+1", r"lr too large by m\^\+1")
NARROW = {"build": lambda width: build(width, mup=False), "optimizer": one_lr}
FAULTS = {
    "one lr": (NARROW, rf"layers\.\*\.\w+.* {TOO_LARGE}"),
    "embedding in the hidden group": (
        {"optimizer": grouped("embedding.weight")}, rf"^embedding: effective update falls as m\^-1.0: {TOO_SMALL}"
    ),
    "head in the hidden group": (
        {"optimizer": grouped("head.weight")}, rf"^head: effective update falls .* {TOO_SMALL}"
    ),
    "head forgotten": (
        {"build": forgotten_head, "optimizer": hidden_over}, rf"^head: effective update grows .* {TOO_LARGE}"
    ),
    "norms in the hidden group": (
        {"optimizer": grouped("norm1.weight")}, r"^layers\.\*\.norm1: .* \(2 of 2 layers\): lr too small"
    ),
    "biases in the hidden group": ({"optimizer": grouped("up.bias")}, rf"^layers\.\*\.up\.bias: .*{TOO_SMALL}"),
    "a projection at the lr of vectors": (
        {"optimizer": grouped("down.weight", to="rest")}, rf"^layers\.\*\.down: .* grows .* {TOO_LARGE}"
    ),
    "a layer in no group": (
        {"optimizer": grouped(without=["layers.1."])}, r"^layers\.\*\..* in layer 1 is in no param group"
    ),
    "the embedding in no group": ({"optimizer": grouped(without=["embedding"])}, r"^embedding is in no param group"),
    "a layer with an lr of its own": (
        {"optimizer": one_layer_lr}, r"^layers\.\*\.\w+.* in layer 1: lr goes as m\^0, in the other layers as m\^-1"
    ),
    "a scheduler that overwrites": (
        {"optimizer": scheduled}, r"lr goes as m\^-1 at the first step and as m\^0 at step 1"
    ),
    "stepped twice": ({"optimizer": twice}, r"^layers\.\*\.q in layer 0 is in two param groups"),
    "init of one matrix not scaled": (
        {"build": loud}, r"layers\.\*\.o: what a new weight makes of its input .*layer 0.* std too large by m\^\+1/2"
    ),
    "one std everywhere": ({"build": std_002, "optimizer": one_lr}, TOO_LARGE),
    "coupled decay": (
        {"optimizer": lambda model: adamw(model, weight_decay=0.1)}, r"lr x weight decay goes as m\^-1"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_and_named(tmp_path, fault):
    given, expected = FAULTS[fault]
    judgement = judged(tmp_path, **given)
    assert judgement.verdict == "fail", said(judgement)
    first = [judgement.reason, *(str(cause) for cause in judgement.causes)]
    assert any(re.search(expected, line) for line in first), said(judgement)
    assert not (fault == "one lr" and re.search("init", judgement.reason))


def test_what_nobody_can_see_is_no_pass(tmp_path):
    class Hiding(Transformer):
        """A weight that is squared before it is used, as kernels of one's own hide theirs."""

        def __init__(self, width):
            super().__init__(width, mup=True, base=BASE)
            self.hidden = nn.Parameter(torch.randn(width, width) / width)

        def forward(self, tokens):
            return super().forward(tokens) + 2**-10 * (self.hidden * self.hidden).sum()

    judgement = judged(tmp_path, Hiding, top_up=True)
    assert judgement.verdict == "cannot tell"
    assert re.search("hidden: no operation that uses it was seen", said(judgement))


def test_what_nothing_uses_is_said(tmp_path):
    class Idle(Transformer):
        def __init__(self, width):
            super().__init__(width, mup=True, base=BASE)
            self.spare = nn.Linear(width, width)

    judgement = judged(tmp_path, Idle)
    assert "spare, spare.bias: no gradient arrives at it" in said(judgement)
